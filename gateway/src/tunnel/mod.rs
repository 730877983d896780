//! Byte streams between clusters: CONNECT over a link, one stream for one connection.
//!
//! ```text
//!  virtual port, CONNECT of a client ─► open: pick ─► endpoint
//!                                                  └► stream on a link ═══► serve: export check
//!                                                            endpoint ◄─ open: pick ◄┘ └► HTTP path
//! ```
//! Which path a stream takes is decided by the destination's port, never by the kind of stream.

mod carry;
mod copy;
mod open;
mod serve;
mod stream;

pub use stream::Tunnel;

pub(crate) use carry::{Errand, carry};
pub(crate) use serve::serve;
