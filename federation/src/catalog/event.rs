//! What can happen to the catalog. Every source speaks this one language.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{
    ClusterName, Endpoint, Freshness, HttpRoute, Import, Label, Listener, ObjectKey, Peer, Service,
    ServiceName, Timestamp,
};

/// One change, from whichever source.
#[derive(Debug, Clone)]
pub enum Event {
    /// An object was created or changed.
    ObjectApplied {
        source: Source,
        key: ObjectKey,
        created: Timestamp,
        object: Object,
    },
    ObjectRemoved {
        source: Source,
        key: ObjectKey,
    },
    /// A relationship began, or what is agreed in it changed.
    PeerChanged(Peer),
    /// A relationship ended: everything of the peer goes.
    PeerRemoved(ClusterName),
    /// All that a peer exports to us, in place of what was known.
    ImportsReplaced {
        peer: ClusterName,
        imports: BTreeMap<ServiceName, Arc<Import>>,
    },
    ImportChanged(Arc<Import>),
    ImportRemoved {
        peer: ClusterName,
        service: ServiceName,
    },
    FreshnessChanged {
        peer: ClusterName,
        freshness: Freshness,
    },
    /// An allocation was made durable, or read back at start.
    AddressesAllocated {
        service: ServiceName,
        addresses: Vec<IpAddr>,
    },
}

/// Who owns an object; a second owner of the same object is refused and told who the first is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A document in the configuration directory: path below it, and line.
    File { path: Arc<str>, line: u32 },
    /// `isthmus apply`.
    Applied,
}

/// A configuration object in the words of the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Service(Service),
    Endpoints(EndpointSlice),
    Export(ServiceName),
    Gateway(Vec<Listener>),
    HttpRoute(HttpRoute),
}

/// Endpoints of one service; a service has all those of all its slices.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    pub service: ServiceName,
    pub namespace: Label,
    pub endpoints: Vec<Arc<Endpoint>>,
}
