//! Peers and what they export to us, as it counts here.
//!
//! What a peer says is kept beside what it comes to: no export counts as older than the relationship
//! (a peer's clock decides nothing, T5), and all imports of a peer are as fresh as the peer is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ClusterName, Freshness, Import, Peer, RelationshipState, ServiceName};

#[derive(Debug, Default)]
pub(super) struct Peers {
    by_name: BTreeMap<ClusterName, PeerState>,
    importers: BTreeMap<ServiceName, BTreeSet<ClusterName>>,
}

#[derive(Debug, Default)]
pub(super) struct PeerState {
    pub(super) peer: Option<Peer>,
    freshness: Option<Freshness>,
    imports: BTreeMap<ServiceName, Entry>,
}

#[derive(Debug)]
struct Entry {
    said: Arc<Import>,
    counts: Arc<Import>,
}

impl Peers {
    /// Applies a change to a peer; returns the services that it may touch.
    pub(super) fn change(&mut self, name: &ClusterName, peer: Peer) -> BTreeSet<ServiceName> {
        let state = self.by_name.entry(name.clone()).or_default();
        if state.peer.as_ref() == Some(&peer) {
            return BTreeSet::new();
        }
        state.peer = Some(peer);
        state.recount()
    }

    pub(super) fn remove(&mut self, name: &ClusterName) -> BTreeSet<ServiceName> {
        let Some(state) = self.by_name.remove(name) else { return BTreeSet::new() };
        for service in state.imports.keys() {
            forget(&mut self.importers, service, name);
        }
        state.imports.into_keys().collect()
    }

    pub(super) fn set_freshness(
        &mut self,
        name: &ClusterName,
        freshness: Freshness,
    ) -> BTreeSet<ServiceName> {
        let state = self.by_name.entry(name.clone()).or_default();
        if state.freshness == Some(freshness) {
            return BTreeSet::new();
        }
        state.freshness = Some(freshness);
        state.recount()
    }

    pub(super) fn replace_imports(
        &mut self,
        name: &ClusterName,
        imports: BTreeMap<ServiceName, Arc<Import>>,
    ) -> BTreeSet<ServiceName> {
        let held = self.by_name.get(name).map(|state| state.imports.keys());
        let gone: Vec<_> =
            held.into_iter().flatten().filter(|service| !imports.contains_key(service)).cloned().collect();
        let mut touched: BTreeSet<_> =
            imports.into_values().filter_map(|i| self.put_import(name, i)).collect();
        touched.extend(gone.into_iter().filter(|service| self.remove_import(name, service)));
        touched
    }

    /// Returns the service if something changed.
    pub(super) fn put_import(&mut self, name: &ClusterName, import: Arc<Import>) -> Option<ServiceName> {
        let state = self.by_name.entry(name.clone()).or_default();
        let service = import.service.clone();
        let held = state.imports.get(&service);
        if import.peer != *name || held.is_some_and(|held| held.said == import) {
            return None;
        }
        let counts = keep(held.map(|held| &held.counts), state.counted(&import));
        state.imports.insert(service.clone(), Entry { said: import, counts });
        self.importers.entry(service.clone()).or_default().insert(name.clone());
        Some(service)
    }

    pub(super) fn remove_import(&mut self, name: &ClusterName, service: &ServiceName) -> bool {
        forget(&mut self.importers, service, name);
        self.by_name.get_mut(name).is_some_and(|state| state.imports.remove(service).is_some())
    }

    pub(super) fn get(&self, name: &ClusterName) -> Option<&PeerState> {
        self.by_name.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ClusterName> {
        self.by_name.keys()
    }

    /// The active peers that export a service to us, by name.
    pub(super) fn importers<'a>(
        &'a self,
        service: &'a ServiceName,
    ) -> impl Iterator<Item = (&'a Peer, &'a Arc<Import>)> {
        let names = self.importers.get(service).into_iter().flatten();
        names.filter_map(|name| {
            let state = self.by_name.get(name)?;
            Some((state.active()?, &state.imports.get(service)?.counts))
        })
    }
}

impl PeerState {
    /// The peer, while the relationship holds.
    pub(super) fn active(&self) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| peer.state == RelationshipState::Active)
    }

    /// Until the peering stream has spoken, nothing vouches for what was read back.
    pub(super) fn freshness(&self) -> Freshness {
        self.freshness.unwrap_or(Freshness::Suspect)
    }

    /// What the peer offers; nothing once it has ended the relationship.
    pub(super) fn imports(&self) -> BTreeMap<ServiceName, Arc<Import>> {
        if self.active().is_none() {
            return BTreeMap::new();
        }
        self.imports.iter().map(|(name, entry)| (name.clone(), Arc::clone(&entry.counts))).collect()
    }

    fn counted(&self, said: &Arc<Import>) -> Arc<Import> {
        let joined = self.peer.as_ref().map_or(said.created, |peer| peer.joined);
        let created = said.created.max(joined);
        let freshness = self.freshness.unwrap_or(said.freshness);
        if created == said.created && freshness == said.freshness {
            return Arc::clone(said);
        }
        Arc::new(Import { created, freshness, ..Import::clone(said) })
    }

    fn recount(&mut self) -> BTreeSet<ServiceName> {
        let counted: Vec<_> =
            self.imports.values().map(|entry| keep(Some(&entry.counts), self.counted(&entry.said))).collect();
        for (entry, counts) in self.imports.values_mut().zip(counted) {
            entry.counts = counts;
        }
        self.imports.keys().cloned().collect()
    }
}

/// Equal content stays the same allocation, so that readers can tell what changed.
pub(super) fn keep<T: PartialEq>(held: Option<&Arc<T>>, new: Arc<T>) -> Arc<T> {
    match held {
        Some(held) if *held == new => Arc::clone(held),
        _ => new,
    }
}

fn forget(
    importers: &mut BTreeMap<ServiceName, BTreeSet<ClusterName>>,
    service: &ServiceName,
    peer: &ClusterName,
) {
    if let Some(peers) = importers.get_mut(service) {
        peers.remove(peer);
        if peers.is_empty() {
            importers.remove(service);
        }
    }
}
