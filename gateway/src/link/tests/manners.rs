//! What a stranger, or a peer gone mad, says on a control stream.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::{Duration, timeout};

use super::peer::{Manners, PeerGateway};
use super::world::{World, eventually, head};
use crate::balancer::LinkState;
use crate::link::CONTROL_PATH;
use crate::link::message::Message;

#[tokio::test]
async fn a_peer_without_manners_is_no_link() {
    for manners in
        [Manners::NoControlStream, Manners::Silent, Manners::Garbage, Manners::EndlessLine, Manners::TooOld]
    {
        let world = World::new();
        let svid = world.cloud.handle("/isthmus/gateway");
        let trusted = [&world.onprem, &world.cloud];
        let peer = PeerGateway::showing(svid, &trusted, "a", manners).await;
        world.joined(&[peer.address]);
        // The tunnels' link comes up; the one for HTTP is dialled again.
        let knocks = if manners == Manners::Silent { 2 } else { 4 };
        eventually("it was tried", || peer.knocks.load(Ordering::Relaxed) >= knocks).await;
        assert!(world.http_links().is_empty(), "{manners:?}");
        assert_ne!(world.state(), LinkState::Up, "{manners:?}");
    }
}

#[tokio::test]
async fn a_peer_that_loses_its_manners_is_left() {
    let world = World::new();
    let svid = world.cloud.handle("/isthmus/gateway");
    let trusted = [&world.onprem, &world.cloud];
    let peer = PeerGateway::showing(svid, &trusted, "a", Manners::GarbageAfterHello).await;
    world.joined(&[peer.address]);
    eventually("it is dialled again and again", || peer.knocks.load(Ordering::Relaxed) >= 4).await;
    assert!(world.get("/x").await.is_ok(), "until a better link is there, the old one serves");
}

#[tokio::test]
async fn a_dialler_without_manners_loses_its_control_stream() {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    world.joined(&[peer.address]);
    world.up().await;
    let probe = Message::Probe { number: 1 }.encode();
    for said in [Bytes::from_static(b"\n"), Bytes::from(vec![b'x'; 1 << 20]), probe] {
        let mut stream = world.open().await;
        stream.session.write_request_header(Box::new(head(CONTROL_PATH)), false).unwrap();
        // A megabyte is refused before it has arrived.
        let _ = stream.session.write_request_body(said, false).await;
        stream.session.read_response_header().await.unwrap();
        let answer = async { while let Ok(Some(_)) = stream.session.read_response_body().await {} };
        timeout(Duration::from_secs(5), answer).await.expect("the stream ends");
    }
    assert!(world.get("/x").await.is_ok(), "and nothing else does");
}
