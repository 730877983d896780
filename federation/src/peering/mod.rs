//! What clusters tell each other, and how they come to know and to believe each other.
//!
//! ```text
//!  handed-over connections ─► server ─┬─► stream ─► imports ─► store, catalog
//!  peers' addresses ◄─ dialler ───────┘     ▲
//!                      join ◄─ tokens       └── exports(snapshot, peer), our bundle, our gateways
//!                        └─► relationships      membership ◄─ progress of streams, path of links
//! ```
//! Each pair of clusters has a relationship that began with one token (`join`), and one stream for as
//! long as both are up. Peers never share a store: what is exported to a peer is computed for it and
//! sent, what it exports is judged, stored and told to the catalog. Nothing here waits for a peer at
//! start, and nothing here carries traffic: without any stream everything goes on with what is known.

pub mod addresses;
pub mod conversation;
pub mod exports;
pub mod imports;
pub mod join;
pub mod membership;
pub mod records;
pub mod seat;
pub mod wire;

pub(crate) mod dial;
mod dialler;
mod handle;
pub(crate) mod io;
mod peers;
mod relationships;
mod server;
mod stream;
mod us;

#[allow(warnings, clippy::all, clippy::allow_attributes_without_reason, clippy::unwrap_used, reason = "generated")]
#[rustfmt::skip]
pub(crate) mod proto;

#[cfg(test)]
mod tests;

pub use handle::{BuildError, PeerStatus, Peering, PeeringTasks, Removal, RemoveError};
pub use io::{HandedOver, Io, PeeringService};
pub use join::{InviteError, JoinError, TokenError, TokenView};
pub use relationships::LoadError;
pub use server::HANDED_OVER_MAX;
pub use us::{Deps, Settings};
