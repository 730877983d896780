//! What really happened, noted beside the clusters: the truth that invariants are judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use federation::model::{ClusterName, Import, ServiceName};
use federation::peering::exports::Offer;
use federation::peering::imports::Position;
use federation::snapshot::Generation;
use federation::store::Revision;

use crate::cluster::{Cluster, Spec};

/// An invariant that fell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) at: u64,
    pub(crate) what: String,
    /// The cluster that it was seen at.
    pub(crate) cluster: String,
}

/// An export as it was offered for some time.
#[derive(Debug, Clone)]
pub(crate) struct Offered {
    pub(crate) port: u16,
    pub(crate) ready: u32,
    pub(crate) until: Option<u64>,
}

/// What was seen of one direction of a relationship.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// When the last word of the peer came that showed progress.
    pub(crate) progress: Option<u64>,
    pub(crate) path_up: Option<bool>,
    /// The position held at the last look.
    pub(crate) position: Option<Position>,
    /// The imports at the last look, with when each appeared.
    pub(crate) imports: BTreeMap<ServiceName, (Arc<Import>, u64)>,
    /// A write failed, and what is durable is not what is held until the peer has spoken again.
    pub(crate) unsure: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By exporter and name, the oldest first.
    pub(crate) offered: BTreeMap<(usize, ServiceName), Vec<Offered>>,
    /// When a relationship was last begun at a cluster with another.
    pub(crate) began: BTreeMap<(usize, usize), u64>,
    pub(crate) seen: BTreeMap<(usize, ClusterName), Seen>,
    pub(crate) generations: BTreeMap<usize, Generation>,
    /// Who contributed first to a name, as durable at the last look.
    pub(crate) claims: BTreeMap<usize, BTreeMap<ServiceName, ClusterName>>,
    pub(crate) addresses: BTreeMap<usize, BTreeMap<ServiceName, std::net::IpAddr>>,
    /// By cluster: the revision of its disk and its snapshot at the last look.
    pub(crate) looked: BTreeMap<usize, (Revision, u64, Generation)>,
    gateways: BTreeMap<usize, u16>,
    last_stream: u64,
    backups: BTreeSet<usize>,
    violation: Option<Violation>,
}

impl Ledger {
    pub(crate) fn take_violation(&mut self) -> Result<(), Violation> {
        self.violation.take().map_or(Ok(()), Err)
    }

    pub(crate) fn fall(&mut self, invariant: &'static str, at: u64, cluster: &ClusterName, what: String) {
        let cluster = cluster.to_string();
        self.violation.get_or_insert(Violation { invariant, at, what, cluster });
    }

    /// Numbers of streams are used once.
    pub(crate) fn next_stream(&mut self) -> u64 {
        self.last_stream += 1;
        self.last_stream
    }

    pub(crate) fn documented(&mut self, node: usize, name: &ServiceName, now: u64, spec: Option<&Spec>) {
        let offers = self.offered.entry((node, name.clone())).or_default();
        if let Some(last) = offers.last_mut().filter(|last| last.until.is_none()) {
            last.until = Some(now);
        }
        if let Some(spec) = spec.filter(|spec| spec.exported) {
            offers.push(Offered { port: spec.port, ready: spec.ready, until: None });
        }
    }

    pub(crate) fn related(&mut self, node: usize, with: usize, now: u64) {
        self.began.insert((node, with), now);
    }

    /// A life of a process begins: what is only in memory is forgotten.
    pub(crate) fn started(&mut self, node: usize) {
        for ((_, _), seen) in self.seen.iter_mut().filter(|((at, _), _)| *at == node) {
            (seen.progress, seen.path_up, seen.unsure) = (None, None, false);
        }
    }

    pub(crate) fn backed_up(&mut self, node: usize) {
        self.backups.insert(node);
    }

    /// An older store came back: what is remembered of the newer one does not count.
    pub(crate) fn restored(&mut self, node: usize) {
        self.seen.retain(|(at, _), _| *at != node);
        self.began.iter_mut().filter(|((at, _), _)| *at == node).for_each(|(_, began)| *began = 0);
        self.claims.remove(&node);
        self.addresses.remove(&node);
    }

    pub(crate) fn gateways(&self, node: usize) -> u16 {
        self.gateways.get(&node).copied().unwrap_or(15443)
    }

    pub(crate) fn move_gateways(&mut self, node: usize) -> u16 {
        let port = self.gateways(node) + 1;
        self.gateways.insert(node, port);
        port
    }

    fn seen(&mut self, node: usize, peer: &ClusterName) -> &mut Seen {
        self.seen.entry((node, peer.clone())).or_default()
    }

    /// A heartbeat: the peer has told everything up to here.
    pub(crate) fn reached(
        &mut self,
        node: usize,
        peer: &ClusterName,
        now: u64,
        held: Option<Position>,
        said: Revision,
    ) {
        if held.is_none_or(|held| held.revision >= said) {
            self.seen(node, peer).progress = Some(now);
        }
    }

    pub(crate) fn moved(&mut self, node: usize, peer: &ClusterName, now: u64) {
        let seen = self.seen(node, peer);
        seen.progress = Some(now);
    }

    pub(crate) fn path(&mut self, node: usize, peer: &ClusterName, up: bool) {
        self.seen(node, peer).path_up = Some(up);
    }

    pub(crate) fn unsure(&mut self, node: usize, peer: &ClusterName) {
        self.seen(node, peer).unsure = true;
    }

    /// A removed peer is never dialled: what it once allowed us does not count any more.
    pub(crate) fn dialled(&mut self, now: u64, cluster: &Cluster, peer: &ClusterName) {
        let known = cluster.life.as_ref().and_then(|life| life.peers.get(peer));
        if known.is_none_or(|peer| !peer.is_active()) {
            let what = format!("{peer} is dialled");
            self.fall("a_removed_peer_is_not_dialled", now, &cluster.name, what);
        }
    }

    /// An honest peer never breaks the protocol, whatever the network did.
    pub(crate) fn broke_protocol(&mut self, now: u64, peer: &ClusterName, node: &ClusterName, why: &str) {
        self.fall("honest_peers_keep_the_protocol", now, node, format!("{peer}: {why}"));
    }

    /// Imports equal what the exporter had at the moment that it spoke of, never a mixture: else traffic
    /// would go by a state that never was.
    pub(crate) fn compare(
        &mut self,
        node: usize,
        peer: &ClusterName,
        now: u64,
        cluster: &Cluster,
        view: &BTreeMap<ServiceName, Offer>,
        at: u64,
    ) {
        self.seen(node, peer).unsure = false;
        let Some(held) = cluster.life.as_ref().and_then(|life| life.peers.get(peer)) else { return };
        let held = held.imports.services();
        let same = held.len() == view.len()
            && held.iter().zip(view).all(|((name, import), (said, offer))| name == said && is(import, offer));
        if !same {
            let differs = |name: &&ServiceName| match (held.get(*name), view.get(*name)) {
                (Some(import), Some(offer)) => !is(import, offer),
                (held, said) => held.is_some() != said.is_some(),
            };
            let names: BTreeSet<_> = held.keys().chain(view.keys()).filter(differs).collect();
            let what = format!("of {peer} as of {at} ms, these differ: {names:?}");
            self.fall("what_was_reached_is_a_view_that_was", now, &cluster.name, what);
        }
    }
}

fn is(import: &Import, offer: &Offer) -> bool {
    (import.kind, &import.ports, import.created) == (offer.kind, &offer.ports, offer.created)
        && import.groups == offer.groups
        && import.endpoints == offer.endpoints
}
