//! The one immutable view that the data plane and DNS read.
//!
//! The catalog publishes a new `Arc<Snapshot>` for each real change; a request loads it once and uses
//! it to its end. Parts that did not change are shared with the generation before. Live state (health
//! of links, requests in flight, outliers) is not in here: its owners are in the gateway, and it is
//! joined with the snapshot at the moment of a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use trust_bundle::TrustDomain;

use crate::model::{
    ClusterName, Endpoint, Export, Freshness, HttpRoute, Import, Listener, Locality, Peer, Service,
    ServiceKind, ServiceName, ServicePort,
};

/// Number of a snapshot; only grows, also over the lives of the processes that make them: the epoch of
/// the leader counts the billions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Everything that a request, a connection or a DNS query can ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub generation: Generation,
    pub cluster: Arc<LocalCluster>,
    pub services: BTreeMap<ServiceName, Arc<ServiceView>>,
    pub peers: BTreeMap<ClusterName, Arc<PeerView>>,
    /// The listeners of `Gateway` objects, with the routes attached to each.
    pub listeners: Vec<Arc<ListenerView>>,
}

/// This cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalCluster {
    pub name: ClusterName,
    pub trust_domain: TrustDomain,
    pub locality: Locality,
    /// Gateways that serve for it, as far as they have been counted: peers keep links to several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateways: Option<u32>,
}

/// A service as this cluster sees it: its own, the merged one, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    pub name: ServiceName,
    pub local: Option<LocalService>,
    /// Exists where the service is exported here or imported.
    pub merged: Option<MergedService>,
}

/// A service of this cluster with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalService {
    pub service: Service,
    /// In a fixed order, so that equal content is equal.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    pub export: Option<Export>,
}

/// The service that `<svc>.<ns>.svc.clusterset.local` names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergedService {
    pub kind: ServiceKind,
    /// The union over contributors; the oldest export wins a conflict.
    pub ports: Vec<ServicePort>,
    /// Whether this cluster contributes its own endpoints.
    pub exported_here: bool,
    /// Contributions of peers that are merged into the name, by cluster name.
    pub imports: Vec<Arc<Import>>,
    /// One address for each address family and gateway replica; empty where no address could be had.
    pub addresses: Vec<IpAddr>,
}

/// A peer with what this cluster offers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerView {
    pub peer: Peer,
    pub freshness: Freshness,
    /// Services that this peer may reach; everything else is as if it did not exist (T8).
    pub exported_to: BTreeSet<ServiceName>,
    /// Everything it offers us, merged or not: what pinned names (`isthmus.internal`) lead to.
    pub imports: BTreeMap<ServiceName, Arc<Import>>,
}

/// A listener of a `Gateway` and the routes attached to it, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerView {
    pub listener: Listener,
    pub routes: Vec<Arc<HttpRoute>>,
}

impl Snapshot {
    /// What a process holds before its sources have spoken.
    pub fn empty(cluster: Arc<LocalCluster>) -> Self {
        Self {
            generation: Generation::default(),
            cluster,
            services: BTreeMap::new(),
            peers: BTreeMap::new(),
            listeners: Vec::new(),
        }
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceView>> {
        self.services.get(name)
    }

    /// Is a service offered to a peer; false too where it does not exist.
    pub fn is_exported_to(&self, service: &ServiceName, peer: &ClusterName) -> bool {
        self.peers.get(peer).is_some_and(|view| view.exported_to.contains(service))
    }
}

impl LocalService {
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.service.ports.iter().find(|port| port.port == number)
    }
}

impl MergedService {
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}
