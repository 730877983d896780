//! Services of this cluster, and what clusters offer each other.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ClusterName, Freshness, Label, Locality, ServiceName, ServicePort, Timestamp};

/// How a service is addressed (MCS `ServiceImportType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceKind {
    /// One address stands for all endpoints.
    ClusterSetIp,
    /// DNS answers the endpoints themselves.
    Headless,
}

/// A service that is defined in this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: ServiceName,
    pub kind: ServiceKind,
    pub ports: Vec<ServicePort>,
}

/// The decision to offer a service of this cluster to peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub service: ServiceName,
    /// Decides conflicts: the oldest export wins.
    pub created: Timestamp,
}

/// A peer's service as it is known here.
///
/// A peer never says where to dial (T6): it says how many ready endpoints it has in which place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub service: ServiceName,
    pub peer: ClusterName,
    pub kind: ServiceKind,
    pub ports: Vec<ServicePort>,
    /// As the peer says, but never older than the relationship with it.
    pub created: Timestamp,
    pub groups: Vec<ImportedGroup>,
    /// Only for headless services, and only for DNS answers.
    pub endpoints: Vec<ImportedEndpoint>,
    pub freshness: Freshness,
}

/// Ready endpoints of a peer in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedGroup {
    pub locality: Locality,
    pub ready: u32,
    pub weight: u64,
}

/// An address of a peer's headless service, to be told but never dialled by us.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImportedEndpoint {
    pub address: IpAddr,
    pub hostname: Option<Label>,
}

impl Import {
    pub fn ready(&self) -> u32 {
        self.groups.iter().fold(0, |sum, group| sum.saturating_add(group.ready))
    }
}
