//! Nobody is linked who is not exactly who was expected, and nobody stays linked who is no longer.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::domain::Domain;
use super::peer::{Manners, PeerGateway};
use super::world::{World, eventually, request};
use crate::balancer::LinkState;

async fn linked() -> (World, PeerGateway) {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    world.joined(&[peer.address]);
    world.up().await;
    (world, peer)
}

/// Dials several times, and never takes the other end for the peer.
async fn never_linked(world: &World, impostor: &PeerGateway) {
    world.joined(&[impostor.address]);
    eventually("it was tried again", || impostor.knocks.load(Ordering::Relaxed) >= 6).await;
    assert_eq!(world.state(), LinkState::Down);
    assert!(world.http_links().is_empty() && world.get("/x").await.is_err());
    assert!(world.links.status()[0].dialled.is_empty());
}

#[tokio::test]
async fn another_identity_of_the_right_domain_is_refused() {
    let world = World::new();
    let svid = world.cloud.handle("/isthmus/federation");
    let impostor = PeerGateway::showing(svid, &[&world.onprem, &world.cloud], "a", Manners::Good).await;
    never_linked(&world, &impostor).await;
}

#[tokio::test]
async fn the_right_identity_by_another_authority_is_refused() {
    let world = World::new();
    let evil = Domain::new("cloud");
    assert_eq!(evil.name(), world.cloud.name());
    let impostor = PeerGateway::start(&evil, &[&world.onprem, &evil], "a").await;
    never_linked(&world, &impostor).await;
}

#[tokio::test]
async fn a_peer_that_does_not_trust_us_is_no_link() {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.cloud], "a").await;
    never_linked(&world, &peer).await;
}

#[tokio::test]
async fn a_removed_peer_is_cut_off_with_what_is_in_flight() {
    let (world, peer) = linked().await;
    let links = world.links.clone();
    let slow = world.tasks.spawn(async move { request(&links, "/hold", Bytes::new()).await.is_ok() });
    eventually("it is under way", || peer.held.load(Ordering::Relaxed) == 1).await;
    world.removed();
    assert!(!slow.await.unwrap(), "it ended without being answered");
    assert_eq!(world.state(), LinkState::Down);
    peer.release.notify_waiters();
    eventually("the peer sees it", || peer.accepted() == 0).await;
    eventually("nothing is left", || world.registry.list().is_empty()).await;

    world.joined(&[peer.address]);
    world.up().await;
    assert!(world.get("/x").await.is_ok(), "removal is not quarantine");
}

#[tokio::test]
async fn trust_that_is_withdrawn_ends_links_at_once() {
    let (world, peer) = linked().await;
    let links = world.links.clone();
    let slow = world.tasks.spawn(async move { request(&links, "/hold", Bytes::new()).await.is_ok() });
    eventually("it is under way", || peer.held.load(Ordering::Relaxed) == 1).await;
    assert!(world.trust.remove(world.cloud.name()));
    assert!(!slow.await.unwrap());
    eventually("the path is down", || world.state() == LinkState::Down).await;
    eventually("nothing is left", || world.registry.list().is_empty()).await;

    world.trust.put(world.cloud.bundle()).unwrap();
    world.up().await;
}
