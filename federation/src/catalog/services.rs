//! What this cluster's own objects say of each service name.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Condition, ConditionKind, EndpointSlice, Object};
use crate::model::{Endpoint, Export, Locality, ObjectKey, Service, ServiceName, Timestamp};
use crate::snapshot::LocalService;

/// The objects of one name, which may come in any order.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// `Object::Service` or `Object::ExternalName`.
    service: Option<Arc<Object>>,
    slices: BTreeMap<ObjectKey, Arc<Object>>,
    export: Option<(ObjectKey, Timestamp)>,
}

#[derive(Debug, Default)]
pub(super) struct Services {
    parts: BTreeMap<ServiceName, Parts>,
}

/// The service name that an object belongs to, if it belongs to one.
pub(super) fn service_of(object: &Object) -> Option<&ServiceName> {
    match object {
        Object::Service(service) => Some(&service.name),
        Object::ExternalName(name) | Object::Export(name) => Some(name),
        Object::Endpoints(slice) => Some(&slice.service),
        Object::Gateway(_) | Object::HttpRoute(_) => None,
    }
}

impl Services {
    pub(super) fn insert(
        &mut self,
        name: &ServiceName,
        key: &ObjectKey,
        created: Timestamp,
        object: Arc<Object>,
    ) {
        let parts = self.parts.entry(name.clone()).or_default();
        match &*object {
            Object::Service(_) | Object::ExternalName(_) => parts.service = Some(object),
            Object::Export(_) => parts.export = Some((key.clone(), created)),
            Object::Endpoints(_) => drop(parts.slices.insert(key.clone(), object)),
            Object::Gateway(_) | Object::HttpRoute(_) => {}
        }
    }

    pub(super) fn remove(&mut self, name: &ServiceName, key: &ObjectKey, object: &Object) {
        let Some(parts) = self.parts.get_mut(name) else { return };
        match object {
            Object::Service(_) | Object::ExternalName(_) => parts.service = None,
            Object::Export(_) => parts.export = None,
            Object::Endpoints(_) => drop(parts.slices.remove(key)),
            Object::Gateway(_) | Object::HttpRoute(_) => {}
        }
        if parts.service.is_none() && parts.export.is_none() && parts.slices.is_empty() {
            self.parts.remove(name);
        }
    }

    pub(super) fn get(&self, name: &ServiceName) -> Option<&Parts> {
        self.parts.get(name)
    }
}

impl Parts {
    /// The service as it is here; what did not change is shared with `previous`.
    pub(super) fn local_service(&self, previous: Option<&LocalService>) -> Option<LocalService> {
        let service = self.service()?.clone();
        let endpoints = endpoints(self.slices.values().filter_map(|object| match &**object {
            Object::Endpoints(slice) => Some(slice),
            _ => None,
        }));
        let endpoints = match previous {
            Some(held) => share(&held.endpoints, endpoints),
            None => endpoints.into(),
        };
        let name = service.name.clone();
        let export = self.export.as_ref().map(|(_, created)| Export { service: name, created: *created });
        Some(LocalService { service, endpoints, export })
    }

    fn service(&self) -> Option<&Service> {
        match self.service.as_deref() {
            Some(Object::Service(service)) => Some(service),
            _ => None,
        }
    }

    /// The export's object and its `Valid` condition, where there is an export.
    pub(super) fn export(&self) -> Option<(&ObjectKey, Condition)> {
        let (key, _) = self.export.as_ref()?;
        let condition = match self.service.as_deref() {
            Some(Object::Service(_)) => Condition::holds(ConditionKind::Valid, "Valid", ""),
            Some(_) => Condition::fails(
                ConditionKind::Valid,
                "InvalidServiceType",
                "a Service of type ExternalName has no endpoints to export",
            ),
            None => Condition::fails(
                ConditionKind::Valid,
                "NoService",
                format!("there is no Service {}/{} yet", key.namespace, key.name),
            ),
        };
        Some((key, condition))
    }
}

/// All endpoints in a fixed order; one that several slices name is taken once, at its best.
fn endpoints<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Vec<Arc<Endpoint>> {
    let mut all: Vec<Arc<Endpoint>> = slices.flat_map(|slice| slice.endpoints.iter().cloned()).collect();
    all.sort_unstable_by(order);
    all.dedup_by(|later, kept| later.host == kept.host && later.ports == kept.ports);
    all
}

fn order(a: &Arc<Endpoint>, b: &Arc<Endpoint>) -> Ordering {
    (&a.host, &a.ports, a.readiness).cmp(&(&b.host, &b.ports, b.readiness)).then_with(|| a.cmp(b))
}

/// Keeps the allocations of what was there before; both are in order.
fn share(held: &Arc<[Arc<Endpoint>]>, mut new: Vec<Arc<Endpoint>>) -> Arc<[Arc<Endpoint>]> {
    let mut old = held.iter().peekable();
    for endpoint in &mut new {
        while old.next_if(|old| order(old, endpoint) == Ordering::Less).is_some() {}
        if let Some(same) = old.next_if(|old| *old == endpoint) {
            *endpoint = Arc::clone(same);
        }
    }
    if **held == *new { Arc::clone(held) } else { new.into() }
}

/// An endpoint of this cluster whose place is not said is where the cluster is.
pub(super) fn place(slice: &mut EndpointSlice, cluster: &Locality) {
    for endpoint in &mut slice.endpoints {
        if !endpoint.locality.region.is_empty() || cluster.is_unknown() {
            continue;
        }
        let mut placed = Endpoint::clone(endpoint);
        placed.locality.region.clone_from(&cluster.region);
        if placed.locality.zone.is_empty() {
            placed.locality = cluster.clone();
        }
        *endpoint = Arc::new(placed);
    }
}
