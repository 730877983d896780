//! Who is at the other end, and what goes over one link.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use federation::control::{Path, Report};
use tokio::time::timeout;

use super::hole::Hole;
use super::peer::PeerGateway;
use super::world::{World, eventually, head, request};
use crate::balancer::LinkState;
use crate::connection::entry_of;
use crate::link::NoStream;
use crate::testing::{cluster, name};

async fn linked() -> (World, PeerGateway) {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    world.joined(&[peer.address]);
    world.up().await;
    (world, peer)
}

#[tokio::test]
async fn both_ends_see_who_the_other_is() {
    let (world, peer) = linked().await;
    let answer = world.get("/x").await.unwrap();
    assert_eq!(answer.header("x-caller"), "spiffe://onprem.example.org/isthmus/gateway");

    let stream = world.open().await;
    let entry = entry_of(stream.session.digest().unwrap()).unwrap();
    assert_eq!(entry.connection.peer().unwrap().id().as_str(), "spiffe://cloud.example.org/isthmus/gateway");
    assert_eq!(entry.client, Some(peer.address), "the address of the other end");
    assert_eq!(entry.connection.owner(), "link");

    let status = world.links.status();
    let link = &status[0].dialled[0];
    assert_eq!((status[0].state, link.replica.as_ref().unwrap().as_str()), (LinkState::Up, "a"));
    assert!(link.round_trip_ms.is_some_and(|ms| ms < 5000.0));
}

#[tokio::test]
async fn without_a_peer_nothing_is_waited_for() {
    let world = World::new();
    let refused = timeout(Duration::from_secs(1), world.links.http_stream(&cluster("cloud"))).await.unwrap();
    assert_eq!(refused.unwrap_err(), NoStream::NoLink);
    assert_eq!(world.state(), LinkState::Down);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_echoes_at_once_come_back_whole_over_one_link() {
    let (world, _peer) = linked().await;
    let body = Bytes::from(vec![7; 100_000]);
    let echoes = (0..50).map(|_| world.post("/echo", body.clone()));
    let answers = futures::future::join_all(echoes).await;
    let mut connections = BTreeSet::new();
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!((answer.body.len(), answer.total()), (100_000, Some(100_000)));
        connections.insert(answer.header("x-connection").to_owned());
    }
    assert_eq!(connections.len(), 1);
    assert_eq!(world.links.status()[0].dialled[0].streams, 0, "every stream was returned");
}

#[tokio::test]
async fn an_answer_begins_before_its_request_ends() {
    let (world, _peer) = linked().await;
    let mut stream = world.open().await;
    stream.session.write_request_header(Box::new(head("/echo")), false).unwrap();
    stream.session.write_request_body("one".into(), false).await.unwrap();
    stream.session.read_response_header().await.unwrap();
    assert_eq!(stream.session.read_response_body().await.unwrap().unwrap(), "one");
    stream.session.write_request_body("two".into(), true).await.unwrap();
    assert_eq!(stream.session.read_response_body().await.unwrap().unwrap(), "two");
    assert!(stream.session.read_response_body().await.unwrap().is_none());
    assert_eq!(stream.session.read_trailers().await.unwrap().unwrap()["x-total"], "6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_a_link_carries_get_more_links() {
    let (world, peer) = linked().await;
    let many = (0..250).map(|_| {
        let links = world.links.clone();
        world.tasks.spawn(async move { request(&links, "/hold", Bytes::new()).await.is_ok() })
    });
    let many: Vec<_> = many.collect();
    eventually("all are under way", || peer.held.load(Ordering::Relaxed) == 250).await;
    assert!(world.http_links().len() >= 3);
    peer.release.notify_waiters();
    for answered in many {
        assert!(answered.await.unwrap());
    }
}

#[tokio::test]
async fn each_replica_gets_a_link() {
    let world = World::new();
    let trusted = [&world.onprem, &world.cloud];
    let a = PeerGateway::start(&world.cloud, &trusted, "a").await;
    let b = PeerGateway::start(&world.cloud, &trusted, "b").await;
    for replica in [&a, &b] {
        replica.links.set_replicas(2);
    }
    world.joined(&[a.address, b.address]);
    eventually("both are linked", || world.http_links().len() == 2).await;
    let mut seen = BTreeSet::new();
    let held: Vec<_> = [world.open().await, world.open().await].into();
    for mut stream in held {
        let answer = super::world::exchange(&mut stream, "/x", Bytes::new()).await.unwrap();
        seen.insert(answer.header("x-replica").to_owned());
    }
    assert_eq!(seen, ["a", "b"].map(str::to_owned).into(), "the one with more free streams is next");
}

#[tokio::test]
async fn a_peer_says_what_is_ready_of_what_it_offers_and_of_nothing_else() {
    let (world, peer) = linked().await;
    let ready = |service| world.links.ready(&cluster("cloud"), &name(service)).map(|said| said.ready);
    eventually("it said so", || ready("cart.shop") == Some(2)).await;
    assert_eq!(ready("secret.shop"), None, "T7");
    let fewer = crate::testing::snapshot().service("cart.shop", "80=http", &["10.0.0.1"]);
    peer.snapshots.send_replace(std::sync::Arc::new(fewer.export_to("onprem", "cart.shop").build()));
    eventually("it said what changed", || ready("cart.shop") == Some(1)).await;
    let none = crate::testing::snapshot().service("cart.shop", "80=http", &["10.0.0.1"]);
    peer.snapshots.send_replace(std::sync::Arc::new(none.build()));
    eventually("what is no longer offered is gone", || ready("cart.shop").is_none()).await;
}

#[tokio::test]
async fn a_path_that_swallows_everything_is_out_within_three_seconds_and_back_at_once() {
    let mut world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    let hole = Hole::before(peer.address, &world.tasks).await;
    world.joined(&[hole.address]);
    world.up().await;
    assert!(matches!(world.reports.recv().await, Some(Report::Path { path: Path::Up { .. }, .. })));

    hole.swallow();
    let stuck = world.open().await;
    let out =
        timeout(Duration::from_millis(3500), eventually("out", || world.state() == LinkState::Down)).await;
    assert!(out.is_ok(), "2.5 s of silence, and a probe's interval");
    assert!(matches!(world.reports.recv().await, Some(Report::Path { path: Path::Down, .. })));
    let refused = timeout(Duration::from_secs(1), world.links.http_stream(&cluster("cloud"))).await;
    drop(stuck);
    // A stream on a silent link can still be had, but nobody is sent there: the balancer knows.
    assert!(refused.is_ok());

    hole.carry_again();
    let back = timeout(Duration::from_secs(2), eventually("back", || world.state() == LinkState::Up)).await;
    assert!(back.is_ok(), "with the first answer");
    assert!(world.get("/x").await.is_ok());
}

#[tokio::test]
async fn requests_of_the_first_moment_wait_for_the_first_link() {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    world.joined(&[peer.address]);
    eventually("the peer is known", || world.state() != LinkState::Down).await;
    let answer = world.get("/x").await.expect("it waited");
    assert_eq!(answer.head.status, 200);
}

#[tokio::test]
async fn requests_of_the_first_moment_hear_at_once_that_the_peer_refuses() {
    let world = World::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.joined(&[closed]);
    eventually("it is known", || !world.links.status().is_empty()).await;
    assert!(world.get("/x").await.is_err());
    eventually("it stays known", || world.state() == LinkState::Down).await;
}
