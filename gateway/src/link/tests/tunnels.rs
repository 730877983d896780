//! Byte streams through a peer's gateway.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::peer::PeerGateway;
use super::world::{World, eventually};
use crate::fault::Fault;
use crate::link::{BorrowedTunnel, NoStream, OpenFault, Protocol};
use crate::testing::{cluster, name};

async fn linked() -> (World, PeerGateway) {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    world.joined(&[peer.address]);
    eventually("a link for tunnels is up", || tunnel_links(&world).len() == 1).await;
    (world, peer)
}

fn tunnel_links(world: &World) -> Vec<u64> {
    let status = world.links.status();
    let dialled = status.iter().flat_map(|peer| &peer.dialled);
    dialled.filter(|link| link.protocol == Protocol::Tunnel).map(|link| link.id).collect()
}

async fn open(world: &World, to: &str, port: u16) -> Result<BorrowedTunnel, OpenFault> {
    world.links.tunnel(&cluster("cloud"), &name(to), port, []).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_go_both_ways_at_once_and_each_half_ends_by_itself() {
    const TOTAL: usize = 3_000_000;
    let (world, _peer) = linked().await;
    let one = async |fill: u8| {
        let (mut read, mut write) = tokio::io::split(open(&world, "echo.default", 7).await.unwrap());
        let send = async move {
            write.write_all(&vec![fill; TOTAL]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (((), read), ()) = (tokio::join!(send, read.read_to_end(&mut received)), ());
        read.unwrap();
        received.iter().filter(|byte| **byte == fill).count()
    };
    assert_eq!(tokio::join!(one(1), one(2)), (TOTAL, TOTAL));
    assert_eq!(world.links.status()[0].dialled.iter().map(|link| link.streams).sum::<usize>(), 0);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let (world, _peer) = linked().await;
    for (to, expected) in [
        ("not-found.x", OpenFault::Refused(Fault::NotFound)),
        ("no-endpoint.x", OpenFault::Refused(Fault::NoEndpoint)),
        ("overloaded.x", OpenFault::Refused(Fault::Overloaded)),
        ("connect.x", OpenFault::Refused(Fault::Connect)),
        ("policy.x", OpenFault::Refused(Fault::Policy)),
        ("teapot.x", OpenFault::Status(StatusCode::IM_A_TEAPOT)),
    ] {
        assert_eq!(open(&world, to, 80).await.unwrap_err(), expected);
    }
    assert!(open(&world, "echo.default", 7).await.is_ok(), "a refusal concerns one stream only");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_five_seconds() {
    let (world, _peer) = linked().await;
    let opened = timeout(Duration::from_secs(15), open(&world, "silent.default", 7)).await.unwrap();
    assert_eq!(opened.unwrap_err(), OpenFault::TimedOut);
}

#[tokio::test]
async fn without_a_link_there_is_no_tunnel() {
    let world = World::new();
    assert_eq!(open(&world, "echo.default", 7).await.unwrap_err(), OpenFault::NoStream(NoStream::NoLink));
}

#[tokio::test]
async fn an_open_tunnel_outlives_its_link_being_replaced() {
    let (world, peer) = linked().await;
    let old = tunnel_links(&world);
    let mut tunnel = open(&world, "echo.default", 7).await.unwrap();
    peer.drain();
    eventually("its link is replaced", || {
        let now = tunnel_links(&world);
        now.len() == 1 && now != old
    })
    .await;
    assert_ne!(open(&world, "echo.default", 7).await.unwrap().facts().connection().id(), old[0]);
    tunnel.write_all(b"still here").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut heard = String::new();
    tunnel.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "still here");
    drop(tunnel);
    eventually("then the old link closes", || peer.accepted() == 2).await;
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_is_reset_and_one_that_is_cut_fails() {
    let (world, peer) = linked().await;
    drop(open(&world, "echo.default", 7).await.unwrap());
    let mut tunnel = open(&world, "echo.default", 7).await.unwrap();
    peer.registry.cut(|_| true);
    let read = timeout(Duration::from_secs(5), tunnel.read(&mut [0; 8])).await.unwrap();
    assert!(read.is_err(), "a cut is no end of stream: {read:?}");
}
