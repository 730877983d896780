//! The composition root of the control plane: builds every part, connects them, owns their tasks.
//!
//! ```text
//!  federation   as long as the process lives: CA and our SVIDs, the signer, what gateways report,
//!     │         the channels to gateways, the operator's handle
//!     ▼
//!  office       as long as the store is open: who leads; in an embedded store always this process
//!     │
//!     ▼
//!  term         as long as this process leads: catalog, directory, applied documents, peering
//! ```
//!
//! Nothing here decides anything. `Federation::build` opens what is on this machine and starts nothing;
//! `run` works until it is told to stop and returns when every task has ended. A store that does not
//! answer is waited for, and what gateways were told last stays valid meanwhile.

mod federation;
mod office;
mod store_watch;
mod term;

#[cfg(test)]
mod tests;

pub use federation::{Federation, FederationDeps, Handles, LocalGateway, StartError, StoreSource};
pub use store_watch::{StoreCondition, StoreStatus};

pub use crate::operator::{FederationStatus, Invitation, Office, Operator, OperatorError, Vacancy};
