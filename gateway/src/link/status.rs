//! What the admin API shows of links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use federation::model::{ClusterName, GatewayAddress};
use serde::Serialize;

use super::dial::Protocol;
use super::lender::Lender;
use super::line::{Condition, Lent, Line};
use super::message::ReplicaId;
use crate::balancer::LinkState;
use crate::clock;
use crate::connection::Facts;

/// The path to one peer, and the links on it.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    pub peer: ClusterName,
    pub state: LinkState,
    pub dialled: Vec<DialledLink>,
    pub accepted: Vec<AcceptedLink>,
}

/// A link that we dialled.
#[derive(Debug, Clone, Serialize)]
pub struct DialledLink {
    /// Its number in the registry of connections.
    pub id: u64,
    pub protocol: Protocol,
    pub address: GatewayAddress,
    pub remote: SocketAddr,
    pub replica: Option<ReplicaId>,
    pub condition: Condition,
    pub streams: usize,
    pub age_seconds: u64,
    pub round_trip_ms: Option<f64>,
}

/// A link that a peer's gateway opened, for HTTP.
#[derive(Debug, Clone, Serialize)]
pub struct AcceptedLink {
    pub id: u64,
    pub peer: ClusterName,
    pub remote: Option<SocketAddr>,
    #[serde(skip)]
    pub since: Instant,
}

impl PeerStatus {
    pub(super) fn of<'a>(lender: &Lender, accepted: impl Iterator<Item = &'a AcceptedLink>) -> Self {
        let now = clock::now();
        let http = lender.http.links();
        let tunnels = lender.tunnels.links();
        let lines = http.iter().map(Lent::line).chain(tunnels.iter().map(Lent::line));
        Self {
            peer: lender.peer.clone(),
            state: lender.state(),
            dialled: lines.map(|line| DialledLink::of(line, now)).collect(),
            accepted: accepted.filter(|link| link.peer == lender.peer).cloned().collect(),
        }
    }
}

impl DialledLink {
    fn of(line: &Arc<Line>, now: Instant) -> Self {
        Self {
            id: line.id(),
            protocol: line.protocol,
            address: line.address.clone(),
            remote: line.remote,
            replica: line.replica.get().cloned(),
            condition: line.condition(),
            streams: line.streams(),
            age_seconds: now.duration_since(line.opened).as_secs(),
            round_trip_ms: line.round_trip().map(|round_trip| round_trip.as_secs_f64() * 1000.0),
        }
    }
}

impl AcceptedLink {
    pub(super) fn new(peer: &ClusterName, facts: &Facts) -> Self {
        Self {
            id: facts.connection().id(),
            peer: peer.clone(),
            remote: facts.entry().client,
            since: clock::now(),
        }
    }
}
