//! Whatever order the sources speak in, the same is known in the end.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::world::{self, World, cluster, file, imports, name, peer, port};
use crate::catalog::Event;
use crate::model::{Freshness, Import, Peer, ServiceKind};

/// What one source says, in its own order.
type Stream = Vec<Event>;

fn service() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a.x"), Just("b.x"), Just("c.kube-system")]
}

fn parts(service: &str) -> (&str, &str) {
    service.split_once('.').unwrap()
}

fn document() -> impl Strategy<Value = String> {
    prop_oneof![
        (service(), 80_u16..83, any::<bool>()).prop_map(|(service, port, headless)| {
            let (name, namespace) = parts(service);
            let ip = if headless { "None" } else { "\"\"" };
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{clusterIP: {ip}, ports: [{{name: http, port: {port}}}]}}}}")
        }),
        (service(), 0_u8..2, subsequence(vec![1, 2, 3], 0..=3)).prop_map(|(service, slice, hosts)| {
            let (name, namespace) = parts(service);
            let endpoints: Vec<_> = hosts.iter().map(|h| format!("{{addresses: [10.0.0.{h}]}}")).collect();
            format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-{slice}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{name: http, port: 1}}], endpoints: [{}]}}", endpoints.join(", "))
        }),
        service().prop_map(|service| {
            let (name, namespace) = parts(service);
            format!("{{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {{name: {name}, namespace: {namespace}}}}}")
        }),
        (0_u8..2, 80_u16..82, any::<bool>()).prop_map(|(gateway, port, wildcard)| {
            let hostname = if wildcard { "'*.com'" } else { "a.com" };
            format!("{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g{gateway}, namespace: x}}, spec: {{gatewayClassName: isthmus, listeners: [{{name: l, protocol: HTTP, port: {port}, hostname: {hostname}}}]}}}}")
        }),
        (0_u8..3, 0_u8..2, service(), any::<bool>(), 80_u16..83).prop_map(|(route, gateway, service, import, port)| {
            let (name, namespace) = parts(service);
            let kind = if import { "group: multicluster.x-k8s.io, kind: ServiceImport" } else { "kind: Service" };
            format!("{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r{route}, namespace: {namespace}}}, spec: {{parentRefs: [{{name: g{gateway}, namespace: x}}], hostnames: [a.com], rules: [{{backendRefs: [{{{kind}, name: {name}, port: {port}}}]}}]}}}}")
        }),
    ]
}

/// A file: documents come, change and go.
fn file_stream(path: &'static str) -> impl Strategy<Value = Stream> {
    vec((document(), 1_i64..4, prop::bool::weighted(0.25)), 0..8).prop_map(move |documents| {
        let mut stream = Stream::new();
        for (text, age, then_removed) in documents {
            for event in file(path, age, &text) {
                let Event::ObjectApplied { source, key, .. } = &event else { unreachable!() };
                let removal = Event::ObjectRemoved { source: source.clone(), key: key.clone() };
                stream.push(event);
                stream.extend(then_removed.then_some(removal));
            }
        }
        stream
    })
}

fn peer_event(name: &'static str) -> impl Strategy<Value = Event> {
    let import = move || {
        (service(), 1_i64..6, 80_u16..83, any::<bool>()).prop_map(
            move |(service, created, number, headless)| Import {
                kind: if headless { ServiceKind::Headless } else { ServiceKind::ClusterSetIp },
                ports: vec![port("http", number)],
                ..world::import(name, service, created)
            },
        )
    };
    let freshness = prop_oneof![Just(Freshness::Fresh), Just(Freshness::Suspect), Just(Freshness::Expired)];
    prop_oneof![
        3 => import().prop_map(|import| Event::ImportChanged(Arc::new(import))),
        2 => vec(import(), 0..3).prop_map(move |list| Event::ImportsReplaced { peer: cluster(name), imports: imports(list) }),
        1 => service().prop_map(move |service| Event::ImportRemoved { peer: cluster(name), service: world::name(service) }),
        1 => freshness.prop_map(move |freshness| Event::FreshnessChanged { peer: cluster(name), freshness }),
        2 => (1_i64..5, any::<bool>()).prop_map(move |(joined, same)| {
            let sameness = if same { vec!["x".try_into().unwrap()] } else { vec![] };
            Event::PeerChanged(Peer { sameness, ..peer(name, joined) })
        }),
        1 => Just(Event::PeerRemoved(cluster(name))),
    ]
}

fn store_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (service(), 2_u8..4).prop_map(|(service, n)| Event::AddressesAllocated {
            service: name(service),
            addresses: vec![std::net::Ipv4Addr::new(127, 80, 0, n).into()],
        }),
        service().prop_map(|service| Event::AddressesReleased(name(service))),
        (service(), prop_oneof![Just("p"), Just("q")])
            .prop_map(|(service, peer)| Event::NameClaimed { service: name(service), peer: cluster(peer) }),
    ]
}

/// Every source that a cluster has, each with something to say.
fn streams() -> impl Strategy<Value = Vec<Stream>> {
    (
        file_stream("a.yaml"),
        file_stream("b.yaml"),
        vec(peer_event("p"), 0..8),
        vec(peer_event("q"), 0..8),
        vec(store_event(), 0..5),
    )
        .prop_map(|(a, b, p, q, store)| vec![a, b, p, q, store])
}

/// One of the orders in which the streams can arrive.
fn interleave(streams: &[Stream], choices: &[Index]) -> Vec<Event> {
    let mut rest: Vec<_> = streams.iter().map(|stream| stream.iter()).collect();
    let mut events = Vec::new();
    for choice in choices.iter().cycle() {
        rest.retain(|stream| stream.len() > 0);
        if rest.is_empty() {
            break;
        }
        let stream = choice.index(rest.len());
        events.extend(rest[stream].next().cloned());
    }
    events
}

/// All that anybody can see of a catalog, but for the number of the generation.
fn content(world: &mut World) -> serde_json::Value {
    world.publish();
    let statuses: Vec<_> =
        ["Service", "EndpointSlice", "ServiceExport", "ServiceImport", "Gateway", "HTTPRoute"]
            .iter()
            .map(|kind| serde_json::to_value(world.catalog.objects(kind)).unwrap())
            .collect();
    let mut snapshot = serde_json::to_value(&*world.snapshot).unwrap();
    snapshot["generation"] = serde_json::Value::Null;
    let effects = world.effects();
    serde_json::json!([snapshot, statuses, format!("{:?} {:?}", effects.allocate, effects.claim)])
}

proptest! {
    #[test]
    fn every_interleaving_ends_the_same(streams in streams(), a in vec(any::<Index>(), 40), b in vec(any::<Index>(), 40)) {
        let [mut one, mut other] = [World::new(), World::new()];
        for event in interleave(&streams, &a) {
            one.apply(event);
        }
        for event in interleave(&streams, &b) {
            other.apply(event);
        }
        prop_assert_eq!(content(&mut one), content(&mut other));
    }

    #[test]
    fn a_build_after_each_event_is_a_build_from_scratch(streams in streams(), order in vec(any::<Index>(), 40)) {
        let [mut stepwise, mut at_once] = [World::new(), World::new()];
        for event in interleave(&streams, &order) {
            stepwise.apply(event.clone()).publish();
            at_once.apply(event);
        }
        prop_assert_eq!(content(&mut stepwise), content(&mut at_once));
    }

    #[test]
    fn an_event_applied_twice_is_applied_once(streams in streams(), order in vec(any::<Index>(), 40)) {
        let mut world = World::new();
        for event in interleave(&streams, &order) {
            world.apply(event.clone()).publish();
            world.apply(event);
            prop_assert!(!world.publish());
        }
    }
}
