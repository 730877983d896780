//! The router's decisions, each case as data.

use std::net::IpAddr;
use std::sync::Arc;

use federation::model::RelationshipState;
use federation::model::Timestamp;
use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::destination::{Destination, Scope};
use crate::testing::{SnapshotBuilder, cluster, route, snapshot};

/// Short for what routing ended in: `cart.shop:80@local`, or the reason why not.
fn show(result: Result<Destination, NoRoute>) -> String {
    match result {
        Ok(destination) => destination.key().to_string(),
        Err(reason) => reason.reason().to_owned(),
    }
}

fn mesh_world() -> SnapshotBuilder {
    snapshot()
        .service("cart.shop", "80=http 5432=tcp", &["10.0.0.1"])
        .export("cart.shop")
        .service("private.shop", "8080=http", &["10.0.0.2"])
        .import("cloud", "cart.shop", "80=http 9090=grpc", &["us/x ready=1"])
        .import("cloud", "pay.shop", "8080=http", &["us/x ready=1"])
        .pinned("quay", "pay.shop", "80=http", &["eu/b ready=1"])
        .pinned("quay", "only.quay", "6379=tcp 80=http", &["eu/b ready=1"])
        .address("cart.shop", "127.80.0.1")
        .address("pay.shop", "127.80.0.2")
        .export_to("cloud", "cart.shop")
}

#[test]
fn hosts_name_services_in_three_zones() {
    let view = mesh_world().view();
    for (host, expected) in [
        ("cart.shop.svc.clusterset.local", "cart.shop:80"),
        ("CART.Shop.SVC.clusterset.LOCAL.", "cart.shop:80"),
        ("cart.shop.svc.clusterset.local:80", "cart.shop:80"),
        ("cart.shop.svc.clusterset.local:9090", "cart.shop:9090"),
        ("cart.shop.svc.clusterset.local:5432", "not-http"),
        ("cart.shop.svc.clusterset.local:99999", "invalid-host"),
        ("cart.shop.svc.cluster.local", "cart.shop:80@local"),
        ("cart.shop.svc.cluster.local:9090", "cart.shop:80@local"),
        ("private.shop.svc.cluster.local", "private.shop:8080@local"),
        ("private.shop.svc.clusterset.local", "unknown-service"),
        ("pay.shop.svc.clusterset.local:1234", "pay.shop:8080"),
        ("pay.shop.svc.cluster.local", "unknown-service"),
        ("pay.shop.cloud.isthmus.internal", "pay.shop:8080@cloud"),
        ("pay.shop.quay.isthmus.internal", "pay.shop:80@quay"),
        ("only.quay.quay.isthmus.internal", "only.quay:80@quay"),
        ("only.quay.svc.clusterset.local", "unknown-service"),
        ("cart.shop.onprem.isthmus.internal", "cart.shop:80@local"),
        ("pay.shop.onprem.isthmus.internal", "unknown-service"),
        ("pay.shop.nowhere.isthmus.internal", "unknown-service"),
        ("pay.shop.-.isthmus.internal", "unknown-service"),
        ("cart.shop", "unknown-host"),
        ("example.com", "unknown-host"),
        ("127.0.0.1:15080", "unknown-host"),
        ("", "invalid-host"),
        ("a b", "invalid-host"),
    ] {
        assert_eq!(show(view.router.mesh(host)), expected, "{host}");
    }
}

#[test]
fn connect_names_its_port_and_takes_any_protocol() {
    let view = mesh_world().view();
    for (authority, expected) in [
        ("cart.shop.svc.clusterset.local:5432", "cart.shop:5432"),
        ("cart.shop.svc.clusterset.local:80", "cart.shop:80"),
        ("cart.shop.svc.clusterset.local:81", "unknown-port"),
        ("cart.shop.svc.clusterset.local", "invalid-host"),
        ("only.quay.quay.isthmus.internal:6379", "only.quay:6379@quay"),
        ("10.0.0.1:5432", "unknown-host"),
    ] {
        assert_eq!(show(view.router.mesh_tunnel(authority)), expected, "{authority}");
    }
}

#[test]
fn t8_peers_reach_only_what_is_exported_to_them() {
    let removed = |view: &mut federation::snapshot::PeerView| {
        view.exported_to.insert("cart.shop".try_into().unwrap());
        view.peer.state = RelationshipState::RemovedByPeer { at: Timestamp::from_unix(9) };
    };
    let view = mesh_world().export_to("quay", "pay.shop").change_peer("ex", removed).view();
    for (peer, to, expected) in [
        ("cloud", "cart.shop:80", "cart.shop:80@local"),
        ("cloud", "cart.shop:5432", "cart.shop:5432@local"),
        ("cloud", "cart.shop:9090", "not-found"), // only the peer itself has this port
        ("cloud", "private.shop:8080", "not-found"),
        ("cloud", "pay.shop:8080", "not-found"), // T13: an import is not exported again
        ("quay", "pay.shop:8080", "not-found"),  // nor by a wrong export table
        ("quay", "cart.shop:80", "not-found"),
        ("ex", "cart.shop:80", "not-found"),
        ("stranger", "cart.shop:80", "not-found"),
        ("cloud", "nothing.shop:80", "not-found"),
        ("cloud", "cart.shop", "not-found"),
        ("cloud", "cart.shop:0", "not-found"),
        ("cloud", "cart.shop:+80", "not-found"),
        ("cloud", "CART.shop:80", "not-found"),
        ("cloud", "cart:80", "not-found"),
        ("cloud", "cart.shop.svc.clusterset.local:80", "not-found"),
        ("cloud", "127.0.0.1:80", "not-found"), // T12
        ("cloud", "", "not-found"),
    ] {
        assert_eq!(show(view.router.link(&cluster(peer), to)), expected, "{peer} {to}");
    }
}

#[test]
fn virtual_addresses_lead_to_merged_services() {
    let view = mesh_world().view();
    for (address, port, expected) in [
        ("127.80.0.1", 5432, Some("cart.shop:5432")),
        ("::ffff:127.80.0.1", 80, Some("cart.shop:80")),
        ("127.80.0.2", 8080, Some("pay.shop:8080")),
        ("127.80.0.2", 80, None),
        ("127.80.0.3", 80, None),
    ] {
        let address: IpAddr = address.parse().unwrap();
        let found = view.router.virtual_address(address, port);
        assert_eq!(found.map(|found| found.key().to_string()).as_deref(), expected, "{address} {port}");
    }
}

#[test]
fn a_key_finds_its_destination_in_a_later_snapshot() {
    let router = &mesh_world().view().router;
    for host in
        ["cart.shop.svc.clusterset.local", "cart.shop.svc.cluster.local", "only.quay.quay.isthmus.internal"]
    {
        let destination = router.mesh(host).unwrap();
        assert_eq!(router.destination(&destination.key()), Some(destination), "{host}");
    }
    let gone = router.mesh("pay.shop.svc.clusterset.local").unwrap().key();
    assert_eq!(snapshot().view().router.destination(&gone), None);
}

/// One listener for each host name (`-` for none), with routes; then requests as
/// `host path headers` and what they end in.
struct Case {
    claim: &'static str,
    listeners: Vec<(&'static str, Vec<federation::model::HttpRoute>)>,
    requests: &'static [(&'static str, &'static str)],
}

const KEY: ListenerKey = ListenerKey { address: None, port: 80 };

fn request(router: &Router, text: &str, rng: &mut StdRng) -> Result<Routed, NoRoute> {
    let mut words = text.split_whitespace();
    let (host, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HeaderMap::new();
    for word in words {
        let (name, value) = word.split_once(':').unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    router.ingress(&KEY, &RequestHead { method: &Method::GET, host, path, headers: &headers }, rng)
}

fn check(case: Case) {
    let mut world = snapshot().service("fallback.shop", "80=http", &[]);
    for letter in ["a", "b", "c", "d", "e"] {
        world = world.service(&format!("{letter}.shop"), "80=http", &[]);
    }
    for (hostname, routes) in case.listeners {
        world = world.listener(80, (hostname != "-").then_some(hostname), routes);
    }
    let view = world.view();
    for (text, expected) in case.requests {
        let routed = request(&view.router, text, &mut StdRng::seed_from_u64(1));
        let shown = routed.map_or_else(
            |reason| reason.reason().to_owned(),
            |routed| routed.destination.name().name.to_string(),
        );
        assert_eq!(shown, *expected, "{}: {text}", case.claim);
    }
}

#[test]
fn routes_take_precedence_as_the_gateway_api_says() {
    check(Case {
        claim: "the listener is chosen by host first and the request stays there",
        listeners: vec![
            ("-", vec![route("any", "", 1, &[("/", "a.shop:80")])]),
            ("*.example.com", vec![route("wild", "", 1, &[("/wild", "b.shop:80")])]),
            ("x.example.com", vec![route("exact", "", 1, &[("/exact", "c.shop:80")])]),
        ],
        requests: &[
            ("x.example.com /exact", "c"),
            ("x.example.com /wild", "no-match"),
            ("X.Example.com.:8080 /exact/more", "c"),
            ("y.example.com /wild", "b"),
            ("z.y.example.com /wild", "b"),
            ("y.example.com /exact", "no-match"),
            ("example.com /exact", "a"),
            ("other.org /wild", "a"),
            ("[::1]:80 /", "a"),
        ],
    });
    check(Case {
        claim: "a host that no listener takes is unknown",
        listeners: vec![("x.example.com", vec![route("exact", "", 1, &[("/", "a.shop:80")])])],
        requests: &[
            ("x.example.com /", "a"),
            ("y.example.com /", "unknown-host"),
            ("x_y! /", "invalid-host"),
        ],
    });
    check(Case {
        claim: "the most specific host name of routes wins, whatever their age",
        listeners: vec![(
            "-",
            vec![
                route("any", "", 1, &[("=/exact", "a.shop:80"), ("/", "a.shop:80")]),
                route("com", "*.com", 2, &[("/", "b.shop:80")]),
                route("wild", "*.example.com", 3, &[("/", "c.shop:80")]),
                route("exact", "x.example.com", 4, &[("/only", "d.shop:80")]),
            ],
        )],
        requests: &[
            ("x.example.com /only", "d"),
            ("x.example.com /exact", "c"),
            ("y.example.com /only", "c"),
            ("other.com /exact", "b"),
            ("other.org /exact", "a"),
        ],
    });
    check(Case {
        claim: "exact path, then longest prefix, then headers, across routes",
        listeners: vec![(
            "-",
            vec![
                route("old", "", 1, &[("/", "a.shop:80"), ("/v2 x:1", "b.shop:80")]),
                route(
                    "new",
                    "",
                    2,
                    &[("/v2", "c.shop:80"), ("=/v2", "d.shop:80"), ("/v2 x:1 y:2", "e.shop:80")],
                ),
            ],
        )],
        requests: &[
            ("h /v2", "d"),
            ("h /v2 x:1 y:2", "d"),
            ("h /v2?query=/v3", "d"),
            ("h /v2/", "c"),
            ("h /v2/x", "c"),
            ("h /v2/x x:1", "b"),
            ("h /v2/x x:1 y:2", "e"),
            ("h /v2/x X:1 Y:2", "e"),
            ("h /v2/x x:2", "c"),
            ("h /v2x", "a"),
            ("h /V2", "a"),
            ("h /", "a"),
        ],
    });
    check(Case {
        claim: "equal matches: the older route, then its name, then the order of rules",
        listeners: vec![(
            "-",
            vec![
                route("young", "", 9, &[("/a", "b.shop:80")]),
                route("old", "", 1, &[("/a", "a.shop:80"), ("/a", "e.shop:80")]),
                route("beta", "", 5, &[("/b", "b.shop:80")]),
                route("alpha", "", 5, &[("/b", "a.shop:80")]),
                route("rules", "", 5, &[("/c|/d", "c.shop:80"), ("/d|/c", "d.shop:80")]),
            ],
        )],
        requests: &[("h /a", "a"), ("h /b", "a"), ("h /c", "c"), ("h /d", "c")],
    });
    check(Case {
        claim: "a rule without matches takes everything",
        listeners: vec![("-", vec![route("all", "", 1, &[("", "a.shop:80")])])],
        requests: &[("h /", "a"), ("h /x/y", "a"), ("h *", "a")],
    });
}

#[test]
fn of_equal_header_names_in_a_match_the_first_counts() {
    check(Case {
        claim: "the second value of x is not asked for",
        listeners: vec![(
            "-",
            vec![route("twice", "", 1, &[("/ x:1 X:2", "a.shop:80"), ("/ x:1 y:1", "b.shop:80")])],
        )],
        requests: &[("h / x:1", "a"), ("h / x:1 y:1", "b"), ("h / x:2", "no-match")],
    });
}

#[test]
fn a_rule_without_a_valid_backend_is_our_fault() {
    let rules = [
        ("/none", ""),
        ("/zero", "a.shop:80*0"),
        ("/invalid", "!denied"),
        ("/missing", "nobody.shop:80"),
        ("/port", "a.shop:81"),
        ("/import", "~a.shop"),
        ("/remote-as-service", "pay.shop:80"),
        ("/good", "~pay.shop"),
        ("/import-port", "~pay.shop:81"),
        ("/zero-weight-of-nobody", "nobody.shop:80*0 a.shop:80"),
        ("/empty", "a.shop:80"),
    ];
    let view = snapshot()
        .service("a.shop", "80=http", &[])
        .import("cloud", "pay.shop", "80=http", &[])
        .listener(80, None, vec![route("r", "", 1, &rules)])
        .view();
    for (path, expected) in [
        ("/none", Err(500)),
        ("/zero", Err(500)),
        ("/invalid", Err(500)),
        ("/missing", Err(500)),
        ("/port", Err(500)),
        ("/import", Err(500)),
        ("/remote-as-service", Err(500)),
        ("/import-port", Err(500)),
        ("/good", Ok("pay.shop:80")),
        ("/zero-weight-of-nobody", Ok("a.shop:80@local")),
        ("/empty", Ok("a.shop:80@local")), // without endpoints: the balancer answers 503
        ("/other", Err(404)),
    ] {
        let routed = request(&view.router, &format!("h {path}"), &mut StdRng::seed_from_u64(1));
        let shown = routed.map(|routed| routed.destination.key().to_string());
        assert_eq!(shown.as_deref().map_err(NoRoute::status), expected, "{path}");
    }
}

#[test]
fn invalid_backends_keep_their_share() {
    let rules = [("/", "a.shop:80*2 !denied*1 b.shop:80*1 a.shop:80*0")];
    let view = snapshot()
        .service("a.shop", "80=http", &[])
        .service("b.shop", "80=http", &[])
        .listener(80, None, vec![route("r", "", 1, &rules)])
        .view();
    let mut rng = StdRng::seed_from_u64(1);
    let (mut a, mut b, mut fault) = (0, 0, 0);
    for _ in 0..4000 {
        match request(&view.router, "h /", &mut rng).map(|routed| routed.destination.name().to_string()) {
            Ok(name) if name == "a.shop" => a += 1,
            Ok(_) => b += 1,
            Err(NoRoute::InvalidBackend(_)) => fault += 1,
            Err(other) => panic!("{other}"),
        }
    }
    for (hits, expected) in [(a, 2000), (b, 1000), (fault, 1000)] {
        assert!(i32::abs_diff(hits, expected) < 200, "{a} {b} {fault}");
    }
}

#[test]
fn routes_that_did_not_change_are_taken_over() {
    let world = || {
        snapshot().service("a.shop", "80=http", &[]).listener(
            80,
            None,
            vec![route("r", "", 1, &[("/", "a.shop:80")])],
        )
    };
    let first = world().view();
    let mut second = world().service("b.shop", "80=http", &[]).build();
    second.listeners = first.snapshot.listeners.clone();
    let router = first.router.succeed(Arc::new(second));
    assert!(request(&router, "h /", &mut StdRng::seed_from_u64(1)).is_ok());
    assert!(router.mesh("b.shop.svc.cluster.local").is_ok());
    let third = world().listener(80, Some("x"), vec![]).build();
    let router = router.succeed(Arc::new(third));
    assert_eq!(
        request(&router, "x /", &mut StdRng::seed_from_u64(1)).map(|_| ()),
        Err(NoRoute::NoMatch),
        "changed routes are compiled"
    );
}

proptest! {
    #[test]
    fn no_text_from_a_stranger_panics(host in "\\PC{0,80}", to in "[a-z.:0-9]{0,40}", path in "/[a-z/%.?]{0,60}") {
        let view = mesh_world().listener(80, None, vec![route("r", "", 1, &[("/a", "cart.shop:80")])]).view();
        let _ = view.router.mesh(&host);
        let _ = view.router.mesh_tunnel(&host);
        let peer = cluster("cloud");
        if let Ok(destination) = view.router.link(&peer, &to) {
            prop_assert_eq!(destination.scope, Scope::Local);
        }
        let head = RequestHead { method: &Method::GET, host: &host, path: &path, headers: &HeaderMap::new() };
        let _ = view.router.ingress(&KEY, &head, &mut StdRng::seed_from_u64(1));
    }
}
