//! The directory of Kubernetes-shaped YAML documents, watched.
//!
//! ```text
//!  notify ──► wait for quiet ─┐
//!  every 2 s ─────────────────┴─► scan: stamps, changed files ─► documents: what differs ─► Events
//! ```
//! Each pass reads what is there and compares it with what was told, so an event of the file system
//! only wakes us: a lost one costs two seconds. What turned bad keeps its last good state and is
//! reported; what is gone is believed once it was gone, or unchanged, in two passes, since editors and
//! `cp` truncate before they write.

mod documents;
mod problem;
mod scan;
mod source;
#[cfg(test)]
mod tests;

pub use problem::{Problem, Problems, Severity};
pub use source::DirectorySource;
