//! From a socket to a request: bind, accept, look at the first bytes, terminate TLS, speak HTTP.
//!
//! ```text
//!  set ── binds ──► accept ──► server ─┬─ client ──────► TLS or plain ─┬─► http1 ──► HttpProxy
//!                                      ├─ virtual_port ─► HTTP or bytes│     └─► forward_proxy
//!                                      └─ east_west ──► by SNI, ALPN ──┴─► http2 ──► HttpProxy
//!                                            └─► handed over raw (federation, join)
//! ```
//! Nothing here knows routes or endpoints. Every wait for a stranger has a deadline.

use std::time::Duration;

pub mod accept;
pub mod bind;
mod client;
pub mod client_hello;
pub mod east_west;
mod handshakes;
mod http1;
mod http2;
pub mod opening;
mod server;
mod set;
mod shared_proxy;
mod virtual_port;

pub use accept::Room;
pub use east_west::{HANDOVERS_MAX, HandedOver, Handover, Service};

pub(crate) use http1::serve as serve_http;
pub(crate) use http2::abuse;
pub(crate) use server::{Purpose, Server};
pub(crate) use set::{ListenerSet, Port, wanted};
pub(crate) use shared_proxy::shared_proxy;

/// For a whole TLS handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// A client that takes no byte of an answer for so long is gone, and holds up memory (U3).
const WRITE_STALL_MAX: Duration = Duration::from_secs(300);
/// A drain waits so long for whoever has connected, or was told before that the connection stays open: what
/// they say now is answered, and only then they hear that it ends. Else their request would meet a closed
/// connection, and not every client may send it again.
const LINGER: Duration = Duration::from_secs(2);
