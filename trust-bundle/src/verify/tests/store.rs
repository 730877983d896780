//! The trust store: what gets in, what wakes whom.

use crate::bundle::{Bundle, BundleConflict, REFRESH_HINT_DEFAULT};
use crate::testing::{TestAuthority, now, td};
use crate::verify::{TrustConflict, TrustStore};

fn bundle(trust_domain: &str, roots: &[&TestAuthority], sequence: u64) -> Bundle {
    let roots: Vec<_> = roots.iter().map(|root| root.der.clone()).collect();
    Bundle::publish(td(trust_domain), &roots, sequence, REFRESH_HINT_DEFAULT, now()).unwrap()
}

#[test]
fn b2_older_and_contradicting_bundles_are_refused() {
    let (one, two) = (TestAuthority::root("a"), TestAuthority::root("a"));
    let store = TrustStore::new();
    store.put(bundle("a", &[&one], 5)).unwrap();
    let refused = store.put(bundle("a", &[&two], 4)).unwrap_err();
    let rollback = BundleConflict::Rollback { trust_domain: td("a"), held: 5, offered: Some(4) };
    assert_eq!(refused, TrustConflict::Sequence(rollback));
    let refused = store.put(bundle("a", &[&two], 5)).unwrap_err();
    let equivocation = BundleConflict::Equivocation { trust_domain: td("a"), sequence: 5 };
    assert_eq!(refused, TrustConflict::Sequence(equivocation));
    assert_eq!(store.load().bundle(&td("a")).unwrap().digest(), bundle("a", &[&one], 5).digest());
    store.put(bundle("a", &[&two], 6)).unwrap();
    assert_eq!(store.load().bundle(&td("a")).unwrap().sequence(), Some(6));
}

#[test]
fn b14_key_of_another_domain_is_refused_at_first_and_on_each_update() {
    let (a, b) = (TestAuthority::root("a"), TestAuthority::root("b"));
    let store = TrustStore::new();
    store.put(bundle("a", &[&a], 1)).unwrap();
    let shared = |offered: &str| TrustConflict::SharedAuthority {
        authority: bundle("a", &[&a], 1).authorities()[0].id(),
        offered: td(offered),
        owner: td("a"),
    };
    assert_eq!(store.put(bundle("b", &[&a], 1)), Err(shared("b")));
    store.put(bundle("b", &[&b], 1)).unwrap();
    assert_eq!(store.put(bundle("b", &[&b, &a], 2)), Err(shared("b")));
    assert_eq!(store.load().bundle(&td("b")).unwrap().sequence(), Some(1));
    assert_eq!(store.load().owner_of(&bundle("b", &[&b], 1).authorities()[0].id()), Some(&td("b")));
    // Once A is gone its key is free, and an update of a domain does not collide with itself.
    store.put(bundle("a", &[&a], 2)).unwrap();
    assert!(store.remove(&td("a")));
    store.put(bundle("b", &[&b, &a], 2)).unwrap();
}

#[test]
fn b14_expired_key_of_another_domain_is_refused_too() {
    let hour = time::Duration::hours(1);
    let old = TestAuthority::root_with("a", |p| p.not_after = crate::testing::date(now()) - hour);
    let store = TrustStore::new();
    store.put(bundle("a", &[&old, &TestAuthority::root("a")], 1)).unwrap();
    assert!(matches!(store.put(bundle("b", &[&old], 1)), Err(TrustConflict::SharedAuthority { .. })));
}

#[test]
fn only_real_changes_make_a_generation() {
    let root = TestAuthority::root("a");
    let store = TrustStore::new();
    let mut changed = store.subscribe();
    assert_eq!(store.load().generation(), 0);
    store.put(bundle("a", &[&root], 1)).unwrap();
    assert!(changed.has_changed().unwrap());
    assert_eq!(*changed.borrow_and_update(), 1);
    store.put(bundle("a", &[&root], 1)).unwrap();
    assert!(!store.remove(&td("b")));
    assert!(store.put(bundle("b", &[&root], 1)).is_err());
    assert!(!changed.has_changed().unwrap());
    assert!(store.remove(&td("a")));
    assert_eq!(*changed.borrow_and_update(), 2);
    assert_eq!(store.load().generation(), 2);
}

#[test]
fn snapshot_does_not_change_under_its_reader() {
    let store = TrustStore::new();
    store.put(bundle("a", &[&TestAuthority::root("a")], 1)).unwrap();
    let snapshot = store.load();
    store.remove(&td("a"));
    assert_eq!(snapshot.bundles().count(), 1);
    assert_eq!(store.load().bundles().count(), 0);
}

#[test]
fn clones_share_one_store() {
    let store = TrustStore::new();
    let other = store.clone();
    store.put(bundle("a", &[&TestAuthority::root("a")], 1)).unwrap();
    assert!(other.load().bundle(&td("a")).is_some());
}
