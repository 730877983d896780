//! Gateways, routes and what they refer to (notes/conformance 5.2, 5.4).

use std::sync::Arc;

use super::world::{CART, World, import, object_key};
use crate::catalog::{ConditionKind, Event, Verdict};
use crate::model::{Backend, BackendTarget};

const EDGE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: isthmus
  listeners:
  - {name: web, protocol: HTTP, port: 8000, hostname: '*.example.com'}
  - {name: any, protocol: HTTP, port: 8001}
  - {name: open, protocol: HTTP, port: 8002, allowedRoutes: {namespaces: {from: All}}}
";

fn route(namespace: &str, name: &str, parent: &str, hostnames: &str, backends: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{parent}]
  hostnames: [{hostnames}]
  rules: [{{backendRefs: [{backends}]}}]
"
    )
}

const TO_CART: &str = "{name: cart, port: 80}";

/// Names of the listeners that a route is attached to.
fn attached(world: &mut World, route: &str) -> Vec<String> {
    world.publish();
    let views = world.snapshot.listeners.iter();
    let with = views.filter(|view| view.routes.iter().any(|r| r.key.name.as_str() == route));
    with.map(|view| view.listener.name.to_string()).collect()
}

#[test]
fn a_route_attaches_where_its_parent_reference_leads() {
    for (parent, namespace, hostnames, expected, reason) in [
        ("{name: edge}", "shop", "", &["any", "open", "web"][..], "Accepted"),
        ("{name: edge, sectionName: web}", "shop", "", &["web"], "Accepted"),
        ("{name: edge, port: 8001}", "shop", "", &["any"], "Accepted"),
        ("{name: edge, sectionName: web, port: 8001}", "shop", "", &[], "NoMatchingParent"),
        ("{name: edge, sectionName: tls}", "shop", "", &[], "NoMatchingParent"),
        ("{name: nowhere}", "shop", "", &[], "NoMatchingParent"),
        ("{name: edge, namespace: shop}", "other", "", &["open"], "Accepted"),
        ("{name: edge, namespace: shop, sectionName: any}", "other", "", &[], "NotAllowedByListeners"),
        ("{name: edge, sectionName: web}", "shop", "a.example.org", &[], "NoMatchingListenerHostname"),
        ("{name: edge}", "shop", "a.example.com", &["any", "open", "web"], "Accepted"),
        ("{name: edge}", "shop", "a.example.org", &["any", "open"], "Accepted"),
    ] {
        let mut world = World::new();
        world.file("edge.yaml", 1, EDGE);
        world.file("route.yaml", 2, &route(namespace, "r", parent, hostnames, TO_CART));
        assert_eq!(attached(&mut world, "r"), expected, "{parent} {hostnames}");
        let judged = world.condition(&format!("HTTPRoute {namespace}/r"), ConditionKind::Accepted);
        assert_eq!(judged.reason, reason, "{parent} {hostnames}");
        assert_eq!(judged.status == Verdict::True, reason == "Accepted");
    }
}

#[test]
fn a_listener_narrows_the_host_names() {
    let mut world = World::new();
    world.file("edge.yaml", 1, EDGE);
    let parent = "{name: edge, sectionName: web}";
    world.file("route.yaml", 2, &route("shop", "r", parent, "'*.com', x.example.com, y.org", TO_CART));
    world.publish();
    let web = world.snapshot.listeners.iter().find(|l| l.listener.name.as_str() == "web").unwrap();
    let names: Vec<_> = web.routes[0].hostnames.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["*.example.com", "x.example.com"]);
}

#[test]
fn backends_that_cannot_be_served_keep_their_share() {
    for (backend, reason, resolved) in [
        (TO_CART, "ResolvedRefs", true),
        ("{name: cart, port: 81}", "BackendNotFound", false),
        ("{name: absent, port: 80}", "BackendNotFound", false),
        ("{name: cart, namespace: other, port: 80}", "RefNotPermitted", false),
        ("{group: multicluster.x-k8s.io, kind: ServiceImport, name: pay, port: 80}", "ResolvedRefs", true),
        ("{group: multicluster.x-k8s.io, kind: ServiceImport, name: pay}", "ResolvedRefs", true),
        (
            "{group: multicluster.x-k8s.io, kind: ServiceImport, name: pay, port: 81}",
            "BackendNotFound",
            false,
        ),
        (
            "{group: multicluster.x-k8s.io, kind: ServiceImport, name: cart, port: 80}",
            "BackendNotFound",
            false,
        ),
        ("{group: example.org, kind: Bucket, name: x}", "InvalidKind", false),
    ] {
        let mut world = World::new();
        world.file("edge.yaml", 1, EDGE).file("cart.yaml", 1, CART).peer("cloud", 1);
        world.apply(Event::ImportChanged(Arc::new(import("cloud", "pay.shop", 2))));
        world.file("r.yaml", 2, &route("shop", "r", "{name: edge}", "", &format!("{backend}, {TO_CART}")));
        let (status, found) = world.judged("HTTPRoute shop/r", ConditionKind::ResolvedRefs);
        assert_eq!((status == Verdict::True, found), (resolved, reason), "{backend}");
        let accepted = world.judged("HTTPRoute shop/r", ConditionKind::Accepted);
        assert_eq!(accepted.0, Verdict::True, "references do not decide over acceptance");
        let backends = &world.snapshot.listeners[0].routes[0].rules[0].backends;
        let invalid = |b: &Backend| matches!(b.target, BackendTarget::Invalid { .. });
        assert_eq!(backends.iter().map(invalid).collect::<Vec<_>>(), [!resolved, false], "{backend}");
        assert_eq!(backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [1, 1]);
    }
}

#[test]
fn a_backend_is_found_when_it_comes() {
    let mut world = World::new();
    world.file("edge.yaml", 1, EDGE);
    world.file("r.yaml", 2, &route("shop", "r", "{name: edge}", "", TO_CART));
    assert_eq!(world.judged("HTTPRoute shop/r", ConditionKind::ResolvedRefs).1, "BackendNotFound");
    world.file("cart.yaml", 3, CART);
    assert_eq!(world.judged("HTTPRoute shop/r", ConditionKind::ResolvedRefs).1, "ResolvedRefs");
    world.remove("cart.yaml", "Service shop/cart");
    assert_eq!(world.judged("HTTPRoute shop/r", ConditionKind::ResolvedRefs).1, "BackendNotFound");
}

#[test]
fn the_oldest_route_comes_first() {
    let mut world = World::new();
    world.file("edge.yaml", 1, EDGE);
    for (name, age) in [("b", 3), ("a", 3), ("c", 2)] {
        world.file(&format!("{name}.yaml"), age, &route("shop", name, "{name: edge}", "", TO_CART));
    }
    world.publish();
    let order: Vec<_> =
        world.snapshot.listeners[0].routes.iter().map(|r| r.key.name.as_str().to_owned()).collect();
    assert_eq!(order, ["c", "a", "b"]);
}

#[test]
fn two_references_to_one_listener_attach_once() {
    let mut world = World::new();
    world.file("edge.yaml", 1, EDGE);
    world.file("r.yaml", 2, &route("shop", "r", "{name: edge}, {name: edge, sectionName: web}", "", TO_CART));
    world.publish();
    assert!(world.snapshot.listeners.iter().all(|listener| listener.routes.len() == 1));
}

#[test]
fn listeners_that_exclude_each_other_are_told_so() {
    let mut world = World::new();
    let twice =
        EDGE.replace("name: any, protocol: HTTP, port: 8001", "name: any, protocol: HTTP, port: 8002");
    world.file("edge.yaml", 1, &twice);
    world.publish();
    let names: Vec<_> =
        world.snapshot.listeners.iter().map(|l| l.listener.name.as_str().to_owned()).collect();
    assert_eq!(names, ["web"], "inside one gateway both lose");
    let conditions = world.conditions("Gateway shop/edge");
    let conflicted: Vec<_> = conditions
        .iter()
        .filter(|c| c.kind == ConditionKind::Conflicted && c.status == Verdict::True)
        .map(|c| (c.reason, c.section.as_deref().unwrap()))
        .collect();
    assert_eq!(conflicted, [("HostnameConflict", "any"), ("HostnameConflict", "open")]);
    assert_eq!(
        world.judged("Gateway shop/edge", ConditionKind::Accepted),
        (Verdict::True, "ListenersNotValid")
    );
}

#[test]
fn between_gateways_the_older_listener_stays() {
    let mut world = World::new();
    world.file("late.yaml", 9, &EDGE.replace("name: edge", "name: a-late-one"));
    world.file("edge.yaml", 1, EDGE).publish();
    assert!(world.snapshot.listeners.iter().all(|l| l.listener.gateway == object_key("Gateway shop/edge")));
    let judged = world.judged("Gateway shop/a-late-one", ConditionKind::Accepted);
    assert_eq!(judged, (Verdict::False, "ListenersNotValid"));
    world.remove("edge.yaml", "Gateway shop/edge").publish();
    assert_eq!(world.snapshot.listeners.len(), 3);
}

#[test]
fn what_a_gateway_cannot_serve_leaves_the_rest_serving() {
    let mut world = World::new();
    let tls = "\n  - {name: tls, protocol: HTTPS, port: 8443}\n  - {name: sel, protocol: HTTP, port: 8004, allowedRoutes: {namespaces: {from: Selector}}}\n";
    world.file("edge.yaml", 1, &format!("{}{tls}", EDGE.trim_end())).publish();
    assert_eq!(world.snapshot.listeners.len(), 4);
    let conditions = world.conditions("Gateway shop/edge");
    let of = |section: &str, kind| {
        conditions.iter().find(|c| c.section.as_deref() == Some(section) && c.kind == kind)
    };
    assert_eq!(of("tls", ConditionKind::Accepted).unwrap().reason, "UnsupportedProtocol");
    assert_eq!(of("sel", ConditionKind::ResolvedRefs).unwrap().reason, "UnsupportedValue");
    assert_eq!(of("web", ConditionKind::Accepted).unwrap().status, Verdict::True);
}

#[test]
fn a_gateway_of_another_class_is_left_alone() {
    let mut world = World::new();
    world.file("edge.yaml", 1, &EDGE.replace("gatewayClassName: isthmus", "gatewayClassName: nginx"));
    world.publish();
    assert!(world.snapshot.listeners.is_empty());
    assert_eq!(world.judged("Gateway shop/edge", ConditionKind::Accepted), (Verdict::False, "NotOurs"));
}

#[test]
fn nothing_that_would_change_meaning_is_left_out_in_silence() {
    let rule = |fields: &str| {
        let text = route("shop", "r", "{name: edge}", "", TO_CART);
        text.replace("rules: [{", &format!("rules: [{{{fields}, "))
    };
    struct Case {
        fields: &'static str,
        attached: bool,
        /// Answers 500.
        invalid: bool,
        condition: (ConditionKind, Verdict),
    }
    let partial = (ConditionKind::PartiallyInvalid, Verdict::True);
    for case in [
        Case { fields: "filters: [{type: URLRewrite}]", attached: true, invalid: true, condition: partial },
        Case { fields: "timeouts: {request: 1s}", attached: true, invalid: false, condition: partial },
        Case {
            fields: "matches: [{path: {type: RegularExpression, value: /a}}]",
            attached: false,
            invalid: false,
            condition: (ConditionKind::Accepted, Verdict::False),
        },
        Case {
            fields: "matches: [{queryParams: [{name: a, value: b}]}]",
            attached: false,
            invalid: false,
            condition: (ConditionKind::Accepted, Verdict::False),
        },
    ] {
        let mut world = World::new();
        world.file("edge.yaml", 1, EDGE).file("cart.yaml", 1, CART).file("r.yaml", 2, &rule(case.fields));
        assert_eq!(!attached(&mut world, "r").is_empty(), case.attached, "{}", case.fields);
        let condition = world.condition("HTTPRoute shop/r", case.condition.0);
        assert_eq!(
            (condition.status, condition.reason),
            (case.condition.1, "UnsupportedValue"),
            "{}",
            case.fields
        );
        if case.attached {
            let target = &world.snapshot.listeners[0].routes[0].rules[0].backends[0].target;
            assert_eq!(matches!(target, BackendTarget::Invalid { .. }), case.invalid, "{}", case.fields);
        }
    }
}
