//! This cluster's own services and exports.

use super::world::{CART, CART_EXPORT, World, cluster, name, object_key, peer};
use crate::catalog::{ConditionKind, Event, Verdict};
use crate::model::{Peer, Readiness, RelationshipState, ServiceKind, Timestamp};

#[test]
fn a_service_holds_the_endpoints_of_all_its_slices() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART).file(
        "more.yaml",
        2,
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-2, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.2], zone: eu-b}
- {addresses: [10.0.0.3]}
",
    );
    world.publish();
    let local = world.snapshot.service(&name("cart.shop")).unwrap().local.clone().unwrap();
    let seen: Vec<_> = local
        .endpoints
        .iter()
        .map(|e| format!("{} {} {:?} {:?}", e.host, e.locality, e.readiness, e.port("http").unwrap()))
        .collect();
    let expected = [
        // Two slices name 10.0.0.2: it is there once, at its best.
        "10.0.0.2 eu/eu-b Ready 8080",
        "10.0.0.3 eu/eu-a Ready 8080",
        "127.0.0.1 eu/eu-a Ready 8080",
    ];
    assert_eq!(seen, expected);
    world.remove("more.yaml", "EndpointSlice shop/cart-2").publish();
    let local = world.snapshot.service(&name("cart.shop")).unwrap().local.clone().unwrap();
    let seen: Vec<_> = local.endpoints.iter().map(|e| (e.host.to_string(), e.readiness)).collect();
    assert_eq!(seen, [("10.0.0.2".into(), Readiness::NotReady), ("127.0.0.1".into(), Readiness::Ready)]);
}

#[test]
fn slices_alone_make_no_service() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART).remove("cart.yaml", "Service shop/cart");
    world.publish();
    assert!(world.snapshot.services.is_empty());
}

#[test]
fn an_export_is_valid_once_its_service_exists() {
    let mut world = World::new();
    world.file("export.yaml", 5, CART_EXPORT).peer("cloud", 1);
    let export = "ServiceExport shop/cart";
    assert_eq!(world.judged(export, ConditionKind::Valid), (Verdict::False, "NoService"));
    assert!(world.merged("cart.shop").is_none());
    assert!(!world.snapshot.is_exported_to(&name("cart.shop"), &cluster("cloud")));

    world.file("cart.yaml", 6, CART);
    assert_eq!(world.judged(export, ConditionKind::Valid), (Verdict::True, "Valid"));
    assert_eq!(world.judged(export, ConditionKind::Conflict), (Verdict::False, "NoConflicts"));
    let merged = world.merged("cart.shop").unwrap();
    assert!(merged.exported_here && merged.imports.is_empty());
    assert!(world.snapshot.is_exported_to(&name("cart.shop"), &cluster("cloud")));
    assert!(!world.snapshot.is_exported_to(&name("cart.shop"), &cluster("unheard-of")), "T8");

    world.remove("export.yaml", export);
    assert!(world.merged("cart.shop").is_none());
    assert!(!world.snapshot.is_exported_to(&name("cart.shop"), &cluster("cloud")));
}

#[test]
fn an_external_name_cannot_be_exported() {
    let mut world = World::new();
    world.file("export.yaml", 5, CART_EXPORT).file(
        "alias.yaml",
        5,
        "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {type: ExternalName, externalName: cart.example.org}
",
    );
    let judged = world.judged("ServiceExport shop/cart", ConditionKind::Valid);
    assert_eq!(judged, (Verdict::False, "InvalidServiceType"));
    assert!(world.merged("cart.shop").is_none());
    assert!(world.snapshot.services.is_empty());
}

#[test]
fn exports_go_to_every_active_peer_and_to_no_other() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART).file("export.yaml", 1, CART_EXPORT).peer("cloud", 1).peer("quay", 1);
    let at = Timestamp::from_unix(9);
    world.apply(Event::PeerChanged(Peer {
        state: RelationshipState::RemovedByPeer { at },
        ..peer("quay", 1)
    }));
    world.publish();
    assert!(world.snapshot.is_exported_to(&name("cart.shop"), &cluster("cloud")));
    assert!(!world.snapshot.is_exported_to(&name("cart.shop"), &cluster("quay")));
    world.apply(Event::PeerRemoved(cluster("cloud"))).publish();
    assert!(!world.snapshot.peers.contains_key(&cluster("cloud")));
}

#[test]
fn addresses_are_asked_for_until_they_are_there() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART);
    assert!(world.effects().allocate.is_empty(), "a name that is only local needs none");
    world.file("export.yaml", 1, CART_EXPORT);
    assert_eq!(world.effects().allocate, [name("cart.shop")]);
    assert_eq!(world.effects().allocate, [name("cart.shop")]);
    let addresses = vec!["127.80.0.2".parse().unwrap()];
    world.apply(Event::AddressesAllocated { service: name("cart.shop"), addresses: addresses.clone() });
    assert!(world.effects().allocate.is_empty());
    assert_eq!(world.merged("cart.shop").unwrap().addresses, addresses);

    world.remove("export.yaml", "ServiceExport shop/cart");
    world.publish();
    assert!(!world.catalog.is_named(&name("cart.shop")));
    world.apply(Event::AddressesReleased(name("cart.shop"))).file("export.yaml", 1, CART_EXPORT);
    assert_eq!(world.effects().allocate, [name("cart.shop")], "what was given away is asked for anew");
}

#[test]
fn an_exhausted_pool_is_a_condition() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART).file("export.yaml", 1, CART_EXPORT);
    world.apply(Event::AddressesAllocated { service: name("cart.shop"), addresses: vec![] });
    let judged = world.judged("ServiceExport shop/cart", ConditionKind::AddressAllocated);
    assert_eq!(judged, (Verdict::False, "PoolExhausted"));
    assert!(world.effects().allocate.is_empty(), "asking again would not help");
    let other = |text: &str| text.replace("name: cart", "name: pay");
    world.file("pay.yaml", 1, &other(CART)).file("pay-export.yaml", 1, &other(CART_EXPORT));
    world.apply(Event::AddressesAllocated {
        service: name("pay.shop"),
        addresses: vec!["127.80.0.2".parse().unwrap()],
    });
    assert!(world.effects().allocate.is_empty());
    world.remove("pay-export.yaml", "ServiceExport shop/pay");
    assert_eq!(world.effects().allocate, [name("cart.shop")], "once a name goes there may be room");
}

#[test]
fn a_headless_name_needs_no_address() {
    let mut world = World::new();
    world.file("cart.yaml", 1, &CART.replace("spec:\n", "spec:\n  clusterIP: None\n"));
    world.file("export.yaml", 1, CART_EXPORT);
    assert!(world.effects().allocate.is_empty());
    assert_eq!(world.merged("cart.shop").unwrap().kind, ServiceKind::Headless);
}

#[test]
fn conditions_that_changed_are_named() {
    let mut world = World::new();
    world.file("export.yaml", 1, CART_EXPORT);
    assert!(world.effects().conditions.contains(&object_key("ServiceExport shop/cart")));
    assert!(world.effects().conditions.is_empty());
    world.file("cart.yaml", 1, CART);
    assert!(world.effects().conditions.contains(&object_key("ServiceExport shop/cart")));
}

#[test]
fn the_number_of_gateways_is_news_when_it_changes() {
    let mut world = World::new();
    assert!(world.publish());
    assert_eq!(world.snapshot.cluster.gateways, None, "nobody has counted");
    assert!(world.apply(Event::GatewaysCounted(2)).publish());
    assert_eq!(world.snapshot.cluster.gateways, Some(2));
    assert!(!world.apply(Event::GatewaysCounted(2)).publish());
}
