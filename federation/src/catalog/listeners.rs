//! Listeners of all gateways, which of them can be served, and which routes each one has.
//!
//! Order of judgement for a route and a parent (notes/conformance 5.2): the gateway exists, the
//! section and port name a listener, the listener takes routes from the namespace, the host names
//! overlap. References of the route are judged elsewhere: a route with bad references is attached.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::backends::Resolved;
use super::peers::keep;
use super::{Condition, ConditionKind, Gateway, GatewayListener, Object, Route, RoutesFrom};
use crate::model::{Hostname, HttpRoute, Label, Listener, ObjectKey, ParentRef, Timestamp};
use crate::snapshot::ListenerView;

/// A `Gateway` or `HTTPRoute` object and its age.
#[derive(Debug, Clone)]
pub(super) struct Aged {
    pub(super) created: Timestamp,
    pub(super) object: Arc<Object>,
}

/// What is to be attached to what.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) gateways: &'a BTreeMap<ObjectKey, Aged>,
    pub(super) routes: &'a BTreeMap<ObjectKey, Aged>,
    pub(super) resolved: &'a BTreeMap<ObjectKey, Resolved>,
    pub(super) previous: &'a [Arc<ListenerView>],
}

#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) listeners: Vec<Arc<ListenerView>>,
    pub(super) conditions: BTreeMap<ObjectKey, Vec<Condition>>,
}

/// A listener on its way to being served.
struct Candidate<'a> {
    listener: &'a GatewayListener,
    conflict: Option<String>,
    routes: Vec<(Timestamp, Arc<HttpRoute>)>,
}

pub(super) fn attach(input: &Input<'_>) -> Attached {
    let mut candidates = candidates(input.gateways);
    let mut conditions = BTreeMap::new();
    for (key, aged) in input.routes {
        if let (Object::HttpRoute(route), Some(resolved)) = (&*aged.object, input.resolved.get(key)) {
            conditions.insert(key.clone(), attach_route(route, resolved, input.gateways, &mut candidates));
        }
    }
    for (key, aged) in input.gateways {
        if let Object::Gateway(gateway) = &*aged.object {
            conditions.insert(key.clone(), gateway_conditions(key, gateway, &candidates));
        }
    }
    let serving = candidates.into_iter().filter(|candidate| candidate.conflict.is_none());
    let listeners = serving.map(|candidate| view(candidate, input.previous)).collect();
    Attached { listeners, conditions }
}

/// Two listeners of one port and host name exclude each other: within a gateway both lose, between
/// gateways the older gateway's stays.
fn candidates(gateways: &BTreeMap<ObjectKey, Aged>) -> Vec<Candidate<'_>> {
    type Place<'a> = (Option<IpAddr>, u16, Option<&'a Hostname>);
    let place = |l: &'_ Listener| (l.address, l.port, l.hostname.clone());
    let mut by_age: Vec<_> =
        gateways.iter().filter_map(|(key, aged)| Some((aged.created, key, serves(aged)?))).collect();
    by_age.sort_by_key(|(created, key, _)| (*created, *key));
    let mut taken: BTreeMap<Place<'_>, &ObjectKey> = BTreeMap::new();
    let mut candidates = Vec::new();
    for (_, key, gateway) in by_age {
        let mut own: BTreeMap<_, usize> = BTreeMap::new();
        for listener in &gateway.listeners {
            *own.entry(place(&listener.listener)).or_default() += 1;
        }
        for listener in &gateway.listeners {
            let l = &listener.listener;
            let at = (l.address, l.port, l.hostname.as_ref());
            let conflict = match taken.get(&at) {
                _ if own[&place(l)] > 1 => Some("another listener of this Gateway".to_owned()),
                Some(first) if **first != *key => Some(first.to_string()),
                _ => None,
            };
            if conflict.is_none() {
                taken.insert(at, key);
            }
            candidates.push(Candidate { listener, conflict, routes: Vec::new() });
        }
    }
    candidates.sort_by(|a, b| order(&a.listener.listener).cmp(&order(&b.listener.listener)));
    candidates
}

fn order(listener: &Listener) -> (&ObjectKey, &Label, Option<IpAddr>) {
    (&listener.gateway, &listener.name, listener.address)
}

fn serves(aged: &Aged) -> Option<&Gateway> {
    match &*aged.object {
        Object::Gateway(gateway) if !gateway.faults.iter().any(Condition::is_refusal) => Some(gateway),
        _ => None,
    }
}

fn attach_route(
    route: &Route,
    resolved: &Resolved,
    gateways: &BTreeMap<ObjectKey, Aged>,
    candidates: &mut [Candidate<'_>],
) -> Vec<Condition> {
    let mut conditions = Vec::new();
    if !route.faults.iter().any(Condition::is_refusal) {
        for parent in &route.route.parents {
            let accepted = attach_parent(&resolved.route, parent, gateways, candidates);
            conditions.push(accepted.of(parent_name(parent)));
        }
    }
    conditions.extend(route.faults.iter().cloned());
    conditions.extend(resolved.conditions.iter().cloned());
    conditions
}

fn attach_parent(
    route: &Arc<HttpRoute>,
    parent: &ParentRef,
    gateways: &BTreeMap<ObjectKey, Aged>,
    candidates: &mut [Candidate<'_>],
) -> Condition {
    let refused = |reason, message: String| Condition::fails(ConditionKind::Accepted, reason, message);
    if !gateways.contains_key(&parent.gateway) {
        return refused("NoMatchingParent", format!("there is no {}", parent.gateway));
    }
    let named: Vec<_> = candidates.iter_mut().filter(|c| is_named(&c.listener.listener, parent)).collect();
    if named.is_empty() {
        let message = format!("{} serves no listener of that name and port", parent.gateway);
        return refused("NoMatchingParent", message);
    }
    let allowing: Vec<_> = named.into_iter().filter(|c| allows(c.listener, &route.key.namespace)).collect();
    if allowing.is_empty() {
        let message = format!("no listener takes routes from namespace {}", route.key.namespace);
        return refused("NotAllowedByListeners", message);
    }
    let mut attached = 0;
    for candidate in allowing {
        if let Some(narrowed) = narrow(route, candidate.listener.listener.hostname.as_ref()) {
            attached += 1;
            // Two parent references may lead to the same listener.
            if !candidate.routes.iter().any(|(_, held)| held.key == route.key) {
                candidate.routes.push((route.created, narrowed));
            }
        }
    }
    if attached == 0 {
        return refused("NoMatchingListenerHostname", "no host name is also a listener's".to_owned());
    }
    Condition::holds(ConditionKind::Accepted, "Accepted", "")
}

fn is_named(listener: &Listener, parent: &ParentRef) -> bool {
    listener.gateway == parent.gateway
        && parent.section.as_ref().is_none_or(|section| *section == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

fn allows(listener: &GatewayListener, namespace: &Label) -> bool {
    match listener.routes_from {
        RoutesFrom::SameNamespace => listener.listener.gateway.namespace == *namespace,
        RoutesFrom::AllNamespaces => true,
        RoutesFrom::Nowhere => false,
    }
}

/// The route with only the host names that are the listener's too; none if there is no such name.
fn narrow(route: &Arc<HttpRoute>, listener: Option<&Hostname>) -> Option<Arc<HttpRoute>> {
    let Some(listener) = listener.filter(|_| !route.hostnames.is_empty()) else {
        return Some(Arc::clone(route));
    };
    let hostnames: Vec<_> = route.hostnames.iter().filter_map(|name| name.intersection(listener)).collect();
    if hostnames.is_empty() {
        return None;
    }
    if hostnames == route.hostnames {
        return Some(Arc::clone(route));
    }
    Some(Arc::new(HttpRoute { hostnames, ..HttpRoute::clone(route) }))
}

fn view(mut candidate: Candidate<'_>, previous: &[Arc<ListenerView>]) -> Arc<ListenerView> {
    let listener = candidate.listener.listener.clone();
    candidate.routes.sort_by(|(a, x), (b, y)| (a, &x.key).cmp(&(b, &y.key)));
    let held = previous.iter().find(|held| order(&held.listener) == order(&listener));
    let share = |route: Arc<HttpRoute>| {
        let same = held.and_then(|held| held.routes.iter().find(|other| other.key == route.key));
        keep(same, route)
    };
    let routes = candidate.routes.into_iter().map(|(_, route)| share(route)).collect();
    keep(held, Arc::new(ListenerView { listener, routes }))
}

fn gateway_conditions(key: &ObjectKey, gateway: &Gateway, candidates: &[Candidate<'_>]) -> Vec<Condition> {
    let mut conditions = gateway.faults.clone();
    if gateway.faults.iter().any(Condition::is_refusal) {
        return conditions;
    }
    let own: Vec<_> = candidates.iter().filter(|c| c.listener.listener.gateway == *key).collect();
    for candidate in &own {
        conditions.extend(listener_conditions(candidate));
    }
    let served = own.iter().filter(|candidate| candidate.conflict.is_none()).count();
    let refused = own.len() - served + gateway.faults.len();
    conditions.insert(
        0,
        match (served, refused) {
            (0, _) => {
                Condition::fails(ConditionKind::Accepted, "ListenersNotValid", "no listener can be served")
            }
            (_, 0) => Condition::holds(ConditionKind::Accepted, "Accepted", ""),
            _ => Condition::holds(
                ConditionKind::Accepted,
                "ListenersNotValid",
                "not every listener can be served",
            ),
        },
    );
    conditions
}

fn listener_conditions(candidate: &Candidate<'_>) -> Vec<Condition> {
    let name = candidate.listener.listener.name.as_str();
    let conditions = match &candidate.conflict {
        Some(other) => {
            let message = format!("{other} has the same port and host name");
            vec![
                Condition::fails(ConditionKind::Accepted, "HostnameConflict", message.clone()),
                Condition::holds(ConditionKind::Conflicted, "HostnameConflict", message),
            ]
        }
        None => {
            let message = format!("{} routes attached", candidate.routes.len());
            vec![
                Condition::holds(ConditionKind::Accepted, "Accepted", message),
                Condition::fails(ConditionKind::Conflicted, "NoConflicts", ""),
            ]
        }
    };
    conditions.into_iter().map(|condition| condition.of(name)).collect()
}

fn parent_name(parent: &ParentRef) -> String {
    let section = parent.section.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
    let port = parent.port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}/{}{section}{port}", parent.gateway.namespace, parent.gateway.name)
}
