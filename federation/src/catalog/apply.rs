//! The catalog's state, and how an event changes it.
//!
//! `apply` is cheap and only notes what became dirty, so that a burst of events costs one rebuild.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::backends::{Resolved, references};
use super::claims::Claims;
use super::listeners::Aged;
use super::objects::{Change, Claim, Objects};
use super::peers::Peers;
use super::rebuild::Outcome;
use super::services::{Services, place, service_of};
use super::{Condition, ConditionKind, Event, Object, ObjectStatus, Source};
use crate::model::{ClusterName, Freshness, ObjectKey, ObjectName, ServiceName, Timestamp};
use crate::snapshot::{Generation, ListenerView, LocalCluster, PeerView, ServiceView, Snapshot};

/// Everything that this cluster knows, and the snapshot made of it.
#[derive(Debug)]
pub struct Catalog {
    pub(super) cluster: Arc<LocalCluster>,
    pub(super) objects: Objects,
    pub(super) services: Services,
    pub(super) peers: Peers,
    pub(super) gateways: BTreeMap<ObjectKey, Aged>,
    pub(super) routes: BTreeMap<ObjectKey, Aged>,
    /// Routes by the services that their backends name.
    pub(super) routes_by_service: BTreeMap<ServiceName, BTreeSet<ObjectKey>>,
    /// Empty where no address could be had.
    pub(super) addresses: BTreeMap<ServiceName, Vec<IpAddr>>,
    pub(super) claims: Claims,
    pub(super) dirty: Dirty,
    pub(super) built: Built,
    /// Noted while building, until the next `settle` takes it.
    pub(super) effects: Effects,
    pub(super) generation: Generation,
}

/// What has to be built again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) services: BTreeSet<ServiceName>,
    pub(super) peers: BTreeSet<ClusterName>,
    pub(super) routes: BTreeSet<ObjectKey>,
    pub(super) listeners: bool,
}

/// What was built, which the next snapshot shares.
#[derive(Debug, Default)]
pub(super) struct Built {
    pub(super) services: BTreeMap<ServiceName, Arc<ServiceView>>,
    pub(super) outcomes: BTreeMap<ServiceName, Outcome>,
    /// Services that every active peer may reach.
    pub(super) exported: BTreeSet<ServiceName>,
    pub(super) peers: BTreeMap<ClusterName, Arc<PeerView>>,
    pub(super) resolved: BTreeMap<ObjectKey, Resolved>,
    pub(super) listeners: Vec<Arc<ListenerView>>,
    /// Of gateways and routes.
    pub(super) conditions: BTreeMap<ObjectKey, Vec<Condition>>,
    /// Services that need an address and have none.
    pub(super) homeless: BTreeSet<ServiceName>,
    /// Names whose first contributor is not on record yet.
    pub(super) unclaimed: BTreeMap<ServiceName, ClusterName>,
    /// Whether something differs from the last snapshot.
    pub(super) changed: bool,
}

/// What the catalog asks of the world. What wants an answer is asked again until an event gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Services of the cluster set without addresses.
    pub allocate: Vec<ServiceName>,
    /// Who contributed first to a name, to be made durable.
    pub claim: Vec<NameClaim>,
    /// Names whose first contributor need not be remembered any more.
    pub release: Vec<ServiceName>,
    /// Objects whose conditions changed.
    pub conditions: BTreeSet<ObjectKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameClaim {
    pub service: ServiceName,
    pub peer: ClusterName,
}

impl Catalog {
    pub fn new(cluster: LocalCluster) -> Self {
        Self {
            cluster: Arc::new(cluster),
            objects: Objects::default(),
            services: Services::default(),
            peers: Peers::default(),
            gateways: BTreeMap::new(),
            routes: BTreeMap::new(),
            routes_by_service: BTreeMap::new(),
            addresses: BTreeMap::new(),
            claims: Claims::default(),
            dirty: Dirty::default(),
            // The first snapshot is news even if it is empty: it says that all sources have spoken.
            built: Built { changed: true, ..Built::default() },
            effects: Effects::default(),
            generation: Generation::default(),
        }
    }

    /// The same with generations after this one.
    #[must_use]
    pub fn after(self, generation: Generation) -> Self {
        Self { generation, ..self }
    }

    /// Takes in one event; `settle` or `snapshot` makes it seen.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::ObjectApplied { source, key, created, object } => {
                self.apply_object(&key, source, created, object);
            }
            Event::ObjectRemoved { source, key } => {
                if let Some(change) = self.objects.remove(&key, &source) {
                    self.change_object(&key, change);
                }
            }
            Event::PeerChanged(peer) => {
                let name = peer.name.clone();
                let touched = self.peers.change(&name, peer);
                self.touch_peer(name, touched);
            }
            Event::PeerRemoved(name) => {
                let touched = self.peers.remove(&name);
                self.touch_peer(name, touched);
            }
            Event::FreshnessChanged { peer, freshness } => self.set_freshness(peer, freshness),
            Event::ImportsReplaced { peer, imports } => {
                let touched = self.peers.replace_imports(&peer, imports);
                self.touch_peer(peer, touched);
            }
            Event::ImportChanged(import) => {
                let peer = import.peer.clone();
                let touched = self.peers.put_import(&peer, import);
                self.touch_peer(peer, touched);
            }
            Event::ImportRemoved { peer, service } => {
                let touched = self.peers.remove_import(&peer, &service).then_some(service);
                self.touch_peer(peer, touched);
            }
            Event::AddressesAllocated { service, addresses } => {
                self.addresses.insert(service.clone(), addresses);
                self.dirty.services.insert(service);
            }
            Event::AddressesReleased(service) => {
                self.addresses.remove(&service);
                self.dirty.services.insert(service);
            }
            Event::NameClaimed { service, peer } => {
                self.claims.hold(service.clone(), peer);
                self.dirty.services.insert(service);
            }
            Event::NameReleased(service) => {
                self.claims.release(&service);
                self.dirty.services.insert(service);
            }
            Event::GatewaysCounted(count) => {
                if self.cluster.gateways != Some(count) {
                    self.cluster =
                        Arc::new(LocalCluster { gateways: Some(count), ..(*self.cluster).clone() });
                    self.built.changed = true;
                }
            }
        }
    }

    fn apply_object(&mut self, key: &ObjectKey, source: Source, created: Timestamp, mut object: Object) {
        match &mut object {
            Object::Endpoints(slice) => place(slice, &self.cluster.locality),
            // The source knows the age of what it says; the document does not.
            Object::HttpRoute(route) => route.route.created = created,
            _ => {}
        }
        let claim = Claim { source, created, object: Arc::new(object) };
        if let Some(change) = self.objects.apply(key, claim) {
            self.change_object(key, change);
        }
    }

    fn change_object(&mut self, key: &ObjectKey, change: Change) {
        if let Some(before) = change.before {
            self.retract(key, &before.object);
        }
        if let Some(after) = change.after {
            self.put(key, after);
        }
    }

    fn retract(&mut self, key: &ObjectKey, object: &Object) {
        if let Some(name) = service_of(object) {
            self.services.remove(name, key, object);
            self.dirty.services.insert(name.clone());
        }
        match object {
            Object::Gateway(_) => {
                self.gateways.remove(key);
                self.dirty.listeners = true;
            }
            Object::HttpRoute(route) => {
                self.routes.remove(key);
                for service in references(&route.route) {
                    self.forget_reference(&service, key);
                }
                self.dirty.routes.insert(key.clone());
            }
            _ => {}
        }
    }

    fn put(&mut self, key: &ObjectKey, claim: Claim) {
        let Claim { created, object, .. } = claim;
        let aged = Aged { created, object: Arc::clone(&object) };
        match &*object {
            Object::Gateway(_) => {
                self.gateways.insert(key.clone(), aged);
                self.dirty.listeners = true;
            }
            Object::HttpRoute(route) => {
                for service in references(&route.route) {
                    self.routes_by_service.entry(service).or_default().insert(key.clone());
                }
                self.routes.insert(key.clone(), aged);
                self.dirty.routes.insert(key.clone());
            }
            _ => {
                if let Some(name) = service_of(&object).cloned() {
                    self.services.insert(&name, key, created, object);
                    self.dirty.services.insert(name);
                }
            }
        }
    }

    fn forget_reference(&mut self, service: &ServiceName, route: &ObjectKey) {
        if let Some(routes) = self.routes_by_service.get_mut(service) {
            routes.remove(route);
            if routes.is_empty() {
                self.routes_by_service.remove(service);
            }
        }
    }

    fn set_freshness(&mut self, peer: ClusterName, freshness: Freshness) {
        let touched = self.peers.set_freshness(&peer, freshness);
        self.touch_peer(peer, touched);
    }

    fn touch_peer(&mut self, peer: ClusterName, services: impl IntoIterator<Item = ServiceName>) {
        self.dirty.services.extend(services);
        self.dirty.peers.insert(peer);
    }

    /// The newest state as a snapshot, if it differs from the last one.
    pub fn snapshot(&mut self) -> Option<Arc<Snapshot>> {
        self.rebuild();
        if !std::mem::take(&mut self.built.changed) {
            return None;
        }
        self.generation.0 += 1;
        Some(Arc::new(Snapshot {
            generation: self.generation,
            cluster: Arc::clone(&self.cluster),
            services: self.built.services.clone(),
            peers: self.built.peers.clone(),
            listeners: self.built.listeners.clone(),
        }))
    }

    /// Builds what is dirty, and says what the world has to do.
    pub fn settle(&mut self) -> Effects {
        self.rebuild();
        let unclaimed = self.built.unclaimed.iter();
        Effects {
            allocate: self.built.homeless.iter().cloned().collect(),
            claim: unclaimed
                .map(|(service, peer)| NameClaim { service: service.clone(), peer: peer.clone() })
                .collect(),
            release: self
                .claims
                .excess(|peer| self.peers.get(peer).is_some_and(|state| state.active().is_some())),
            ..std::mem::take(&mut self.effects)
        }
    }

    /// Does any cluster still use the name: its address must not be given away.
    pub fn is_named(&self, service: &ServiceName) -> bool {
        self.built.outcomes.get(service).is_some_and(Outcome::is_named)
    }

    /// Every object of a kind, with what became of it; `ServiceImport` lists what peers offer.
    pub fn objects(&self, kind: &str) -> Vec<ObjectStatus> {
        if kind == IMPORT_KIND {
            return self.import_statuses();
        }
        self.objects.statuses(kind, |key| self.conditions(key))
    }

    /// The kinds of which there is at least one object.
    pub fn kinds(&self) -> Vec<Arc<str>> {
        let imports = self.built.outcomes.values().any(|outcome| !outcome.imports.is_empty());
        self.objects.kinds().into_iter().chain(imports.then(|| IMPORT_KIND.into())).collect()
    }

    fn conditions(&self, key: &ObjectKey) -> Vec<Condition> {
        let export = || {
            let service = ServiceName::new(key.name.as_str().try_into().ok()?, key.namespace.clone());
            let (held, conditions) = self.built.outcomes.get(&service)?.export.as_ref()?;
            (held == key).then(|| conditions.clone())
        };
        let known = self.built.conditions.get(key).cloned().or_else(export);
        known.unwrap_or_else(|| vec![Condition::holds(ConditionKind::Accepted, "Accepted", "")])
    }

    fn import_statuses(&self) -> Vec<ObjectStatus> {
        let outcomes = self.built.outcomes.iter();
        let imports =
            outcomes.flat_map(|(service, outcome)| outcome.imports.iter().map(move |i| (service, i)));
        imports
            .map(|(service, (peer, import))| ObjectStatus {
                key: import_key(service),
                source: Source::Peer(peer.clone()),
                created: import.created,
                conditions: import.conditions.clone(),
            })
            .collect()
    }
}

pub(super) const IMPORT_KIND: &str = "ServiceImport";

pub(super) fn import_key(service: &ServiceName) -> ObjectKey {
    let name = ObjectName::try_from(service.name.as_str()).expect("a label is an object name");
    ObjectKey { kind: IMPORT_KIND.into(), namespace: service.namespace.clone(), name }
}
