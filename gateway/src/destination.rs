//! What routing ends in: a service, which of its clusters count, and one of its ports.
//!
//! A destination borrows nothing and copies little: it holds the service as the snapshot of its request
//! has it. Its key outlives the snapshot, for whoever must find the same destination in a later one.

use std::fmt;
use std::sync::Arc;

use federation::model::{ClusterName, ServiceName, ServicePort};
use federation::snapshot::ServiceView;

/// Where a request or a connection is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub service: Arc<ServiceView>,
    pub scope: Scope,
    pub port: ServicePort,
}

/// Whose endpoints of a service count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Only this cluster's own: `cluster.local`, a core `Service`, and everything that comes over a link.
    Local,
    /// All contributors: `clusterset.local`, a `ServiceImport`, a virtual address.
    Merged,
    /// One peer's: `<svc>.<ns>.<cluster>.isthmus.internal`.
    Cluster(ClusterName),
}

/// What a destination is called, whichever snapshot it is looked up in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationKey {
    pub service: ServiceName,
    pub scope: Scope,
    pub port: u16,
}

impl Destination {
    pub fn name(&self) -> &ServiceName {
        &self.service.name
    }

    pub fn key(&self) -> DestinationKey {
        DestinationKey { service: self.service.name.clone(), scope: self.scope.clone(), port: self.port.port }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Merged => f.write_str("merged"),
            Self::Cluster(cluster) => fmt::Display::fmt(cluster, f),
        }
    }
}

impl fmt::Display for DestinationKey {
    /// Writes `<svc>.<ns>:<port>`, with the cluster where one is pinned.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        match &self.scope {
            Scope::Merged => Ok(()),
            scope => write!(f, "@{scope}"),
        }
    }
}
