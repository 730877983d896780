//! One object, one owner.

use super::world::{CART, World, file, name};
use crate::catalog::{Event, Source, Verdict};

const OTHER_CART: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 81}]}
";

fn cart_port(world: &mut World) -> Option<u16> {
    world.publish();
    let view = world.snapshot.service(&name("cart.shop"))?;
    view.local.as_ref().map(|local| local.service.ports[0].port)
}

#[test]
fn the_second_source_is_refused_and_told_the_first() {
    let mut world = World::new();
    world.file("a/cart.yaml", 10, CART);
    let Some(Event::ObjectApplied { key, created, object, .. }) = file("", 20, OTHER_CART).pop() else {
        panic!()
    };
    world.apply(Event::ObjectApplied { source: Source::Applied, key, created, object });
    assert_eq!(cart_port(&mut world), Some(80));
    let statuses = world.catalog.objects("Service");
    assert_eq!(statuses.len(), 2);
    assert_eq!(statuses[0].conditions[0].status, Verdict::True);
    let refusal = &statuses[1].conditions[0];
    assert_eq!((refusal.status, refusal.reason), (Verdict::False, "AlreadyDefined"));
    assert!(refusal.message.contains("a/cart.yaml:2"), "{}", refusal.message);
}

#[test]
fn an_older_claim_wins_in_whatever_order_it_comes() {
    for order in [[0, 1], [1, 0]] {
        let mut world = World::new();
        for index in order {
            let (path, age, text) = [("old.yaml", 10, CART), ("new.yaml", 20, OTHER_CART)][index];
            world.file(path, age, text);
        }
        assert_eq!(cart_port(&mut world), Some(80), "{order:?}");
    }
}

#[test]
fn the_refused_follows_when_the_owner_lets_go() {
    let mut world = World::new();
    world.file("a.yaml", 10, CART).file("b.yaml", 20, OTHER_CART);
    world.remove("b.yaml", "Service shop/cart");
    assert_eq!(cart_port(&mut world), Some(80), "the refused goes without a trace");
    world.file("b.yaml", 20, OTHER_CART).remove("a.yaml", "Service shop/cart");
    assert_eq!(cart_port(&mut world), Some(81));
    world.remove("b.yaml", "Service shop/cart");
    assert_eq!(cart_port(&mut world), None);
}

#[test]
fn a_document_that_moves_within_its_file_stays_the_owner() {
    let mut world = World::new();
    world.file("a.yaml", 10, CART);
    world.publish();
    world.file("a.yaml", 10, &format!("\n\n\n{CART}"));
    assert!(!world.publish(), "nothing that anybody reads has changed");
    assert_eq!(world.catalog.objects("Service").len(), 1);
    assert_eq!(world.catalog.objects("Service")[0].source.to_string(), "a.yaml:5");
}
