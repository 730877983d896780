//! What the balancer chooses among, and what it says about its choice.

use std::fmt;
use std::sync::Arc;

use federation::model::{ClusterName, Host, Locality, Proximity};
use serde::Serialize;

use super::InFlight;

/// Who gets the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One of this cluster's own endpoints.
    Endpoint { host: Host, port: u16, locality: Arc<Locality> },
    /// A peer, over a link; its gateway chooses the endpoint.
    Cluster(ClusterName),
}

/// Live state of the paths to peers, which only links know.
pub trait Reachability {
    fn state(&self, peer: &ClusterName) -> LinkState;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    Up,
    /// Up, but the peer asks for no new requests.
    Draining,
    Down,
}

/// The choice. While it is held, the request counts as in flight.
#[derive(Debug)]
pub struct Pick {
    pub target: Target,
    pub reason: Reason,
    /// Only filled by `explain`.
    pub rejected: Vec<(Target, Why)>,
    pub in_flight: InFlight,
}

/// What made a target eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Reason {
    pub tier: Tier,
    pub standing: Standing,
}

/// Where a target is; the order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    Own(Proximity),
    Peer(Proximity),
}

/// How much is expected of a target; the order is the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Healthy,
    /// Connecting to it failed lately.
    Failing,
    /// Terminating, or behind a link that drains.
    Draining,
    /// This request tried it already, and nothing else is left.
    Tried,
}

/// Why a target was not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    NotReady,
    /// Its weight is zero.
    NoWeight,
    /// It does not offer this port of the service.
    NoPort,
    NoReadyEndpoint,
    ImportExpired,
    LinkDown,
    LinkDraining,
    Draining,
    Failing,
    Tried,
    /// A nearer tier has a healthy target.
    FartherTier,
    /// As good as the chosen one; load and chance decided.
    NotDrawn,
}

/// Nobody can answer for a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct NoEndpoint {
    /// The first of all that were considered, up to a limit.
    pub rejected: Vec<(Target, Why)>,
}

impl NoEndpoint {
    fn message(&self) -> &'static str {
        let all = |why: &[Why]| self.rejected.iter().all(|(_, reason)| why.contains(reason));
        match () {
            () if self.rejected.is_empty() => "the service has no endpoints",
            () if all(&[Why::LinkDown]) => "no cluster with the service can be reached",
            () if all(&[Why::LinkDown, Why::ImportExpired]) => {
                "no cluster with the service can be reached, or was heard of lately"
            }
            () => "the service has no ready endpoint",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { host: Host::Ip(ip), port, .. } if ip.is_ipv6() => write!(f, "[{ip}]:{port}"),
            Self::Endpoint { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Cluster(cluster) => fmt::Display::fmt(cluster, f),
        }
    }
}
