//! Every link between this gateway and those of peers, and the streams on it.
//!
//! ```text
//!  snapshot, trust ─► links ─► keeper (one a peer) ─► plan ─► dial ─► establish ─► drive (one a link)
//!                                   │ publishes                     hello ┘         │ probes, goodbyes
//!  request ─► upstream/ ─► links ─► lender ─► line: borrow a stream           path ◄┘
//!  a peer's gateway ─► listener/ ─► accepted: answers probes, says what is ready
//! ```
//!
//! Whoever borrows a stream never dials; whoever dials never sees a request. Links are replaced before
//! they are too old and before they are closed, so that no request notices (make before break). A link
//! whose peer is removed, or trusted no longer, is cut at once, whoever dialled it.

mod accepted;
mod age;
mod control;
mod dial;
mod drive;
mod establish;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keeper;
mod lender;
mod line;
mod links;
mod message;
mod path;
mod plan;
mod status;
mod tunnel;

pub use accepted::cut_when_expired;
pub use control::CONTROL_PATH;
pub use dial::{ALPN_HTTP, ALPN_TUNNEL, Protocol, server_name};
pub use lender::{HttpStream, NoStream};
pub use line::{Condition, Loan};
pub use links::{LinkParts, Links};
pub use message::{InvalidReplicaId, ReplicaId, ServiceReadiness};
pub use status::{AcceptedLink, DialledLink, PeerStatus};
pub use tunnel::{BorrowedTunnel, OpenFault};

#[cfg(test)]
mod tests;
