//! The certificate authority of this cluster: who signs our SVIDs.
//!
//! ```text
//!   CSR ──► request: only its public key ─┐
//!   SPIFFE ID, ttl, now ──► template ─────┴─► journal ──► Signer ──► chain
//! ```
//! A request decides nothing but the key: names, usages and lifetimes are ours (2.1). The journal is
//! durable before the signature is made, because retiring a root waits for the last certificate that
//! it signed (RT4). Rotation of the root will stand beside this module, not in it.

mod builtin;
mod journal;
mod request;
mod signer;
mod template;

pub use builtin::{BuiltinCa, CaError, CaSettings, IssueError};
pub use journal::InvalidJournal;
pub use request::{CSR_BYTES_MAX, InvalidRequest};
pub use signer::{Signer, SignerFailed};
pub use template::NoValidity;

#[cfg(any(test, fuzzing))]
pub(crate) use request::public_key;

#[cfg(test)]
mod tests;
