//! DNS for both zones, answered from the snapshot.
//!
//! ```text
//!  bytes ─► wire ─► zone: what does the name name? ─► answer: what is known of it ─► wire ─► bytes
//! ```
//! `clusterset.local` answers by the MCS rules (notes/conformance 4.4): one address for a merged service, all
//! ready endpoints for a headless one, a name for each endpoint, SRV for ports.
//!
//! `isthmus.internal` names one cluster's part of a service. Such names exist but have no address: the only
//! address that a service has here leads to the merged one, which is not what was asked for. They are for
//! HTTP on the mesh listener and its forward proxy, where the name itself arrives.
//!
//! An import that is stale keeps its answer; the gateway then says why nobody is there. There is no
//! recursion and no other zone: everything else is refused. A change shows within the TTL.

mod answer;
mod name;
mod server;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wire;
mod zone;

pub use answer::{Answer, Code, Kind, Question, Record, TTL_SECONDS, Value, answer};
pub use name::QueryName;
pub use server::{Server, TCP_CLIENTS_MAX, bind};
pub use wire::{Carrier, respond};
pub use zone::Zone;
