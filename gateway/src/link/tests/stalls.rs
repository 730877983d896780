//! Clients that stop reading, and backends that do, must not delay the others on the same link (U1).

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::v2::write_body;
use tokio::time::timeout;

use super::hole::Hole;
use super::peer::PeerGateway;
use super::world::{World, eventually, head};
use crate::link::HttpStream;

const STALLED_BYTES: usize = 8 << 20;
const HEALTHY_BYTES: usize = 256 << 10;
const HEALTHY: usize = 10;
/// Milliseconds when nothing stalls, and for ever when something does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Only one link of each kind can be had, so that all streams share one.
async fn linked() -> (World, PeerGateway) {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    let hole = Hole::for_only(2, peer.address, &world.tasks).await;
    world.joined(&[hole.address]);
    world.up().await;
    (world, peer)
}

async fn downloads_while(stalled: usize) {
    let (world, _peer) = linked().await;
    let mut held = Vec::new();
    for _ in 0..stalled {
        held.push(stalled_download(&world).await);
    }
    for _ in 0..HEALTHY {
        let path = format!("/bytes/{HEALTHY_BYTES}");
        let answer = timeout(PATIENCE, world.get(&path)).await.expect("it is not delayed").unwrap();
        assert_eq!(answer.body.len(), HEALTHY_BYTES);
    }
    assert_eq!(world.http_links().len(), 1);
}

/// Reads the head and one piece of the body, so that the rest is on its way, and then nothing.
async fn stalled_download(world: &World) -> HttpStream {
    let mut stream = world.open().await;
    stream.session.write_request_header(Box::new(head(&format!("/bytes/{STALLED_BYTES}"))), true).unwrap();
    stream.session.read_response_header().await.unwrap();
    stream.session.read_response_body().await.unwrap().unwrap();
    stream
}

async fn uploads_while(stalled: usize) {
    let (world, peer) = linked().await;
    let mut held = Vec::new();
    for _ in 0..stalled {
        let mut stream = world.open().await;
        stream.session.write_request_header(Box::new(head("/swallow")), false).unwrap();
        let mut send = stream.session.take_request_body_writer().unwrap();
        held.push(world.tasks.spawn(async move {
            let sent = write_body(&mut send, vec![1; STALLED_BYTES].into(), true, None).await;
            drop(stream);
            sent
        }));
    }
    eventually("all have begun", || peer.held.load(Ordering::Relaxed) == stalled).await;
    let body = Bytes::from(vec![1; HEALTHY_BYTES]);
    for _ in 0..HEALTHY {
        let upload = world.post("/sink", body.clone());
        let answer = timeout(PATIENCE, upload).await.expect("it is not delayed").unwrap();
        assert_eq!(answer.total(), Some(HEALTHY_BYTES));
    }
    assert_eq!(world.http_links().len(), 1);
    assert!(held.iter().all(|upload| !upload.is_finished()), "the stalled ones are still stalled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stalled_download_delays_nobody() {
    downloads_while(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_stalled_downloads_delay_nobody() {
    downloads_while(90).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stalled_upload_delays_nobody() {
    uploads_while(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_stalled_uploads_delay_nobody() {
    uploads_while(90).await;
}
