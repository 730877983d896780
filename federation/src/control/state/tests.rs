//! Whatever a state is, it comes out at the other end as it went in, whole or change by change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::subsequence;
use rustls::pki_types::CertificateDer;
use trust_bundle::{BuiltinCa, Bundle, CaSettings, SpiffeId, TrustDomain};

use super::*;
use crate::clock;
use crate::model::{
    AppProtocol, Backend, BackendTarget, ClusterName, Endpoint, Export, Freshness, HeaderMatch, Host,
    HttpMatch, HttpRoute, HttpRule, Import, ImportedEndpoint, ImportedGroup, Listener, ListenerProtocol,
    Locality, ObjectKey, PathMatch, Peer, Readiness, RelationshipState, Service, ServiceKind, ServiceName,
    ServicePort, Timestamp, Transport,
};
use crate::snapshot::{ListenerView, LocalCluster, LocalService, MergedService, PeerView, ServiceView};

const SERVICES: [&str; 4] = ["cart.shop", "cart.test", "pay.shop", "web.shop"];
const PEERS: [&str; 3] = ["cloud", "edge", "quay"];

/// One root for each trust domain; making one takes a while.
static ROOTS: LazyLock<BTreeMap<TrustDomain, CertificateDer<'static>>> = LazyLock::new(|| {
    let domains = PEERS.iter().chain(&["onprem"]).map(|name| domain(name));
    domains.map(|domain| (domain.clone(), root(domain))).collect()
});

fn domain(cluster: &str) -> TrustDomain {
    format!("{cluster}.example").as_str().try_into().unwrap()
}

fn root(domain: TrustDomain) -> CertificateDer<'static> {
    let directory = tempfile::tempdir().unwrap();
    let ca = BuiltinCa::open(directory.path(), domain, CaSettings::default(), clock::unix_now()).unwrap();
    ca.bundle().authorities()[0].certificate().clone().into_owned()
}

fn bundle(cluster: &str, sequence: u64) -> Arc<Bundle> {
    let (domain, hint) = (domain(cluster), Duration::from_secs(300));
    let roots = [ROOTS[&domain].clone()];
    Arc::new(Bundle::publish(domain, &roots, sequence, hint, clock::unix_now()).unwrap())
}

fn place() -> impl Strategy<Value = Locality> {
    let word = || prop_oneof![Just(String::new()), "[a-z]{1,3}", Just("\n\" +-\u{7f}ä".to_owned())];
    (word(), word(), word()).prop_map(|(region, zone, sub_zone)| Locality { region, zone, sub_zone })
}

fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let protocol = prop_oneof![Just(AppProtocol::Http), Just(AppProtocol::Tcp), Just(AppProtocol::Auto)];
    let port =
        ("[a-z]{0,4}", 1..u16::MAX, any::<bool>(), protocol).prop_map(|(name, port, udp, protocol)| {
            ServicePort { name, port, transport: if udp { Transport::Udp } else { Transport::Tcp }, protocol }
        });
    prop::collection::vec(port, 0..3)
}

fn kind() -> impl Strategy<Value = ServiceKind> {
    prop_oneof![Just(ServiceKind::ClusterSetIp), Just(ServiceKind::Headless)]
}

fn endpoint() -> impl Strategy<Value = Arc<Endpoint>> {
    let host = prop_oneof![
        any::<std::net::IpAddr>().prop_map(|ip| Host::Ip(ip.to_canonical())),
        Just(Host::try_from("db.example.com").unwrap())
    ];
    let ports =
        prop_oneof![Just(8080_u16), Just(9090)].prop_map(|port| BTreeMap::from([("http".into(), port)]));
    let readiness = prop_oneof![Just(Readiness::Ready), Just(Readiness::Draining), Just(Readiness::NotReady)];
    let hostname = prop_oneof![Just(None), Just(Some("db-0".try_into().unwrap()))];
    (host, ports, place(), readiness, 1..5_u32, hostname).prop_map(
        |(host, ports, locality, readiness, weight, hostname)| {
            Arc::new(Endpoint { host, ports: Arc::new(ports), locality, readiness, weight, hostname })
        },
    )
}

prop_compose! {
    fn local(name: ServiceName)(
        kind in kind(), ports in ports(), exported in any::<Option<i64>>(),
        endpoints in prop::collection::vec(endpoint(), 0..6),
    ) -> LocalService {
        let export = exported.map(|at| Export { service: name.clone(), created: Timestamp::from_unix(at) });
        LocalService { service: Service { name: name.clone(), kind, ports }, endpoints: endpoints.into(), export }
    }
}

prop_compose! {
    fn import(peer: ClusterName, service: ServiceName)(
        kind in kind(), ports in ports(), created in any::<i64>(),
        groups in prop::collection::vec((place(), any::<u32>(), any::<u64>()), 0..3),
        addresses in prop::collection::vec(any::<std::net::IpAddr>(), 0..3),
    ) -> Arc<Import> {
        let group = |(locality, ready, weight)| ImportedGroup { locality, ready, weight };
        let endpoint = |address| ImportedEndpoint { address, hostname: None };
        Arc::new(Import {
            service: service.clone(), peer: peer.clone(), kind, ports, created: Timestamp::from_unix(created),
            groups: groups.into_iter().map(group).collect(),
            endpoints: addresses.into_iter().map(endpoint).collect(),
            freshness: Freshness::Fresh,
        })
    }
}

fn peer(name: &str, gone: bool) -> Peer {
    let trust_domain = domain(name);
    let id = |path| SpiffeId::new(&trust_domain, path).unwrap();
    let at = Timestamp::from_unix(7);
    Peer {
        name: name.try_into().unwrap(),
        gateway_id: id("/isthmus/gateway"),
        federation_id: id("/isthmus/federation"),
        trust_domain: trust_domain.clone(),
        gateways: vec!["gw.example.com:15443".parse().unwrap()],
        joined: at,
        state: if gone { RelationshipState::RemovedByPeer { at } } else { RelationshipState::Active },
        sameness: vec!["shop".try_into().unwrap()],
    }
}

fn route(word: &str) -> Arc<HttpRoute> {
    let service: ServiceName = "web.shop".parse().unwrap();
    let target = |target| Backend { weight: 1, target };
    Arc::new(HttpRoute {
        key: object("HTTPRoute", "web"),
        created: Timestamp::from_unix(1),
        parents: Vec::new(),
        hostnames: vec!["*.example.com".try_into().unwrap()],
        rules: vec![HttpRule {
            matches: vec![HttpMatch {
                path: PathMatch::Prefix(format!("/{word}")),
                headers: vec![HeaderMatch { name: "x".into(), value: word.into() }],
            }],
            backends: vec![
                target(BackendTarget::Service { service: service.clone(), port: 80 }),
                target(BackendTarget::Import { service, port: None }),
                target(BackendTarget::Invalid { reason: word.into() }),
            ],
        }],
    })
}

fn object(kind: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: kind.into(), namespace: "shop".try_into().unwrap(), name: name.try_into().unwrap() }
}

fn listener(number: usize, route: &Arc<HttpRoute>) -> Arc<ListenerView> {
    let listener = Listener {
        gateway: object("Gateway", "edge.of.shop"),
        name: format!("l{number}").as_str().try_into().unwrap(),
        address: (number % 2 == 1).then(|| "::1".parse().unwrap()),
        port: 8080,
        protocol: ListenerProtocol::Http,
        hostname: None,
    };
    // As if they had been attached one by one.
    Arc::new(ListenerView { listener, routes: vec![Arc::clone(route)] })
}

type Imports = BTreeMap<ClusterName, BTreeMap<ServiceName, Arc<Import>>>;

fn imports() -> impl Strategy<Value = Imports> {
    let all: Vec<_> =
        PEERS.iter().flat_map(|peer| SERVICES.iter().map(move |service| (*peer, *service))).collect();
    let count = all.len();
    subsequence(all, 0..=count).prop_flat_map(|chosen| {
        let imports: Vec<_> = chosen
            .into_iter()
            .map(|(peer, service)| import(peer.try_into().unwrap(), service.parse().unwrap()))
            .collect();
        imports.prop_map(|imports| {
            let mut by_peer = Imports::new();
            for import in imports {
                by_peer.entry(import.peer.clone()).or_default().insert(import.service.clone(), import);
            }
            by_peer
        })
    })
}

fn states() -> impl Strategy<Value = State> {
    let locals: Vec<_> = SERVICES.iter().map(|name| prop::option::of(local(name.parse().unwrap()))).collect();
    let peers = subsequence(PEERS.to_vec(), 0..=PEERS.len());
    let merged = prop::collection::vec(any::<bool>(), SERVICES.len());
    let rest = (place(), 0..3_usize, "[a-z]{1,2}", 1..3_u64, any::<bool>());
    (imports(), locals, peers, merged, rest).prop_map(|(imports, locals, peers, merged, rest)| {
        let (locality, listeners, word, sequence, gone) = rest;
        let of_peer = |name: &ClusterName| imports.get(name).cloned().unwrap_or_default();
        let view = |name: &&str| {
            let peer = peer(name, gone);
            let exported_to: BTreeSet<_> =
                merged.iter().zip(SERVICES).filter(|(m, _)| **m).map(|(_, s)| s.parse().unwrap()).collect();
            let view =
                PeerView { imports: of_peer(&peer.name), peer, freshness: Freshness::Suspect, exported_to };
            (view.peer.name.clone(), Arc::new(view))
        };
        let peers: BTreeMap<_, _> = peers.iter().map(view).collect();
        let mut services = BTreeMap::new();
        for ((name, local), is_merged) in SERVICES.iter().zip(locals).zip(&merged) {
            let name: ServiceName = name.parse().unwrap();
            let contributions = peers.values().filter_map(|view| view.imports.get(&name).cloned());
            let merged = is_merged.then(|| MergedService {
                kind: ServiceKind::ClusterSetIp,
                ports: Vec::new(),
                exported_here: local.is_some(),
                imports: contributions.collect(),
                addresses: vec!["127.64.0.1".parse().unwrap()],
            });
            if local.is_some() || merged.is_some() {
                services.insert(name.clone(), Arc::new(ServiceView { name, local, merged }));
            }
        }
        let route = route(&word);
        let cluster = LocalCluster {
            name: "onprem".try_into().unwrap(),
            trust_domain: domain("onprem"),
            locality,
            gateways: Some(2),
        };
        let known = peers.keys().map(|name| name.as_str().to_owned()).chain(["onprem".to_owned()]);
        let bundles = known.map(|name| (domain(&name), bundle(&name, sequence))).collect();
        let snapshot = Snapshot {
            generation: Generation(1 + sequence),
            cluster: Arc::new(cluster),
            services,
            peers,
            listeners: (0..listeners).map(|number| listener(number, &route)).collect(),
        };
        State { snapshot: Arc::new(snapshot), bundles }
    })
}

fn received(parts: &Parts) -> Held {
    let delta = Delta::parse(&parts.full().to_bytes()).unwrap();
    Held::default().apply_announced(&delta, parts.digest(), clock::unix_now()).unwrap()
}

proptest! {
    #[test]
    fn states_read_back_as_written(state in states()) {
        let parts = Parts::encode(state.clone(), None);
        let full = parts.full();
        prop_assert_eq!(full.length(), full.to_bytes().len());
        let (mut chunks, mut sent) = (full.chunks(), Vec::new());
        loop {
            let chunk = chunks.next(100);
            prop_assert!(chunk.len() <= 100);
            if chunk.is_empty() { break }
            sent.extend_from_slice(&chunk);
        }
        prop_assert_eq!(&sent, &full.to_bytes());
        let read = decode(&full.to_bytes(), state.generation(), clock::unix_now()).unwrap();
        prop_assert_eq!(&read, &state);
        // What was read gives the same bytes, so the digest is one of the content.
        prop_assert_eq!(Parts::encode(read, None).digest(), parts.digest());
    }

    #[test]
    fn a_change_leads_to_the_same_state_and_digest(a in states(), b in states()) {
        let old = Parts::encode(a, None);
        let new = Parts::encode(b.clone(), Some(&old));
        prop_assert_eq!(new.digest(), Parts::encode(b.clone(), None).digest(), "what is reused is the same");
        let delta = Delta::parse(&diff(&old, &new).to_bytes()).unwrap();
        let held = received(&old).apply_announced(&delta, new.digest(), clock::unix_now()).unwrap();
        prop_assert_eq!(held.state(b.generation()).unwrap(), b);
        prop_assert!(diff(&new, &new).is_empty());
    }

    #[test]
    fn equal_imports_and_routes_are_one(state in states()) {
        let state = received(&Parts::encode(state, None)).state(Generation(1)).unwrap();
        for merged in state.snapshot.services.values().filter_map(|view| view.merged.as_ref()) {
            for import in &merged.imports {
                let pinned = &state.snapshot.peers[&import.peer].imports[&import.service];
                prop_assert!(Arc::ptr_eq(import, pinned));
            }
        }
        let routes: Vec<_> = state.snapshot.listeners.iter().flat_map(|view| &view.routes).collect();
        prop_assert!(routes.windows(2).all(|pair| Arc::ptr_eq(pair[0], pair[1])));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(decode(&Bytes::from(bytes), Generation(1), clock::unix_now()));
    }

    #[test]
    fn no_spoiled_state_makes_it_panic(state in states(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = Parts::encode(state, None).full().to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        drop(decode(&bytes.into(), Generation(1), clock::unix_now()));
    }
}

fn changed(state: &State, change: impl FnOnce(&mut Snapshot)) -> State {
    let mut snapshot = Snapshot::clone(&state.snapshot);
    change(&mut snapshot);
    State { snapshot: Arc::new(snapshot), bundles: state.bundles.clone() }
}

/// Two peers offer `cart.shop`, which is merged; `web.shop` is only here.
fn world() -> State {
    let name = |text: &str| -> ServiceName { text.parse().unwrap() };
    let import = |peer: &str| {
        Arc::new(Import {
            service: name("cart.shop"),
            peer: peer.try_into().unwrap(),
            kind: ServiceKind::ClusterSetIp,
            ports: Vec::new(),
            created: Timestamp::from_unix(1),
            groups: Vec::new(),
            endpoints: Vec::new(),
            freshness: Freshness::Fresh,
        })
    };
    let view = |peer_name: &str| {
        let imports = BTreeMap::from([(name("cart.shop"), import(peer_name))]);
        let (peer, exported_to) = (peer(peer_name, false), BTreeSet::new());
        (peer.name.clone(), Arc::new(PeerView { peer, freshness: Freshness::Fresh, exported_to, imports }))
    };
    let peers: BTreeMap<_, _> = ["cloud", "edge"].map(view).into();
    let merged = MergedService {
        kind: ServiceKind::ClusterSetIp,
        ports: Vec::new(),
        exported_here: false,
        imports: peers.values().map(|view| Arc::clone(&view.imports[&name("cart.shop")])).collect(),
        addresses: Vec::new(),
    };
    let local = |text: &str| LocalService {
        service: Service { name: name(text), kind: ServiceKind::ClusterSetIp, ports: Vec::new() },
        endpoints: Arc::new([]),
        export: None,
    };
    let service = |text: &str, merged| {
        let view = ServiceView { name: name(text), local: Some(local(text)), merged };
        (view.name.clone(), Arc::new(view))
    };
    let cluster = LocalCluster {
        name: "onprem".try_into().unwrap(),
        trust_domain: domain("onprem"),
        locality: Locality::default(),
        gateways: None,
    };
    let snapshot = Snapshot {
        services: [service("cart.shop", Some(merged)), service("web.shop", None)].into(),
        peers,
        ..Snapshot::empty(Arc::new(cluster))
    };
    State { snapshot: Arc::new(snapshot), bundles: BTreeMap::new() }
}

fn with_import_of_cloud(state: &State, freshness: Freshness) -> State {
    let (cloud, cart): (ClusterName, ServiceName) =
        ("cloud".try_into().unwrap(), "cart.shop".parse().unwrap());
    changed(state, |snapshot| {
        let view = Arc::make_mut(snapshot.peers.get_mut(&cloud).unwrap());
        let import = Arc::new(Import { freshness, ..Import::clone(&view.imports[&cart]) });
        view.imports.insert(cart.clone(), Arc::clone(&import));
        let service = Arc::make_mut(snapshot.services.get_mut(&cart).unwrap());
        service.merged.as_mut().unwrap().imports[0] = import;
    })
}

#[test]
fn a_changed_import_sends_neither_its_service_nor_its_peer() {
    let old = Parts::encode(world(), None);
    let new = Parts::encode(with_import_of_cloud(old.state(), Freshness::Expired), Some(&old));
    let delta = diff(&old, &new);
    let keys: Vec<_> = delta.put.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys, delta.removed), (vec!["import/cloud/shop/cart"], vec![]));
}

#[test]
fn what_did_not_change_stays_the_same_allocation() {
    let old = Parts::encode(world(), None);
    let new = Parts::encode(with_import_of_cloud(old.state(), Freshness::Expired), Some(&old));
    let before = received(&old);
    let after = before.apply_announced(&diff(&old, &new), new.digest(), clock::unix_now()).unwrap();
    let (before, after) = (before.state(Generation(1)).unwrap(), after.state(Generation(2)).unwrap());
    let same = |name: &str| {
        let view =
            |state: &State| Arc::clone(&state.snapshot.services[&name.parse::<ServiceName>().unwrap()]);
        Arc::ptr_eq(&view(&before), &view(&after))
    };
    assert!(same("web.shop") && !same("cart.shop"));
    let peer =
        |state: &State, name: &str| Arc::clone(&state.snapshot.peers[&ClusterName::try_from(name).unwrap()]);
    assert!(Arc::ptr_eq(&peer(&before, "edge"), &peer(&after, "edge")));
    assert_eq!(after, changed(new.state(), |snapshot| snapshot.generation = Generation(2)));
}

#[test]
fn a_refused_change_leaves_what_is_held() {
    let (old, now) = (Parts::encode(world(), None), clock::unix_now());
    let held = received(&old);
    let new = Parts::encode(with_import_of_cloud(old.state(), Freshness::Expired), Some(&old));
    let wrong = held.apply_announced(&diff(&old, &new), old.digest(), now).unwrap_err();
    assert!(matches!(wrong, InvalidState::Digest { .. }), "{wrong}");
    let spoilt = |line: &'static str| {
        let delta = Delta::parse(&Bytes::from_static(line.as_bytes()));
        delta.map_err(InvalidState::from).and_then(|delta| held.apply(&delta, now)).unwrap_err().to_string()
    };
    for (line, reason) in [
        ("-import/cloud/shop/cart\n", "cart.shop merges an import of cloud that is not there"),
        ("+service/shop/web {\"name\":\"cart.shop\"}\n", "it is of something else than its key says"),
        ("+service/shop/web [\n", "service/shop/web cannot be read"),
        ("+service/shop/a.b {}\n", "is not the key of a part"),
        ("+bundle/Upper.example {}\n", "is not the key of a part"),
        ("+bundle/a.example {}\n", "bundle/a.example is no bundle"),
        ("+cluster {}", "it ends in the middle of line 1"),
        ("cluster {}\n", "line 1 is neither a part nor the end of one"),
        ("\n", "line 1 is neither a part nor the end of one"),
    ] {
        assert!(spoilt(line).contains(reason), "{line:?}: {}", spoilt(line));
    }
    assert_eq!(held.digest(), old.digest());
}

#[test]
fn endpoints_without_weight_or_place_are_refused() {
    let part = |endpoint: &str| {
        let json = format!(
            "+cluster {{\"name\":\"a\",\"trust_domain\":\"a.example\"}}\n+service/shop/web {{\"name\":\"web.shop\",\"local\":{{\"service\":{{\"name\":\"web.shop\",\"kind\":\"Headless\",\"ports\":[]}},\"ports\":[{{}}],\"places\":[{{}}],\"endpoints\":[{endpoint}]}}}}\n"
        );
        decode(&json.into(), Generation(1), clock::unix_now()).map(drop).map_err(|error| error.to_string())
    };
    part("{\"host\":\"192.0.2.1\"}").unwrap();
    assert!(part("{\"host\":\"192.0.2.1\",\"weight\":0}").unwrap_err().contains("no weight"));
    assert!(part("{\"host\":\"192.0.2.1\",\"place\":7}").unwrap_err().contains("does not have"));
    assert!(part("{\"host\":\"192.0.2.300\"}").unwrap_err().contains("host name"));
}

#[test]
fn kinds_of_tomorrow_count_for_the_digest_only() {
    let old = Parts::encode(world(), None);
    let tomorrow = Delta::parse(&Bytes::from_static(b"+policy/shop/web {\"x\":1}\n")).unwrap();
    let held = received(&old).apply(&tomorrow, clock::unix_now()).unwrap();
    assert_ne!(held.digest(), old.digest());
    assert_eq!(held.state(Generation(0)).unwrap(), world());
}
