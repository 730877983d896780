//! The receiver's end: takes changes in, whole or not at all, and shares what did not change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::UnixTime;
use trust_bundle::{Bundle, InvalidBundle, TrustDomain};

use super::key::Kind;
use super::part::{self, InvalidPart};
use super::{Delta, Digest, InvalidDelta, InvalidKey, Key, PARTS_MAX, Parts, State};
use crate::model::{ClusterName, HttpRoute, Import, Listener, ObjectKey, ServiceName};
use crate::snapshot::{Generation, ListenerView, LocalCluster, PeerView, ServiceView, Snapshot};

/// Why a state is refused; what was held before stays.
#[derive(Debug, thiserror::Error)]
pub enum InvalidState {
    #[error(transparent)]
    Delta(#[from] InvalidDelta),
    #[error(transparent)]
    Key(#[from] InvalidKey),
    #[error("{key} cannot be read: {reason}")]
    Part { key: Key, reason: String },
    #[error("{key} is no bundle: {cause}")]
    Bundle { key: Key, cause: InvalidBundle },
    #[error("{service} merges an import of {peer} that is not there")]
    NoImport { service: ServiceName, peer: ClusterName },
    #[error("there is no part about the cluster itself")]
    NoCluster,
    #[error("more than {PARTS_MAX} parts")]
    TooManyParts,
    #[error("it was not read to its end: {0}")]
    Ended(String),
    #[error("the content has digest {found}, announced was {announced}")]
    Digest { found: Digest, announced: Digest },
}

type Imports = BTreeMap<ClusterName, BTreeMap<ServiceName, Arc<Import>>>;

/// The parts that a receiver holds; empty at first. Cheap to clone: parts are shared.
#[derive(Debug, Clone, Default)]
pub struct Held {
    digests: BTreeMap<Key, Digest>,
    cluster: Option<Arc<LocalCluster>>,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    imports: Imports,
    services: BTreeMap<ServiceName, Arc<ServiceView>>,
    peers: BTreeMap<ClusterName, Arc<PeerView>>,
    listeners: BTreeMap<Key, Arc<ListenerView>>,
    digest: Digest,
}

/// Reads a full state. A pure function of bytes that may come from anywhere.
pub fn decode(bytes: &Bytes, generation: Generation, now: UnixTime) -> Result<State, InvalidState> {
    Held::default().apply(&Delta::parse(bytes)?, now)?.state(generation)
}

impl Held {
    /// What a state that was not received makes: one from the disk.
    pub fn of(state: &State, now: UnixTime) -> Result<Self, InvalidState> {
        Self::default().apply(&Parts::encode(state.clone(), None).full(), now)
    }

    /// What is held once a change is taken in; the value itself does not change.
    pub fn apply(&self, delta: &Delta, now: UnixTime) -> Result<Self, InvalidState> {
        let mut change = Change { held: self.clone(), now, imports: BTreeSet::new(), peers: BTreeSet::new() };
        // Imports first: services and peers refer to them.
        for key in &delta.removed {
            change.remove(key)?;
        }
        let parts = delta.put.iter().map(|(key, json)| Ok((key, key.kind()?, json)));
        let parts = parts.collect::<Result<Vec<_>, InvalidKey>>()?;
        for (key, kind, json) in &parts {
            change.held.digests.insert((*key).clone(), Digest::of(json));
            if let Kind::Import(peer, name) = kind {
                change.put_import(key, peer, name, json)?;
            }
        }
        for (key, kind, json) in &parts {
            change.put(key, kind, json)?;
        }
        change.finish()
    }

    /// Like [`Self::apply`], for a change whose outcome was announced.
    pub fn apply_announced(
        &self,
        delta: &Delta,
        announced: Digest,
        now: UnixTime,
    ) -> Result<Self, InvalidState> {
        let after = self.apply(delta, now)?;
        let found = after.digest;
        if found == announced { Ok(after) } else { Err(InvalidState::Digest { found, announced }) }
    }

    /// Names what is held; zero if nothing is.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The state that the parts make.
    pub fn state(&self, generation: Generation) -> Result<State, InvalidState> {
        let cluster = self.cluster.clone().ok_or(InvalidState::NoCluster)?;
        let mut listeners: Vec<_> = self.listeners.values().cloned().collect();
        listeners.sort_by(|a, b| order(&a.listener).cmp(&order(&b.listener)));
        let snapshot = Snapshot {
            generation,
            cluster,
            services: self.services.clone(),
            peers: self.peers.clone(),
            listeners,
        };
        Ok(State { snapshot: Arc::new(snapshot), bundles: self.bundles.clone() })
    }
}

/// As the catalog orders them.
fn order(listener: &Listener) -> impl Ord {
    (listener.gateway.clone(), listener.name.clone(), listener.address)
}

/// A change on its way in.
struct Change {
    held: Held,
    now: UnixTime,
    /// Imports that changed: what refers to them is made anew.
    imports: BTreeSet<(ClusterName, ServiceName)>,
    /// Peers whose own part changed.
    peers: BTreeSet<ClusterName>,
}

impl Change {
    fn remove(&mut self, key: &Key) -> Result<(), InvalidState> {
        let held = &mut self.held;
        held.digests.remove(key);
        match key.kind()? {
            Kind::Cluster => held.cluster = None,
            Kind::Bundle(domain) => drop(held.bundles.remove(&domain)),
            Kind::Service(name) => drop(held.services.remove(&name)),
            Kind::Import(peer, name) => {
                if let Some(imports) = held.imports.get_mut(&peer) {
                    imports.remove(&name);
                }
                self.imports.insert((peer, name));
            }
            Kind::Peer(name) => drop(held.peers.remove(&name)),
            Kind::Listener => drop(held.listeners.remove(key)),
            Kind::Unknown => {}
        }
        Ok(())
    }

    fn put_import(
        &mut self,
        key: &Key,
        peer: &ClusterName,
        name: &ServiceName,
        json: &[u8],
    ) -> Result<(), InvalidState> {
        let import = part::read_import(peer, name, json).map_err(|cause| unreadable(key, &cause))?;
        self.held.imports.entry(peer.clone()).or_default().insert(name.clone(), Arc::new(import));
        self.imports.insert((peer.clone(), name.clone()));
        Ok(())
    }

    fn put(&mut self, key: &Key, kind: &Kind, json: &Bytes) -> Result<(), InvalidState> {
        let invalid = |cause: InvalidPart| unreadable(key, &cause);
        match kind {
            Kind::Cluster => {
                self.held.cluster = Some(Arc::new(part::read_cluster(json).map_err(invalid)?));
            }
            Kind::Bundle(domain) => {
                let parsed = Bundle::parse(domain.clone(), json, self.now);
                let parsed = parsed.map_err(|cause| InvalidState::Bundle { key: key.clone(), cause })?;
                self.held.bundles.insert(domain.clone(), Arc::new(parsed.bundle));
            }
            Kind::Service(name) => {
                let imports = &self.held.imports;
                let view = part::read_service(name, json, |peer| contribution(imports, peer, name));
                let view = view.map_err(|refused| refused.of(key))?;
                self.held.services.insert(name.clone(), Arc::new(view));
            }
            Kind::Peer(name) => {
                let view = part::read_peer(name, json, BTreeMap::new()).map_err(invalid)?;
                self.held.peers.insert(name.clone(), Arc::new(view));
                self.peers.insert(name.clone());
            }
            Kind::Listener => {
                let view = part::read_listener(json).map_err(invalid)?;
                if Key::listener(&view.listener) != *key {
                    return Err(unreadable(key, &InvalidPart::Misnamed));
                }
                self.held.listeners.insert(key.clone(), Arc::new(view));
            }
            Kind::Import(..) | Kind::Unknown => {}
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Held, InvalidState> {
        if self.held.digests.len() > PARTS_MAX {
            return Err(InvalidState::TooManyParts);
        }
        self.relate_services()?;
        self.relate_peers();
        share_routes(&mut self.held.listeners);
        self.held.digest = Digest::of_parts(self.held.digests.iter());
        Ok(self.held)
    }

    /// Services that merge a changed import refer to the new one; their own endpoints stay shared.
    fn relate_services(&mut self) -> Result<(), InvalidState> {
        let names: BTreeSet<_> = self.imports.iter().map(|(_peer, name)| name).collect();
        for name in names {
            let Some(view) = self.held.services.get(name) else { continue };
            let Some(merged) = &view.merged else { continue };
            let current =
                merged.imports.iter().map(|import| contribution(&self.held.imports, &import.peer, name));
            let current = current.collect::<Result<Vec<_>, Refused>>().map_err(Refused::consistent)?;
            if current.iter().zip(&merged.imports).all(|(new, old)| Arc::ptr_eq(new, old)) {
                continue;
            }
            let mut view = ServiceView::clone(view);
            if let Some(merged) = &mut view.merged {
                merged.imports = current;
            }
            self.held.services.insert(name.clone(), Arc::new(view));
        }
        Ok(())
    }

    fn relate_peers(&mut self) {
        let changed = self.imports.iter().map(|(peer, _name)| peer).chain(&self.peers);
        for name in changed.collect::<BTreeSet<_>>() {
            let Some(view) = self.held.peers.get(name) else { continue };
            let imports = self.held.imports.get(name).cloned().unwrap_or_default();
            let view = PeerView { imports, ..PeerView::clone(view) };
            self.held.peers.insert(name.clone(), Arc::new(view));
        }
    }
}

/// Equal routes of several listeners are one again.
fn share_routes(listeners: &mut BTreeMap<Key, Arc<ListenerView>>) {
    let mut known: BTreeMap<ObjectKey, Arc<HttpRoute>> = BTreeMap::new();
    for view in listeners.values_mut() {
        let shared = view.routes.iter().map(|route| {
            let first = known.entry(route.key.clone()).or_insert_with(|| Arc::clone(route));
            if first == route { Arc::clone(first) } else { Arc::clone(route) }
        });
        let shared: Vec<_> = shared.collect();
        if !shared.iter().zip(&view.routes).all(|(a, b)| Arc::ptr_eq(a, b)) {
            *view = Arc::new(ListenerView { listener: view.listener.clone(), routes: shared });
        }
    }
}

/// Why a service cannot be made: its part is bad, or an import is missing.
enum Refused {
    Part(InvalidPart),
    NoImport { service: ServiceName, peer: ClusterName },
}

impl From<InvalidPart> for Refused {
    fn from(cause: InvalidPart) -> Self {
        Self::Part(cause)
    }
}

impl Refused {
    fn of(self, key: &Key) -> InvalidState {
        match self {
            Self::Part(cause) => unreadable(key, &cause),
            missing @ Self::NoImport { .. } => missing.consistent(),
        }
    }

    fn consistent(self) -> InvalidState {
        match self {
            Self::Part(cause) => unreadable(&Key::cluster(), &cause),
            Self::NoImport { service, peer } => InvalidState::NoImport { service, peer },
        }
    }
}

fn contribution(
    imports: &Imports,
    peer: &ClusterName,
    service: &ServiceName,
) -> Result<Arc<Import>, Refused> {
    let found = imports.get(peer).and_then(|imports| imports.get(service)).cloned();
    found.ok_or_else(|| Refused::NoImport { service: service.clone(), peer: peer.clone() })
}

fn unreadable(key: &Key, cause: &InvalidPart) -> InvalidState {
    // What a part says is ours, but a file may be anybody's: bounded and without control characters.
    let reason = cause.to_string().chars().take(200).flat_map(char::escape_debug).collect();
    InvalidState::Part { key: key.clone(), reason }
}
