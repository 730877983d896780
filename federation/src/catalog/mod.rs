//! From what every source says to the one snapshot: pure, one writer.
//!
//! ```text
//!  Event ─► Catalog::apply ─► objects, services, peers   (state, and what it touches is dirty)
//!           Catalog::settle ─► admission ─► merge ─► backends ─► listeners   (only what is dirty)
//!           Catalog::snapshot ─► Arc<Snapshot>, sharing all that did not change
//! ```
//! The catalog decides from its state and never from the order of events: any interleaving of the
//! same sources ends in the same snapshot. What must outlive the process (addresses, who was first
//! to contribute to a name) is asked for as an effect and comes back as an event.

mod addresses;
mod admission;
mod apply;
mod backends;
mod claims;
mod driver;
mod event;
mod listeners;
mod loss;
mod memory;
mod merge;
mod objects;
mod peers;
mod rebuild;
mod recollection;
mod services;
mod status;
#[cfg(test)]
mod tests;

pub use addresses::{AddressPool, Allocation, InvalidPool, PoolExhausted};
pub use apply::{Catalog, Effects, NameClaim};
pub use driver::{CatalogDriver, CatalogHandle, KINDS, Loading, is_known_kind};
pub use event::{EndpointSlice, Event, Gateway, GatewayListener, Object, Route, RoutesFrom, Source};
pub use loss::{Cause, ENDPOINTS_MIN, Loss, Losses};
pub use recollection::{Owed, Recollection, Write};
pub use status::{Condition, ConditionKind, ObjectStatus, Verdict};
