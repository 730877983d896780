//! Links are replaced before they go: by age, by the peer's wish, by ours.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::peer::PeerGateway;
use super::world::{World, eventually, request};

async fn linked() -> (World, PeerGateway) {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    world.joined(&[peer.address]);
    world.up().await;
    (world, peer)
}

/// Requests one after the other until told to stop.
struct Load {
    running: Vec<JoinHandle<Outcome>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Outcome {
    answered: usize,
    failures: Vec<String>,
    /// The links that carried them.
    links: BTreeSet<String>,
}

impl Load {
    fn start(world: &World) -> Self {
        let stop = CancellationToken::new();
        let running = (0..4).map(|_| {
            let (links, stop) = (world.links.clone(), stop.clone());
            world.tasks.spawn(async move {
                let mut outcome = Outcome::default();
                while !stop.is_cancelled() {
                    let answer = request(&links, "/echo", Bytes::from_static(b"hello")).await;
                    match answer.map_err(|error| error.to_string()) {
                        Ok(answer) if answer.body == b"hello" => {
                            outcome.answered += 1;
                            outcome.links.insert(answer.header("x-connection").to_owned());
                        }
                        Ok(answer) => outcome.failures.push(format!("{answer:?}")),
                        Err(error) => outcome.failures.push(error),
                    }
                }
                outcome
            })
        });
        Self { running: running.collect(), stop }
    }

    /// How many links carried it; nothing may have failed.
    async fn end(self) -> usize {
        self.stop.cancel();
        let mut links = BTreeSet::new();
        for running in self.running {
            let outcome = running.await.unwrap();
            assert!(
                outcome.failures.is_empty(),
                "beside {} answers: {:?}",
                outcome.answered,
                outcome.failures
            );
            assert!(outcome.answered > 0);
            links.extend(outcome.links);
        }
        links.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_follow_short_svids_and_no_request_fails() {
    let (world, peer) = linked().await;
    // The first link had an hour; from now on an SVID lives as long as a link may take to be noticed.
    world.svid.replace(world.onprem.svid("/isthmus/gateway", Duration::from_secs(4)));
    peer.drain();
    let load = Load::start(&world);
    for _ in 0..3 {
        let knocks = peer.knocks.load(Ordering::Relaxed);
        eventually("another link was dialled", || peer.knocks.load(Ordering::Relaxed) > knocks + 1).await;
        world.svid.replace(world.onprem.svid("/isthmus/gateway", Duration::from_secs(4)));
    }
    assert!(load.end().await >= 2, "make before break");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_of_the_peer_loses_no_request() {
    let (world, peer) = linked().await;
    let links = world.links.clone();
    let slow = world.tasks.spawn(async move { request(&links, "/hold", Bytes::new()).await.is_ok() });
    eventually("it is under way", || peer.held.load(Ordering::Relaxed) == 1).await;
    let before = world.http_links();
    let load = Load::start(&world);
    for _ in 0..5 {
        let old = world.http_links();
        peer.drain();
        eventually("all links are new", || {
            let now = world.http_links();
            !now.is_empty() && now.iter().all(|link| !old.contains(link))
        })
        .await;
    }
    assert!(load.end().await >= 3);
    assert!(before.iter().all(|link| !world.http_links().contains(link)));
    peer.release.notify_waiters();
    assert!(slow.await.unwrap(), "what was in flight on the first link finished");
    eventually("the old links are gone", || peer.accepted() == 2).await;
}

#[tokio::test]
async fn a_peer_that_announces_its_leave_is_replaced_first() {
    let world = World::new();
    let trusted = [&world.onprem, &world.cloud];
    let a = PeerGateway::start(&world.cloud, &trusted, "a").await;
    let b = PeerGateway::start(&world.cloud, &trusted, "b").await;
    world.joined(&[a.address, b.address]);
    world.up().await;
    let linked_to = |replica: &str| {
        let status = world.links.status();
        let links = status[0].dialled.iter().filter_map(|link| link.replica.as_ref());
        links.map(|replica| replica.as_str().to_owned()).collect::<Vec<_>>() == [replica]
    };
    let (first, other) = if linked_to("a") { (&a, "b") } else { (&b, "a") };
    let mut held = world.open().await;
    first.links.say_goodbye(Duration::ZERO).await;
    eventually("the other replica is linked instead", || linked_to(other)).await;
    let answer = super::world::exchange(&mut held, "/x", Bytes::new()).await.unwrap();
    assert_ne!(answer.header("x-replica"), other, "a stream that was borrowed before goes on");
}

#[tokio::test]
async fn shutting_down_waits_for_what_is_borrowed_and_then_says_goodbye() {
    let (world, peer) = linked().await;
    let links = world.links.clone();
    let slow = world.tasks.spawn(async move { request(&links, "/hold", Bytes::new()).await.is_ok() });
    eventually("it is under way", || peer.held.load(Ordering::Relaxed) == 1).await;
    world.shutdown.cancel();
    eventually("the tunnels' link is closed", || peer.accepted() == 1).await;
    peer.release.notify_waiters();
    assert!(slow.await.unwrap());
    eventually("the last link is closed", || peer.accepted() == 0).await;
    let refused = timeout(Duration::from_secs(5), world.get("/x")).await.unwrap();
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_gateway_that_died_is_linked_again_when_it_is_back() {
    let (world, peer) = linked().await;
    let old = world.http_links();
    assert_eq!(peer.registry.cut(|_| true), 2);
    eventually("there is another link", || {
        let now = world.http_links();
        now.len() == 1 && now != old
    })
    .await;
    assert!(world.get("/x").await.is_ok());
}
