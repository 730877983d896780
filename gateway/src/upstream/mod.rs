//! From a chosen target to a connection that a request can be sent on.
//!
//! ```text
//!   target ─► Upstream::peer_for ─► HttpPeer ─► pingora ─┬─► its own pools: HTTP/1.1 and h2c endpoints
//!                                                        └─► LinkConnector: a stream on a link, or a
//!                                                            fresh connection for a WebSocket upgrade
//! ```
//!
//! Nobody else makes an `HttpPeer`: what a pool may mix up is decided here. Mutual TLS to a peer never
//! goes through pingora's own TLS (notes/pingora 2.1); it is the business of `link/`.

mod connector;
mod peer;
mod resolver;
mod session;
mod upgrade;

pub use connector::LinkConnector;
pub use peer::{Speaking, Upstream};
pub use resolver::{Resolver, Unresolved};
pub use session::{LinkSession, was_unprocessed};
