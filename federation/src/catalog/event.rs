//! What can happen to the catalog. Every source speaks this one language.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::Condition;
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
    /// An allocation was made durable, or read back at start; empty where none could be had.
    AddressesAllocated {
        service: ServiceName,
        addresses: Vec<IpAddr>,
    },
    /// The service's address was given to another, after no cluster named the service any more.
    AddressesReleased(ServiceName),
    /// Who contributed first to a name was made durable, or read back at start (T5).
    NameClaimed {
        service: ServiceName,
        peer: ClusterName,
    },
    /// Nobody contributes to the name any more, and its first contributor need not be remembered.
    NameReleased(ServiceName),
    /// So many gateways serve for this cluster.
    GatewaysCounted(u32),
}

/// Who owns an object; a second owner of the same object is refused and told who the first is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A document in the configuration directory: path below it, and line.
    File { path: Arc<str>, line: u32 },
    /// `isthmus apply`.
    Applied,
    /// A peer's export, as it is known here.
    Peer(ClusterName),
}

impl Source {
    /// A document that moved to another line of its file is still the same owner.
    pub(super) fn is_same_owner(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { path: a, .. }, Self::File { path: b, .. }) => a == b,
            (a, b) => a == b,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Applied => f.write_str("`isthmus apply`"),
            Self::Peer(peer) => write!(f, "peer {peer}"),
        }
    }
}

/// A configuration object in the words of the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Service(Service),
    /// A `Service` that is only an alias of a host name; it has no endpoints and cannot be exported.
    ExternalName(ServiceName),
    Endpoints(EndpointSlice),
    Export(ServiceName),
    Gateway(Gateway),
    HttpRoute(Route),
}

/// Endpoints of one service; a service has all those of all its slices.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    pub service: ServiceName,
    pub namespace: Label,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// A `Gateway`: the listeners that we can serve, and what we cannot.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    pub listeners: Vec<GatewayListener>,
    /// Found while reading; a fault with a section is one listener's.
    pub faults: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GatewayListener {
    pub listener: Listener,
    pub routes_from: RoutesFrom,
}

/// From which namespaces routes may attach to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutesFrom {
    SameNamespace,
    AllNamespaces,
    Nowhere,
}

/// An `HTTPRoute`, and what of it we cannot serve.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub route: HttpRoute,
    /// Found while reading. `Accepted` without a section keeps the route from being attached.
    pub faults: Vec<Condition>,
}
