//! The peering stream: what two clusters tell each other for as long as their relationship lasts.
//!
//! ```text
//!   Hello ⇄ Hello                      who, which life, what is held of each other
//!   send:    bundle, gateways, then everything or the steps since what is held; changes; heartbeats
//!   receive: judge ─► make durable ─► tell catalog and membership ─► acknowledge
//! ```
//! There is one stream for each pair of clusters, whoever dialled it (`seat`). Both halves run side by
//! side, so that two peers that have much to say never wait for each other. A stream ends at a message
//! boundary: what was begun to be stored is stored, and told. It ends before the certificates that it
//! was authenticated with do; the dialler has made the next one by then.

mod bundle;
mod hello;
mod persist;
mod receive;
mod replies;
mod send;
mod session;

use std::time::Duration;

pub(super) use hello::{hear, say};
pub(super) use session::{Line, Session, StreamEnd};

/// The largest message (notes/trust 4.4).
pub(super) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Messages that wait for the connection; more would only hide that the peer is slow.
pub(super) const OUTBOUND_MAX: usize = 32;
/// How long each side has for its first message.
pub(super) const HELLO_TIME: Duration = Duration::from_secs(5);
