//! The view of a peer and the log of its changes, as scenarios and as a model of a peer that follows.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::{AppProtocol, Export, Peer, RelationshipState, Service, Transport};
use crate::snapshot::{LocalCluster, PeerView, ServiceView};

fn name(text: &str) -> ServiceName {
    text.try_into().unwrap()
}

fn cluster(text: &str) -> ClusterName {
    text.try_into().unwrap()
}

fn endpoint(address: &str, zone: &str, readiness: Readiness) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        host: Host::try_from(address).unwrap(),
        ports: Arc::new([("http".to_owned(), 8080)].into()),
        locality: Locality { region: "eu".into(), zone: zone.into(), sub_zone: String::new() },
        readiness,
        weight: 2,
        hostname: None,
    })
}

fn service(text: &str, kind: ServiceKind, endpoints: Vec<Arc<Endpoint>>) -> ServiceView {
    let port =
        ServicePort { name: "http".into(), port: 80, transport: Transport::Tcp, protocol: AppProtocol::Http };
    let local = LocalService {
        service: Service { name: name(text), kind, ports: vec![port] },
        endpoints: endpoints.into(),
        export: Some(Export { service: name(text), created: Timestamp::from_unix(7) }),
    };
    ServiceView { name: name(text), local: Some(local), merged: None }
}

fn peer_view(exported: &[&str]) -> PeerView {
    let id = |role: &str| format!("spiffe://cloud.example/isthmus/{role}").parse().unwrap();
    let peer = Peer {
        name: cluster("cloud"),
        trust_domain: "cloud.example".try_into().unwrap(),
        gateway_id: id("gateway"),
        federation_id: id("federation"),
        gateways: vec![],
        joined: Timestamp::from_unix(1),
        state: RelationshipState::Active,
        sameness: vec![],
    };
    let exported_to: BTreeSet<_> = exported.iter().map(|text| name(text)).collect();
    PeerView { peer, freshness: crate::model::Freshness::Fresh, exported_to, imports: BTreeMap::new() }
}

fn snapshot(services: Vec<ServiceView>, exported: &[&str]) -> Snapshot {
    let local = LocalCluster {
        name: cluster("onprem"),
        trust_domain: "onprem.example".try_into().unwrap(),
        locality: Locality::default(),
        gateways: None,
    };
    let mut snapshot = Snapshot::empty(Arc::new(local));
    snapshot.services = services.into_iter().map(|view| (view.name.clone(), Arc::new(view))).collect();
    snapshot.peers.insert(cluster("cloud"), Arc::new(peer_view(exported)));
    snapshot
}

#[test]
fn only_what_is_exported_to_the_peer_is_in_its_view() {
    use ServiceKind::ClusterSetIp;
    let canary = "secret-canary.vault";
    let snapshot = snapshot(
        vec![
            service("cart.shop", ClusterSetIp, vec![endpoint("10.0.0.1", "a", Readiness::Ready)]),
            service(canary, ClusterSetIp, vec![endpoint("10.0.0.2", "a", Readiness::Ready)]),
        ],
        &["cart.shop", "not-there.shop"],
    );
    let view = View::of(&snapshot, &cluster("cloud"));
    assert_eq!(view.offers.keys().collect::<Vec<_>>(), [&name("cart.shop")]);
    let shown = format!("{view:?}");
    assert!(!shown.contains("canary") && !shown.contains("10.0.0"), "{shown}");
    assert_eq!(View::of(&snapshot, &cluster("stranger")), View::default());
}

#[test]
fn endpoints_are_counted_by_place_when_ready() {
    let endpoints = vec![
        endpoint("10.0.0.1", "a", Readiness::Ready),
        endpoint("10.0.0.2", "a", Readiness::Ready),
        endpoint("10.0.0.3", "a", Readiness::Draining),
        endpoint("10.0.0.4", "b", Readiness::Ready),
        endpoint("10.0.0.5", "c", Readiness::NotReady),
    ];
    let snapshot = snapshot(vec![service("cart.shop", ServiceKind::ClusterSetIp, endpoints)], &["cart.shop"]);
    let offer = &View::of(&snapshot, &cluster("cloud")).offers[&name("cart.shop")];
    let counted: Vec<_> =
        offer.groups.iter().map(|g| (g.locality.zone.as_str(), g.ready, g.weight)).collect();
    assert_eq!(counted, [("a", 2, 4), ("b", 1, 2)]);
    assert!(offer.endpoints.is_empty(), "addresses are for headless services");
}

#[test]
fn headless_services_tell_their_ready_addresses() {
    let endpoints = vec![
        endpoint("10.0.0.2", "a", Readiness::Ready),
        endpoint("10.0.0.1", "b", Readiness::Ready),
        endpoint("10.0.0.3", "b", Readiness::NotReady),
        endpoint("db.example.com", "b", Readiness::Ready),
    ];
    let snapshot = snapshot(vec![service("db.shop", ServiceKind::Headless, endpoints)], &["db.shop"]);
    let offer = &View::of(&snapshot, &cluster("cloud")).offers[&name("db.shop")];
    let told: Vec<_> = offer.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(told, ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn the_view_stays_within_what_the_peer_takes() {
    let names: Vec<_> = (0..SERVICES_MAX + 3).map(|n| format!("s{n:05}.shop")).collect();
    let services = names.iter().map(|name| service(name, ServiceKind::ClusterSetIp, vec![])).collect();
    let exported: Vec<_> = names.iter().map(String::as_str).collect();
    let view = View::of(&snapshot(services, &exported), &cluster("cloud"));
    assert_eq!((view.offers.len(), view.left_out), (SERVICES_MAX, 3));
}

fn offering(offers: &[(&str, i64)]) -> View {
    let offer = |text: &str, created| Offer {
        service: name(text),
        kind: ServiceKind::ClusterSetIp,
        ports: vec![],
        created: Timestamp::from_unix(created),
        groups: vec![],
        endpoints: vec![],
    };
    let offers = offers.iter().map(|(text, created)| (name(text), offer(text, *created)));
    View { offers: offers.collect(), left_out: 0 }
}

fn show(plan: &Plan) -> Vec<String> {
    let offered = |revision: &Revision, offer: &Offer| {
        format!("{revision}:{}={}", offer.service.name, offer.created.unix())
    };
    match plan {
        Plan::Full(revision, offers) => {
            let all = offers.iter().map(|(revision, offer)| offered(revision, offer));
            std::iter::once(format!("full@{revision}")).chain(all).collect()
        }
        Plan::Steps(steps) => steps
            .iter()
            .map(|step| match step {
                Step::Offered(revision, offer) => offered(revision, offer),
                Step::Withdrawn(revision, name) => format!("{revision}:-{}", name.name),
            })
            .collect(),
    }
}

#[test]
fn each_change_has_a_revision_of_its_own() {
    let mut log = ExportLog::default();
    assert!(log.update(offering(&[("a.x", 1), ("b.x", 1)])));
    assert!(!log.update(offering(&[("a.x", 1), ("b.x", 1)])), "no change, no revision");
    assert!(log.update(offering(&[("a.x", 2), ("c.x", 1)])));
    assert_eq!(log.revision(), Revision(5));
    assert_eq!(show(&log.since(None)), ["full@5", "4:a=2", "5:c=1"]);
    assert_eq!(show(&log.since(Some(Revision(2)))), ["3:-b", "4:a=2", "5:c=1"]);
    assert_eq!(show(&log.since(Some(Revision(4)))), ["5:c=1"]);
    assert_eq!(show(&log.since(Some(Revision(5)))), [""; 0]);
    assert_eq!(show(&log.since(Some(Revision(6))))[0], "full@5", "a revision that never was");
}

#[test]
fn whoever_missed_forgotten_removals_gets_everything() {
    let mut log = ExportLog::default();
    for round in 0..=REMOVALS_MAX {
        let here = format!("s{round}.x");
        log.update(offering(&[(&here, 1)]));
    }
    log.update(offering(&[]));
    assert!(matches!(log.since(Some(Revision(1))), Plan::Full(..)));
    assert!(matches!(log.since(Some(Revision(5))), Plan::Steps(_)));
}

/// A peer that follows a plan step by step, and may stop after any of them.
fn follow(held: &mut BTreeMap<ServiceName, i64>, plan: &Plan, steps_max: usize) -> Option<Revision> {
    match plan {
        Plan::Full(revision, offers) => {
            *held = offers.iter().map(|(_, offer)| (offer.service.clone(), offer.created.unix())).collect();
            Some(*revision)
        }
        Plan::Steps(steps) => {
            let mut reached = None;
            for step in steps.iter().take(steps_max) {
                match step {
                    Step::Offered(revision, offer) => {
                        held.insert(offer.service.clone(), offer.created.unix());
                        reached = Some(*revision);
                    }
                    Step::Withdrawn(revision, name) => {
                        held.remove(name);
                        reached = Some(*revision);
                    }
                }
            }
            reached
        }
    }
}

proptest! {
    /// However often the stream breaks, and wherever, a peer ends with what is offered.
    #[test]
    fn a_peer_that_resumes_anywhere_ends_with_the_view(
        rounds in proptest::collection::vec((proptest::collection::btree_map(0..6_u8, 0..3_i64, 0..6), 0..4_usize), 1..20),
    ) {
        let mut log = ExportLog::default();
        let (mut held, mut revision) = (BTreeMap::new(), None);
        for (offers, steps_before_the_break) in &rounds {
            let names: Vec<_> = offers.keys().map(|n| format!("s{n}.x")).collect();
            let offers: Vec<_> = names.iter().map(String::as_str).zip(offers.values().copied()).collect();
            log.update(offering(&offers));
            revision = follow(&mut held, &log.since(revision), *steps_before_the_break).or(revision);
        }
        follow(&mut held, &log.since(revision), usize::MAX);
        let offered: BTreeMap<_, _> =
            log.offers.iter().map(|(name, (_, offer))| (name.clone(), offer.created.unix())).collect();
        prop_assert_eq!(held, offered);
    }
}
