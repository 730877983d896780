//! The words of design.md as types: what exists where, without saying how anybody learned it.
//!
//! Everything here is plain data that is valid by construction. The model knows no wire format, no
//! Kubernetes object and no store: each of those has types of its own and a `TryFrom` into these.
//! Nothing here reads a clock, blocks or fails other than while being made from text.

mod endpoint;
mod locality;
mod name;
mod network;
mod peer;
mod port;
mod route;
mod service;
mod timestamp;

pub use endpoint::{Endpoint, Host, InvalidHost, Readiness};
pub use locality::{Locality, Proximity};
pub use name::{ClusterName, InvalidName, Label, ObjectKey, ObjectName, ServiceName};
pub use network::Network;
pub use peer::{Freshness, GatewayAddress, InvalidAddress, Peer, RelationshipState};
pub use port::{AppProtocol, ServicePort, Transport};
pub use route::{
    Backend, BackendTarget, HeaderMatch, Hostname, HttpMatch, HttpRoute, HttpRule, InvalidHostname, Listener,
    ListenerProtocol, ParentRef, PathMatch,
};
pub use service::{Export, Import, ImportedEndpoint, ImportedGroup, Service, ServiceKind};
pub use timestamp::Timestamp;
