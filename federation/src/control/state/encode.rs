//! A state as encoded parts, and what changed between two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Delta, Digest, Key, Position, State, part};
use crate::model::{ClusterName, Import, Listener, ServiceName};
use crate::snapshot::{Generation, Snapshot};

/// An encoded state; keeps what it was made from, so that the next one costs only what changed.
#[derive(Debug)]
pub struct Parts {
    state: State,
    parts: BTreeMap<Key, Part>,
    digest: Digest,
}

#[derive(Debug, Clone)]
struct Part {
    json: Bytes,
    digest: Digest,
}

impl Parts {
    /// Encodes a state. What is the same allocation as in `before` is taken from there.
    pub fn encode(state: State, before: Option<&Self>) -> Self {
        let mut encoder = Encoder { before, parts: BTreeMap::new() };
        encoder.state(&state);
        let parts = encoder.parts;
        let digest = Digest::of_parts(parts.iter().map(|(key, part)| (key, &part.digest)));
        Self { state, parts, digest }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn generation(&self) -> Generation {
        self.state.generation()
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn position(&self) -> Position {
        Position { generation: self.generation(), digest: self.digest }
    }

    /// Everything, as a change of nothing.
    pub fn full(&self) -> Delta {
        let put = self.parts.iter().map(|(key, part)| (key.clone(), part.json.clone()));
        Delta { put: put.collect(), removed: Vec::new() }
    }
}

/// What makes the second out of the first.
pub fn diff(old: &Parts, new: &Parts) -> Delta {
    let unchanged =
        |key: &Key, part: &Part| old.parts.get(key).is_some_and(|held| held.digest == part.digest);
    let put = new.parts.iter().filter(|(key, part)| !unchanged(key, part));
    let removed = old.parts.keys().filter(|key| !new.parts.contains_key(*key));
    Delta {
        put: put.map(|(key, part)| (key.clone(), part.json.clone())).collect(),
        removed: removed.cloned().collect(),
    }
}

struct Encoder<'a> {
    before: Option<&'a Parts>,
    parts: BTreeMap<Key, Part>,
}

impl Encoder<'_> {
    fn state(&mut self, state: &State) {
        let before = self.before.map(|before| &before.state);
        for (domain, bundle) in &state.bundles {
            let held = before.and_then(|before| before.bundles.get(domain));
            self.put(Key::bundle(domain), held, bundle, |bundle| bundle.to_json());
        }
        let snapshot = &*state.snapshot;
        let before = before.map(|before| &*before.snapshot);
        self.put(Key::cluster(), before.map(|held| &held.cluster), &snapshot.cluster, part::write_cluster);
        for (name, view) in &snapshot.services {
            let held = before.and_then(|before| before.services.get(name));
            self.put(Key::service(name), held, view, part::write_service);
        }
        for (name, view) in &snapshot.peers {
            let held = before.and_then(|before| before.peers.get(name));
            self.put(Key::peer(name), held, view, part::write_peer);
        }
        for ((peer, service), import) in imports(snapshot) {
            let held = before.and_then(|before| before.peers.get(peer)?.imports.get(service));
            self.put(Key::import(peer, service), held, import, part::write_import);
        }
        let listener = |listener: &Listener| before?.listeners.iter().find(|held| held.listener == *listener);
        for view in &snapshot.listeners {
            self.put(Key::listener(&view.listener), listener(&view.listener), view, part::write_listener);
        }
    }

    fn put<T>(&mut self, key: Key, held: Option<&Arc<T>>, now: &Arc<T>, write: impl Fn(&T) -> Vec<u8>) {
        let same = held.is_some_and(|held| Arc::ptr_eq(held, now));
        let known = self.before.filter(|_| same).and_then(|before| before.parts.get(&key));
        let part = known.cloned().unwrap_or_else(|| {
            let json = write(now);
            Part { digest: Digest::of(&json), json: json.into() }
        });
        self.parts.insert(key, part);
    }
}

/// Each import once, whether it is merged, pinned or both.
fn imports(snapshot: &Snapshot) -> BTreeMap<(&ClusterName, &ServiceName), &Arc<Import>> {
    let merged = snapshot.services.values().filter_map(|view| view.merged.as_ref());
    let merged = merged.flat_map(|merged| &merged.imports);
    let pinned = snapshot.peers.values().flat_map(|view| view.imports.values());
    merged.chain(pinned).map(|import| ((&import.peer, &import.service), import)).collect()
}
