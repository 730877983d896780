//! Which federation process of a cluster leads: the one that holds the lease at `control/leader`.
//!
//! ```text
//!            found nobody, or what nobody keeps
//!  campaign ───────────────────────────────────► lead: kept by a third of the lease's time
//!     ▲  ▲ └── found another: follow, look again when its key changes
//!     │  └─────────────── lease lost, or not confirmed in time, or a commit refused by the fence
//!     └── resigned: the lease is revoked, so that the next one leads at once
//! ```
//!
//! `election` decides and is pure; `Candidate` is the loop around it. What keeps a deposed leader from
//! writing is not the time but `store::Fenced`. An embedded store has one process and needs none of this.

mod candidate;
mod election;
mod epoch;

use serde::{Deserialize, Serialize};

use crate::model::{GatewayAddress, Label, Timestamp};
use crate::store::Stored;

pub use candidate::{Candidate, Lead, Lost};
pub use epoch::{GENERATIONS_PER_EPOCH, NoEpoch, first_generation, raise_epoch};

#[cfg(test)]
mod tests;

/// The process that leads, as it says itself at `control/leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// One life of one process.
    pub name: Label,
    /// Where gateways of other processes reach it; empty where it takes none.
    pub addresses: Vec<GatewayAddress>,
    pub since: Timestamp,
}

/// Who leads, as far as this process knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase", tag = "role")]
pub enum Leadership {
    /// Nobody is known to lead: the store has not answered yet, or no longer answers.
    #[default]
    Unknown,
    Following {
        leader: Leader,
    },
    Leading {
        leader: Leader,
    },
}

impl Stored for Leader {
    const KIND: &'static str = "leader";
}

impl Leadership {
    pub fn leader(&self) -> Option<&Leader> {
        match self {
            Self::Unknown => None,
            Self::Following { leader } | Self::Leading { leader } => Some(leader),
        }
    }

    pub fn is_leading(&self) -> bool {
        matches!(self, Self::Leading { .. })
    }
}
