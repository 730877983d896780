//! The store of a cluster that has several federation processes: an etcd, reached over its v3 API.
//!
//! ```text
//! get, list, commit, lease ──► members: one connection each, the next one when one does not answer
//! watch ──► own stream ──► progress asked for when quiet ──► given up when silent, resumed elsewhere
//! ```
//!
//! Every call is bounded in time. What may have reached a member and changes something is never sent
//! twice: the caller gets a `Fault`, and a commit may have happened. Every answer is checked to come
//! from the etcd cluster that was opened, at no earlier revision than was seen (E18).
//!
//! Rules: notes/trust 7.3, E10-E18. `with_fragment` (E10) is not used: the client does not say which
//! part is the last, and a revision must not be torn. A catch-up too large for one message is told as
//! `Compacted`, after which the reader lists, which is paged.

mod fault;
mod files;
mod layout;
mod members;
mod open;
mod pages;
mod shared;
mod store;
mod transaction;
mod version;
mod watch;

pub use open::OpenError;
pub use store::Etcd;
pub use version::{ServerVersion, VersionVerdict};
