//! The end: after everything has healed, every cluster knows exactly what is true.
//!
//! The truth is computed from documents and relationships alone, by a few lines that share nothing with
//! the catalog.

use std::collections::{BTreeMap, BTreeSet};

use federation::model::{ClusterName, Freshness, ServiceName};

use crate::invariants::claims;
use crate::ledger::Violation;
use crate::world::World;

/// A service as a peer has to see it: port and ready endpoints.
type Truth = BTreeMap<ServiceName, (u16, u32)>;

impl World {
    /// Everything has converged.
    pub(crate) fn check_end(&mut self) -> Result<(), Violation> {
        for node in 0..self.clusters.len() {
            if let Err((invariant, what)) = self.judge_end(node) {
                let cluster = self.clusters[node].name.to_string();
                return Err(Violation { invariant, at: self.now, what, cluster });
            }
        }
        Ok(())
    }

    fn exports_of(&self, node: usize) -> Truth {
        let documents = self.clusters[node].documents.iter().filter(|(_, spec)| spec.exported);
        documents.map(|(name, spec)| (name.clone(), (spec.port, spec.ready))).collect()
    }

    fn judge_end(&self, node: usize) -> Result<(), (&'static str, String)> {
        let cluster = &self.clusters[node];
        let Some(life) = &cluster.life else { return Err(("all_clusters_run", "it is down".to_owned())) };
        let related: Vec<_> = self.names.iter().filter(|(_, other)| self.is_related(node, **other)).collect();
        let mut offers: BTreeMap<ServiceName, BTreeSet<&ClusterName>> = BTreeMap::new();
        for (peer, other) in &related {
            let Some(view) = life.snapshot.peers.get(*peer) else {
                return Err(("all_peers_are_shown", format!("{peer} is missing")));
            };
            if view.freshness != Freshness::Fresh {
                return Err(("all_peers_are_fresh", format!("{peer} is {:?}", view.freshness)));
            }
            let held: Truth = view
                .imports
                .iter()
                .map(|(name, import)| {
                    (name.clone(), (import.ports.first().map_or(0, |port| port.port), import.ready()))
                })
                .collect();
            let truth = self.exports_of(**other);
            if held != truth {
                return Err(("imports_converge", format!("of {peer}: held {held:?}, true {truth:?}")));
            }
            for name in truth.into_keys() {
                offers.entry(name).or_default().insert(*peer);
            }
            let seat = life.peers.get(*peer).and_then(|state| state.seat);
            if seat.is_none_or(|seat| !self.streams.contains_key(&seat.stream)) {
                return Err(("one_stream_stays", format!("there is none with {peer}")));
            }
        }
        self.judge_names(node, &offers)
    }

    /// The merged names: all who may, and nobody else.
    fn judge_names(
        &self,
        node: usize,
        offers: &BTreeMap<ServiceName, BTreeSet<&ClusterName>>,
    ) -> Result<(), (&'static str, String)> {
        let cluster = &self.clusters[node];
        let life = cluster.life.as_ref().expect("looked at before");
        let (claims, ours) = (claims(cluster), self.exports_of(node));
        for name in offers.keys().chain(ours.keys()) {
            let offering = offers.get(name).cloned().unwrap_or_default();
            let trusted = |peer: &ClusterName| {
                let view = life.snapshot.peers.get(peer);
                view.is_some_and(|view| view.peer.sameness.contains(&name.namespace))
            };
            let protected = name.namespace.as_str() == "kube-system";
            let holder = claims.get(name).filter(|holder| offering.contains(holder) && !protected);
            let may =
                |peer: &&&ClusterName| ours.contains_key(name) || trusted(peer) || holder == Some(**peer);
            let truth: BTreeSet<_> = offering.iter().filter(may).copied().collect();
            if !ours.contains_key(name) && !protected && !offering.is_empty() && holder.is_none() {
                return Err(("names_have_a_holder", format!("{name} has none")));
            }
            let merged = life.snapshot.services.get(name).and_then(|view| view.merged.as_ref());
            let seen: BTreeSet<_> =
                merged.iter().flat_map(|merged| &merged.imports).map(|i| &i.peer).collect();
            if seen != truth {
                return Err(("names_converge", format!("{name}: merged {seen:?}, true {truth:?}")));
            }
            if merged.is_some_and(|merged| merged.exported_here) != ours.contains_key(name) {
                return Err(("names_converge", format!("{name}: whether it is exported here")));
            }
        }
        Ok(())
    }
}
