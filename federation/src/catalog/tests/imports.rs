//! What peers offer: merging, who may contribute (T5), freshness.

use std::sync::Arc;

use super::world::{CART, CART_EXPORT, World, cluster, import, imports, name, peer, port};
use crate::catalog::{ConditionKind, Event, Source, Verdict};
use crate::model::{Freshness, Import, Peer, RelationshipState, ServiceKind, Timestamp};

fn import_condition(
    world: &mut World,
    peer: &str,
    service: &str,
    kind: ConditionKind,
) -> (Verdict, &'static str) {
    world.publish();
    let statuses = world.catalog.objects("ServiceImport");
    let service = name(service);
    let status = statuses
        .iter()
        .find(|s| s.source == Source::Peer(cluster(peer)) && s.key.name.as_str() == service.name.as_str())
        .unwrap();
    let condition = status.conditions.iter().find(|c| c.kind == kind).unwrap();
    (condition.status, condition.reason)
}

fn contributors(world: &mut World, service: &str) -> Vec<String> {
    let merged = world.merged(service);
    merged.into_iter().flat_map(|m| m.imports).map(|import| import.peer.to_string()).collect()
}

#[test]
fn a_local_service_that_is_not_exported_is_no_part_of_the_name() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART).peer("cloud", 5);
    world.apply(Event::ImportChanged(Arc::new(import("cloud", "cart.shop", 10))));
    let merged = world.merged("cart.shop").unwrap();
    assert!(!merged.exported_here, "MCS spec 25");
    assert_eq!(merged.imports.len(), 1);
    let view = world.snapshot.service(&name("cart.shop")).unwrap();
    assert!(view.local.is_some() && view.local.as_ref().unwrap().export.is_none());
}

#[test]
fn t5_a_second_peer_waits_for_sameness_or_our_own_export() {
    let mut world = World::new();
    world.peer("cloud", 5).peer("quay", 6);
    world.apply(Event::ImportChanged(Arc::new(import("cloud", "cart.shop", 10))));
    world.apply(Event::ImportChanged(Arc::new(import("quay", "cart.shop", 1))));
    assert_eq!(contributors(&mut world, "cart.shop"), ["quay"], "the oldest is first, by its own account");
    let pending = import_condition(&mut world, "cloud", "cart.shop", ConditionKind::Merged);
    assert_eq!(pending, (Verdict::False, "MergePending"));
    // The pinned name of a pending import works all the same.
    assert!(world.snapshot.peers[&cluster("cloud")].imports.contains_key(&name("cart.shop")));

    let sameness = vec!["shop".try_into().unwrap()];
    world.apply(Event::PeerChanged(Peer { sameness, ..peer("cloud", 5) }));
    assert_eq!(contributors(&mut world, "cart.shop"), ["cloud", "quay"]);

    world.peer("cloud", 5);
    assert_eq!(contributors(&mut world, "cart.shop"), ["quay"]);
    world.file("cart.yaml", 20, CART).file("export.yaml", 20, CART_EXPORT);
    assert_eq!(contributors(&mut world, "cart.shop"), ["cloud", "quay"]);
}

#[test]
fn t5_who_held_the_name_on_record_keeps_it() {
    let mut world = World::new();
    world.peer("cloud", 5).peer("quay", 6);
    world.apply(Event::ImportChanged(Arc::new(import("cloud", "cart.shop", 10))));
    let claims = world.effects().claim;
    assert_eq!(claims.len(), 1);
    assert_eq!((claims[0].service.clone(), claims[0].peer.clone()), (name("cart.shop"), cluster("cloud")));
    world.apply(Event::NameClaimed { service: name("cart.shop"), peer: cluster("cloud") });
    assert!(world.effects().claim.is_empty());

    // Quay lies about its age.
    world.apply(Event::ImportChanged(Arc::new(import("quay", "cart.shop", 0))));
    assert_eq!(contributors(&mut world, "cart.shop"), ["cloud"]);

    world.apply(Event::ImportRemoved { peer: cluster("cloud"), service: name("cart.shop") });
    assert_eq!(contributors(&mut world, "cart.shop"), ["quay"]);
    assert_eq!(world.effects().claim[0].peer, cluster("quay"));
}

#[test]
fn t5_claims_go_with_the_relationship_and_never_while_they_are_used() {
    let mut world = World::new();
    world.peer("cloud", 5);
    for service in ["cart.shop", "pay.shop"] {
        world.apply(Event::ImportChanged(Arc::new(import("cloud", service, 10))));
        world.apply(Event::NameClaimed { service: name(service), peer: cluster("cloud") });
    }
    world.apply(Event::ImportRemoved { peer: cluster("cloud"), service: name("pay.shop") });
    assert!(world.effects().release.is_empty(), "it may come back");
    world.apply(Event::PeerRemoved(cluster("cloud")));
    assert_eq!(world.effects().release, [name("pay.shop"), name("cart.shop")], "the longest unused first");
    world.apply(Event::NameReleased(name("cart.shop"))).apply(Event::NameReleased(name("pay.shop")));
    assert!(world.effects().release.is_empty());

    // A flood of names leaves a bounded number behind.
    world.peer("cloud", 6);
    for number in 0..300 {
        let service = format!("s{number}.shop");
        world.apply(Event::ImportChanged(Arc::new(import("cloud", &service, 10))));
        world.apply(Event::NameClaimed { service: name(&service), peer: cluster("cloud") });
        world.effects();
        world.apply(Event::ImportRemoved { peer: cluster("cloud"), service: name(&service) });
        for service in world.effects().release {
            world.apply(Event::NameReleased(service));
        }
    }
    assert_eq!(world.catalog.claims.excess(|_| false).len(), 256);
}

#[test]
fn t5_protected_namespaces_are_nobodys() {
    let mut world = World::new();
    world.peer("cloud", 5);
    world.apply(Event::ImportChanged(Arc::new(import("cloud", "api.kube-system", 10))));
    assert!(world.merged("api.kube-system").is_none());
    let pending = import_condition(&mut world, "cloud", "api.kube-system", ConditionKind::Merged);
    assert_eq!(pending, (Verdict::False, "MergePending"));
}

#[test]
fn no_export_counts_as_older_than_the_relationship() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART).file("export.yaml", 100, CART_EXPORT).peer("cloud", 200);
    let claimed = Import { ports: vec![port("http", 8080)], ..import("cloud", "cart.shop", 3) };
    world.apply(Event::ImportChanged(Arc::new(claimed)));
    let merged = world.merged("cart.shop").unwrap();
    assert_eq!(merged.ports, [port("http", 80)], "our export of 100 is older than a relationship of 200");
    assert_eq!(merged.imports[0].created, Timestamp::from_unix(200));
    let conflict = world.judged("ServiceExport shop/cart", ConditionKind::Conflict);
    assert_eq!(conflict, (Verdict::True, "PortConflict"));
}

#[test]
fn a_type_conflict_is_told_to_our_export() {
    let mut world = World::new();
    world.file("cart.yaml", 1, CART).file("export.yaml", 100, CART_EXPORT).peer("cloud", 1);
    let headless = Import { kind: ServiceKind::Headless, ..import("cloud", "cart.shop", 50) };
    world.apply(Event::ImportChanged(Arc::new(headless)));
    assert_eq!(world.merged("cart.shop").unwrap().kind, ServiceKind::Headless, "the older decides");
    let conflict = world.judged("ServiceExport shop/cart", ConditionKind::Conflict);
    assert_eq!(conflict, (Verdict::True, "TypeConflict"));
}

#[test]
fn an_expired_import_keeps_its_name_and_addresses() {
    let mut world = World::new();
    world.peer("cloud", 1);
    world.apply(Event::ImportsReplaced {
        peer: cluster("cloud"),
        imports: imports([import("cloud", "cart.shop", 2)]),
    });
    let addresses = vec!["127.80.0.2".parse().unwrap()];
    world.apply(Event::AddressesAllocated { service: name("cart.shop"), addresses: addresses.clone() });
    world.apply(Event::FreshnessChanged { peer: cluster("cloud"), freshness: Freshness::Expired });
    let merged = world.merged("cart.shop").unwrap();
    assert_eq!(merged.addresses, addresses);
    assert_eq!(merged.imports[0].freshness, Freshness::Expired);
    assert_eq!(world.snapshot.peers[&cluster("cloud")].freshness, Freshness::Expired);
    let fresh = import_condition(&mut world, "cloud", "cart.shop", ConditionKind::Fresh);
    assert_eq!(fresh, (Verdict::False, "Expired"));
    world.apply(Event::FreshnessChanged { peer: cluster("cloud"), freshness: Freshness::Fresh });
    assert_eq!(world.merged("cart.shop").unwrap().imports[0].freshness, Freshness::Fresh);
}

#[test]
fn a_replacement_leaves_nothing_of_what_was() {
    let mut world = World::new();
    world.peer("cloud", 1);
    let both = imports([import("cloud", "cart.shop", 2), import("cloud", "pay.shop", 2)]);
    world.apply(Event::ImportsReplaced { peer: cluster("cloud"), imports: both.clone() });
    assert!(world.publish());
    world.apply(Event::ImportsReplaced { peer: cluster("cloud"), imports: both });
    assert!(!world.publish(), "the same again is no change");
    world.apply(Event::ImportsReplaced {
        peer: cluster("cloud"),
        imports: imports([import("cloud", "pay.shop", 2)]),
    });
    assert!(world.merged("cart.shop").is_none() && world.merged("pay.shop").is_some());
    assert_eq!(world.snapshot.peers[&cluster("cloud")].imports.len(), 1);
}

#[test]
fn nothing_of_a_removed_peer_stays() {
    let mut world = World::new();
    world.peer("cloud", 1);
    world.apply(Event::ImportChanged(Arc::new(import("cloud", "cart.shop", 2))));
    assert!(world.merged("cart.shop").is_some());
    world.apply(Event::PeerRemoved(cluster("cloud")));
    assert!(world.merged("cart.shop").is_none());
    assert!(world.snapshot.peers.is_empty() && world.catalog.objects("ServiceImport").is_empty());
    world.peer("cloud", 3);
    assert!(world.merged("cart.shop").is_none(), "a new relationship begins with nothing");
}

#[test]
fn a_peer_that_ended_the_relationship_contributes_nothing() {
    let mut world = World::new();
    world.peer("cloud", 1);
    world.apply(Event::ImportChanged(Arc::new(import("cloud", "cart.shop", 2))));
    let at = Timestamp::from_unix(9);
    world.apply(Event::PeerChanged(Peer {
        state: RelationshipState::RemovedByPeer { at },
        ..peer("cloud", 1)
    }));
    assert!(world.merged("cart.shop").is_none());
    assert!(world.snapshot.peers[&cluster("cloud")].imports.is_empty(), "shown, and nothing more");
}

#[test]
fn an_import_in_anothers_name_is_not_taken() {
    let mut world = World::new();
    world.peer("cloud", 1).peer("quay", 1);
    let forged = imports([import("quay", "cart.shop", 2)]);
    world.apply(Event::ImportsReplaced { peer: cluster("cloud"), imports: forged });
    assert!(world.merged("cart.shop").is_none());
}
