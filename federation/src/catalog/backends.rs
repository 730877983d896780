//! What the backend references of a route lead to, judged against the services that exist.
//!
//! A reference that cannot be served is never dropped: its share of requests is answered 500
//! (notes/conformance 5.4), so that a wrong document is seen and never changes the split of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Condition, ConditionKind, Route};
use crate::model::{Backend, BackendTarget, HttpRoute, Label, ServiceName};
use crate::snapshot::ServiceView;

type Views = BTreeMap<ServiceName, Arc<ServiceView>>;

/// A route whose targets all exist or are marked invalid.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resolved {
    pub(super) route: Arc<HttpRoute>,
    /// One for each kind of fault, or that all is well.
    pub(super) conditions: Vec<Condition>,
}

struct Unresolved {
    reason: &'static str,
    message: String,
}

pub(super) fn resolve(route: &Route, services: &Views) -> Resolved {
    let mut resolved = route.route.clone();
    let mut faults: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let namespace = &route.route.key.namespace;
    for (rule, backend) in backends_mut(&mut resolved) {
        if let Err(fault) = judge(&backend.target, namespace, services) {
            faults.entry(fault.reason).or_default().push(format!("rule {rule}: {}", fault.message));
            let reason = format!("{}: {}", fault.reason, fault.message).into();
            backend.target = BackendTarget::Invalid { reason };
        }
    }
    let read = route.faults.iter().any(|c| c.kind == ConditionKind::ResolvedRefs);
    let mut conditions: Vec<_> = faults
        .into_iter()
        .map(|(reason, messages)| Condition::fails(ConditionKind::ResolvedRefs, reason, messages.join("; ")))
        .collect();
    if conditions.is_empty() && !read {
        conditions.push(Condition::holds(ConditionKind::ResolvedRefs, "ResolvedRefs", ""));
    }
    Resolved { route: Arc::new(resolved), conditions }
}

/// The services that a route's fate depends on.
pub(super) fn references(route: &HttpRoute) -> BTreeSet<ServiceName> {
    let targets = route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| &backend.target);
    targets
        .filter_map(|target| match target {
            BackendTarget::Service { service, .. } | BackendTarget::Import { service, .. } => {
                Some(service.clone())
            }
            BackendTarget::Invalid { .. } => None,
        })
        .collect()
}

fn backends_mut(route: &mut HttpRoute) -> impl Iterator<Item = (usize, &mut Backend)> {
    let rules = route.rules.iter_mut().enumerate();
    rules.flat_map(|(index, rule)| rule.backends.iter_mut().map(move |backend| (index, backend)))
}

fn judge(target: &BackendTarget, namespace: &Label, services: &Views) -> Result<(), Unresolved> {
    let (service, port, found, what) = match target {
        BackendTarget::Service { service, port } => {
            let local = services.get(service).and_then(|view| view.local.as_ref());
            (service, Some(*port), local.map(|local| local.port(*port).is_some()), "Service")
        }
        BackendTarget::Import { service, port } => {
            let merged = services.get(service).and_then(|view| view.merged.as_ref());
            let found = merged.map(|merged| port.is_none_or(|port| merged.port(port).is_some()));
            (service, *port, found, "ServiceImport")
        }
        // Reported where it was read.
        BackendTarget::Invalid { .. } => return Ok(()),
    };
    let name = format!("{what} {}/{}", service.namespace, service.name);
    if service.namespace != *namespace {
        let message = format!("{name} is in another namespace, and no ReferenceGrant allows that");
        return Err(Unresolved { reason: "RefNotPermitted", message });
    }
    let message = match (found, port) {
        (Some(true), _) => return Ok(()),
        (Some(false), Some(port)) => format!("{name} has no port {port}"),
        (Some(false) | None, _) => format!("there is no {name}"),
    };
    Err(Unresolved { reason: "BackendNotFound", message })
}
