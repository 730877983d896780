//! Builds again what became dirty, and nothing else.
//!
//! Order matters: services first, since peers' views and routes depend on them; listeners last. A
//! part that comes out equal to what it was keeps its allocation and counts as no change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::admission::{Admission, Candidate, Local, admit, is_protected};
use super::apply::{Catalog, import_key};
use super::backends::resolve;
use super::listeners::{Input, attach};
use super::merge::{Contribution, Merge, merge};
use super::peers::keep;
use super::services::Parts;
use super::{Condition, ConditionKind, Object};
use crate::model::{ClusterName, Freshness, Import, ObjectKey, Peer, ServiceKind, ServiceName, Timestamp};
use crate::snapshot::{LocalService, MergedService, PeerView, ServiceView};

/// What became of a name, beyond what the data plane reads.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// The export object, if there is one, and its conditions.
    pub(super) export: Option<(ObjectKey, Vec<Condition>)>,
    pub(super) imports: BTreeMap<ClusterName, ImportOutcome>,
}

#[derive(Debug, PartialEq)]
pub(super) struct ImportOutcome {
    pub(super) created: Timestamp,
    pub(super) conditions: Vec<Condition>,
}

impl Outcome {
    pub(super) fn is_named(&self) -> bool {
        self.export.is_some() || !self.imports.is_empty()
    }
}

/// What is known of one name while it is built.
struct Name<'a> {
    local: Option<LocalService>,
    export: Option<(&'a ObjectKey, Condition)>,
    importers: Vec<(&'a Peer, &'a Arc<Import>)>,
}

impl Name<'_> {
    fn is_exported(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.export.is_some())
    }
}

impl Catalog {
    pub(super) fn rebuild(&mut self) {
        let mut exports_changed = false;
        while let Some(name) = self.dirty.services.pop_first() {
            exports_changed |= self.rebuild_service(&name);
        }
        if exports_changed {
            self.dirty.peers.extend(self.peers.names().cloned());
        }
        for peer in std::mem::take(&mut self.dirty.peers) {
            self.rebuild_peer(&peer);
        }
        self.rebuild_routes();
    }

    /// Returns whether the set of exported services changed.
    fn rebuild_service(&mut self, name: &ServiceName) -> bool {
        let previous = self.built.services.get(name);
        let parts = self.services.get(name);
        let known = Name {
            local: parts.and_then(|parts| parts.local_service(previous.and_then(|view| view.local.as_ref()))),
            export: parts.and_then(Parts::export),
            importers: self.peers.importers(name).collect(),
        };
        let admission = self.admission(name, &known);
        let (merged, outcome) = self.merge_name(name, &known, &admission);
        let contributed = !known.importers.is_empty();
        let view = ServiceView { name: name.clone(), local: known.local, merged };
        self.claims.note(name, contributed);
        self.note_claim(name, admission.first);
        self.note_outcome(name, outcome);
        self.put_view(view)
    }

    fn admission(&self, name: &ServiceName, known: &Name<'_>) -> Admission {
        let candidates = known.importers.iter().map(|(peer, import)| Candidate {
            peer: &peer.name,
            created: import.created,
            trusted: peer.sameness.contains(&name.namespace),
        });
        let local = Local { exported_here: known.is_exported(), claim: self.claims.holder(name) };
        admit(name, local, &candidates.collect::<Vec<_>>())
    }

    fn merge_name(
        &self,
        name: &ServiceName,
        known: &Name<'_>,
        admission: &Admission,
    ) -> (Option<MergedService>, Outcome) {
        let exported_here = known.is_exported();
        let imports: Vec<_> = known
            .importers
            .iter()
            .filter(|(peer, _)| admission.merged.contains(&peer.name))
            .map(|(_, import)| Arc::clone(import))
            .collect();
        let merge = merge(self.contributions(known.local.as_ref(), &imports));
        let outcome = self.outcome(name, known, admission, merge.as_ref());
        let merged = merge.map(|Merge { kind, ports, .. }| {
            let addresses = match kind {
                ServiceKind::ClusterSetIp => self.addresses.get(name).cloned().unwrap_or_default(),
                ServiceKind::Headless => Vec::new(),
            };
            MergedService { kind, ports, exported_here, imports, addresses }
        });
        (merged, outcome)
    }

    fn contributions<'a>(
        &'a self,
        local: Option<&'a LocalService>,
        imports: &'a [Arc<Import>],
    ) -> Vec<Contribution<'a>> {
        let own = local.and_then(|local| {
            Some(Contribution {
                cluster: &self.cluster.name,
                created: local.export.as_ref()?.created,
                kind: local.service.kind,
                ports: &local.service.ports,
            })
        });
        let theirs = imports.iter().map(|import| Contribution {
            cluster: &import.peer,
            created: import.created,
            kind: import.kind,
            ports: &import.ports,
        });
        own.into_iter().chain(theirs).collect()
    }

    fn outcome(
        &self,
        name: &ServiceName,
        known: &Name<'_>,
        admission: &Admission,
        merge: Option<&Merge>,
    ) -> Outcome {
        let exhausted = merge.is_some_and(|merge| merge.kind == ServiceKind::ClusterSetIp)
            && self.addresses.get(name).is_some_and(Vec::is_empty);
        let address = exhausted.then(|| {
            Condition::fails(
                ConditionKind::AddressAllocated,
                "PoolExhausted",
                "no address is left; make gateway.virtual.pool larger",
            )
        });
        let export = known.export.as_ref().map(|(key, valid)| {
            let exported = known.local.as_ref().and(merge).map(|merge| merge.conflict.clone());
            let conditions = std::iter::once(valid.clone()).chain(exported).chain(address.clone());
            ((*key).clone(), conditions.collect())
        });
        let imports = known.importers.iter().map(|(peer, import)| {
            let merged = merged_condition(name, &peer.name, admission);
            let conditions = [Some(merged), Some(fresh_condition(import.freshness)), address.clone()];
            let conditions = conditions.into_iter().flatten().collect();
            (peer.name.clone(), ImportOutcome { created: import.created, conditions })
        });
        Outcome { export, imports: imports.collect() }
    }

    fn note_claim(&mut self, name: &ServiceName, first: Option<ClusterName>) {
        match first.filter(|first| self.claims.holder(name) != Some(first)) {
            Some(first) => drop(self.built.unclaimed.insert(name.clone(), first)),
            None => drop(self.built.unclaimed.remove(name)),
        }
    }

    fn note_outcome(&mut self, name: &ServiceName, outcome: Outcome) {
        let effects = &mut self.effects;
        let held = self.built.outcomes.get(name);
        if held.unwrap_or(&Outcome::default()) == &outcome {
            return;
        }
        if held.is_some_and(Outcome::is_named) && !outcome.is_named() {
            // There is room again for those that found none.
            let refused = self.addresses.extract_if(.., |_, addresses| addresses.is_empty());
            self.dirty.services.extend(refused.map(|(name, _)| name));
        }
        let exports = held.and_then(|held| held.export.as_ref()).into_iter().chain(&outcome.export);
        effects.conditions.extend(exports.map(|(key, _)| key.clone()));
        if held.map(|held| &held.imports) != Some(&outcome.imports) {
            effects.conditions.insert(import_key(name));
        }
        if outcome.is_named() {
            self.built.outcomes.insert(name.clone(), outcome);
        } else {
            self.built.outcomes.remove(name);
        }
    }

    /// Returns whether the name is newly exported or no longer so.
    fn put_view(&mut self, view: ServiceView) -> bool {
        let name = view.name.clone();
        let merged = view.merged.as_ref();
        let homeless = merged.is_some_and(|merged| merged.kind == ServiceKind::ClusterSetIp)
            && !self.addresses.contains_key(&name);
        set(&mut self.built.homeless, &name, homeless);
        let exports_changed =
            set(&mut self.built.exported, &name, merged.is_some_and(|merged| merged.exported_here));
        let held = self.built.services.get(&name);
        let exists = view.local.is_some() || view.merged.is_some();
        if exists && held.is_some_and(|held| **held == view) || !exists && held.is_none() {
            return exports_changed;
        }
        if held.map(|held| shape(held)) != exists.then(|| shape(&view)) {
            let routes = self.routes_by_service.get(&name).into_iter().flatten();
            self.dirty.routes.extend(routes.cloned());
        }
        if exists {
            self.built.services.insert(name, Arc::new(view));
        } else {
            self.built.services.remove(&name);
        }
        self.built.changed = true;
        exports_changed
    }

    fn rebuild_peer(&mut self, name: &ClusterName) {
        let Some(state) = self.peers.get(name) else {
            self.built.changed |= self.built.peers.remove(name).is_some();
            return;
        };
        let Some(peer) = state.peer.clone() else { return };
        let exported_to = match state.active() {
            Some(_) => self.built.exported.clone(),
            None => BTreeSet::new(),
        };
        let view = PeerView { peer, freshness: state.freshness(), exported_to, imports: state.imports() };
        let held = self.built.peers.get(name);
        if held.is_none_or(|held| **held != view) {
            self.built.peers.insert(name.clone(), Arc::new(view));
            self.built.changed = true;
        }
    }

    fn rebuild_routes(&mut self) {
        let dirty = std::mem::take(&mut self.dirty.routes);
        if dirty.is_empty() && !std::mem::take(&mut self.dirty.listeners) {
            return;
        }
        self.dirty.listeners = false;
        for key in dirty {
            self.resolve_route(&key);
        }
        let attached = attach(&Input {
            gateways: &self.gateways,
            routes: &self.routes,
            resolved: &self.built.resolved,
            previous: &self.built.listeners,
        });
        self.built.changed |= attached.listeners != self.built.listeners;
        self.built.listeners = attached.listeners;
        let before = std::mem::replace(&mut self.built.conditions, attached.conditions);
        let after = &self.built.conditions;
        let gone = before.keys().filter(|key| !after.contains_key(*key));
        let changed = after.iter().filter(|(key, conditions)| before.get(*key) != Some(*conditions));
        self.effects.conditions.extend(gone.chain(changed.map(|(key, _)| key)).cloned());
    }

    fn resolve_route(&mut self, key: &ObjectKey) {
        let object = self.routes.get(key).map(|aged| &*aged.object);
        let Some(Object::HttpRoute(route)) = object else {
            self.built.resolved.remove(key);
            return;
        };
        let mut resolved = resolve(route, &self.built.services);
        resolved.route = keep(self.built.resolved.get(key).map(|held| &held.route), resolved.route);
        self.built.resolved.insert(key.clone(), resolved);
    }
}

/// What a route can see of a service: not its endpoints.
fn shape(view: &ServiceView) -> impl PartialEq {
    let local = view.local.as_ref().map(|local| local.service.ports.clone());
    let merged = view.merged.as_ref().map(|merged| merged.ports.clone());
    (local, merged)
}

/// Puts the name in or out; returns whether that changed anything.
fn set(names: &mut BTreeSet<ServiceName>, name: &ServiceName, member: bool) -> bool {
    if member { names.insert(name.clone()) } else { names.remove(name) }
}

fn merged_condition(name: &ServiceName, peer: &ClusterName, admission: &Admission) -> Condition {
    if admission.merged.contains(peer) {
        return Condition::holds(ConditionKind::Merged, "Merged", "");
    }
    let namespace = &name.namespace;
    let why = match &admission.first {
        Some(first) => format!("{first} already contributes to this name"),
        None if is_protected(namespace) => format!("namespace {namespace} is protected"),
        None => "the name is taken".to_owned(),
    };
    let message =
        format!("{why}; to merge it, export {name} here or name {namespace} in the sameness of Peer {peer}");
    Condition::fails(ConditionKind::Merged, "MergePending", message)
}

fn fresh_condition(freshness: Freshness) -> Condition {
    match freshness {
        Freshness::Fresh => Condition::holds(ConditionKind::Fresh, "Fresh", ""),
        Freshness::Suspect => {
            Condition::fails(ConditionKind::Fresh, "Suspect", "the peer's stream makes no progress")
        }
        Freshness::Expired => {
            let message = "nothing was heard of the peer for long; the name stays, requests are answered 503";
            Condition::fails(ConditionKind::Fresh, "Expired", message)
        }
    }
}
