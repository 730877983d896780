//! What is missing on this host: facts are gathered, judged as data, and said with cause and next step.
//!
//! ```text
//!  configuration ─► gather (files, /proc, sockets, resolver, systemd, admin API) ─► Facts
//!                                                                          checks ─┘ ─► Findings
//! ```
//! Nothing is changed and nothing is guessed: what cannot be found out is not judged. `checks` decides
//! and touches nothing; `gather` touches the host and decides nothing.

pub mod checks;
pub mod facts;
pub mod finding;
pub mod gather;

pub use checks::judge;
pub use facts::Facts;
pub use finding::{Finding, Verdict};
