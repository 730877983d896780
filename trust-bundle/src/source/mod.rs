//! Where our own SVID lives, and when it is due for renewal.
//!
//! The round trip of a signing request belongs to whoever has the connection to the CA; files and the
//! SPIRE Workload API will stand here beside it as further sources.

mod handle;
pub mod renewal;

pub use handle::SvidHandle;
