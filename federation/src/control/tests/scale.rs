//! What a state of 100 000 endpoints and one change of it cost; the figures are printed, not judged.

use std::sync::Arc;
use std::time::Instant;

use super::fixture::{Site, local, service};
use crate::clock;
use crate::control::state::{Delta, Held, Parts, State, diff};
use crate::snapshot::{Generation, ServiceView};

const SERVICES: usize = 1000;
const ENDPOINTS_EACH: usize = 100;

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn one_endpoint_among_100_000_is_a_small_change() {
    let site = Site::new("cloud");
    let snapshot = Arc::new(site.snapshot(1, SERVICES, ENDPOINTS_EACH));
    let began = now();
    let old = Parts::encode(State::new(snapshot.clone(), &site.trust()), None);
    let encoded = began.elapsed();
    let full = old.full().to_bytes();
    let began = now();
    let held = Held::default().apply(&Delta::parse(&full).unwrap(), clock::unix_now()).unwrap();
    let decoded = began.elapsed();

    let mut next = (*snapshot).clone();
    next.generation = Generation(2);
    let view = ServiceView::clone(&next.services[&service(7)]);
    let view = ServiceView { local: Some(local(7, ENDPOINTS_EACH + 1)), ..view };
    next.services.insert(service(7), Arc::new(view));
    let began = now();
    let new =
        Parts::encode(State { snapshot: Arc::new(next), bundles: old.state().bundles.clone() }, Some(&old));
    let delta = diff(&old, &new);
    let encoded_change = began.elapsed();
    let change = delta.to_bytes();
    let began = now();
    let after =
        held.apply_announced(&Delta::parse(&change).unwrap(), new.digest(), clock::unix_now()).unwrap();
    let decoded_change = began.elapsed();
    println!(
        "full: {} bytes, encoded in {encoded:?}, taken in in {decoded:?}; change: {} bytes, encoded in \
         {encoded_change:?}, taken in in {decoded_change:?}",
        full.len(),
        change.len()
    );
    assert_eq!(delta.put.len(), 1);
    assert!(change.len() * 100 < full.len());
    assert_eq!(after.state(Generation(2)).unwrap().snapshot.services.len(), SERVICES);
}

#[tokio::test]
async fn a_gateway_takes_in_100_000_endpoints_and_one_change() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let snapshot = federation.publish(site.snapshot(1, SERVICES, ENDPOINTS_EACH));
    let began = now();
    let gateway = site.gateway("g1", &[&federation]);
    gateway.holds(&snapshot).await;
    let full = began.elapsed();
    let mut next = (*snapshot).clone();
    next.generation = Generation(2);
    let view = ServiceView::clone(&next.services[&service(7)]);
    let view = ServiceView { local: Some(local(7, ENDPOINTS_EACH + 1)), ..view };
    next.services.insert(service(7), Arc::new(view));
    let mut snapshots = gateway.control.snapshot.clone();
    snapshots.borrow_and_update();
    let began = now();
    federation.publish(next);
    snapshots.changed().await.unwrap();
    println!("over the stream: everything in {full:?}, one change in {:?}", began.elapsed());
}
