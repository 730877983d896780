//! The same through pingora's `HttpProxy`: what the connector lends is what clients notice.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use federation::model::AppProtocol;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::front::{Front, endpoint, speak_http1};
use super::hole::Hole;
use super::peer::PeerGateway;
use super::world::{World, eventually};
use crate::balancer::Target;
use crate::testing::cluster;
use crate::windows::Windows;

async fn linked() -> (World, PeerGateway, Front) {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    world.joined(&[peer.address]);
    world.up().await;
    let target = Target::Cluster(cluster("cloud"));
    let front = Front::start(&world.links, target, AppProtocol::Http, &world.tasks);
    (world, peer, front)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_crosses_a_link_and_its_answer_comes_back() {
    let (world, _peer, front) = linked().await;
    let mut client = front.client().await;
    let body = vec![7; 100_000];
    for _ in 0..3 {
        assert_eq!(client.send("POST /sink", &body).await.unwrap(), (200, vec![]));
        assert_eq!(client.send("GET /bytes/5000", b"").await.unwrap(), (200, vec![7; 5000]));
    }
    assert_eq!(world.http_links().len(), 1);
    eventually("every stream is returned", || {
        world.links.status()[0].dialled.iter().all(|link| link.streams == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_path_that_falls_silent_only_what_cannot_be_repeated_waits() {
    let world = World::new();
    let peer = PeerGateway::start(&world.cloud, &[&world.onprem, &world.cloud], "a").await;
    let hole = Hole::before(peer.address, &world.tasks).await;
    world.joined(&[hole.address]);
    world.up().await;
    let front =
        Front::start(&world.links, Target::Cluster(cluster("cloud")), AppProtocol::Http, &world.tasks);
    let (mut reader, mut writer) = (front.client().await, front.client().await);
    let reading = async { reader.send("GET /swallow", b"").await };
    let writing = async { writer.send("POST /hold", b"x").await };
    let path = async {
        eventually("both wait", || peer.held.load(Ordering::Relaxed) == 2).await;
        hole.swallow();
    };
    let mut writing = std::pin::pin!(writing);
    let read = async { tokio::join!(path, tokio::time::timeout(Duration::from_secs(4), reading)).1 };
    tokio::select! {
        read = read => {
            let status = read.expect("2.5 s of silence, and a probe's interval").unwrap().0;
            assert!(status >= 500, "{status}");
        }
        written = &mut writing => panic!("{written:?}"),
    }
    hole.carry_again();
    peer.release.notify_waiters();
    assert_eq!(writing.await.unwrap().0, 200, "no stream was lost");
}

#[tokio::test]
async fn without_a_link_a_request_fails_at_once() {
    let world = World::new();
    let target = Target::Cluster(cluster("cloud"));
    let front = Front::start(&world.links, target, AppProtocol::Http, &world.tasks);
    let answer = tokio::time::timeout(Duration::from_secs(2), async {
        front.client().await.send("GET /x", b"").await.unwrap()
    });
    assert_eq!(answer.await.unwrap().0, 502);
}

#[tokio::test]
async fn endpoints_keep_their_connections() {
    let world = World::new();
    let (target, seen) = endpoint(&world.tasks, speak_http1).await;
    let front = Front::start(&world.links, target, AppProtocol::Http, &world.tasks);
    let mut client = front.client().await;
    for _ in 0..20 {
        assert_eq!(client.send("POST /", b"x").await.unwrap().0, 200);
    }
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2c_endpoints_answer_bursts_and_get_no_connection_for_each_request() {
    let world = World::new();
    let (target, seen) = endpoint(&world.tasks, speak_h2c).await;
    let front = Front::start(&world.links, target, AppProtocol::Grpc, &world.tasks);
    let clients = (0..50).map(async |_| {
        let mut client = front.client().await;
        client.send("POST /", &[1; 50_000]).await.unwrap()
    });
    for answer in futures::future::join_all(clients).await {
        assert_eq!(answer, (200, b"50000".to_vec()));
    }
    // How many a burst makes depends on how many come while none is there yet.
    let before = seen.load(Ordering::Relaxed);
    let mut client = front.client().await;
    for _ in 0..20 {
        client.send("POST /", b"x").await.unwrap();
    }
    assert_eq!(seen.load(Ordering::Relaxed), before, "one after the other need no new one");
}

async fn speak_h2c(stream: TcpStream) -> std::io::Result<()> {
    let mut http2 =
        Windows::CLIENTS.server().handshake::<_, Bytes>(stream).await.map_err(std::io::Error::other)?;
    let mut answering = futures::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = http2.accept() => match accepted {
                Some(Ok((request, respond))) => answering.push(measure(request, respond)),
                _ => return Ok(()),
            },
            Some(()) = futures::StreamExt::next(&mut answering) => {}
        }
    }
}

async fn measure(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (mut body, mut total) = (request.into_body(), 0);
    while let Some(Ok(chunk)) = body.data().await {
        total += chunk.len();
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
    send.send_data(total.to_string().into(), true).unwrap();
}

/// Pingora issue 946: without our wrapper some of these end right after the 101.
async fn upgrades(front: &Front, many: usize) {
    let clients = (0..8).map(async |client: usize| {
        for n in 0..many {
            let said = format!("{client} says {n}");
            let upgraded = front.client().await.upgrade(said.as_bytes()).await;
            assert_eq!(upgraded.unwrap(), (101, said.into_bytes()), "upgrade {n}");
        }
    });
    futures::future::join_all(clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_to_a_fast_endpoint_are_never_torn_down() {
    let world = World::new();
    let (target, seen) = endpoint(&world.tasks, speak_http1).await;
    let front = Front::start(&world.links, target, AppProtocol::Http, &world.tasks);
    upgrades(&front, 60).await;
    assert_eq!(seen.load(Ordering::Relaxed), 8 * 60, "each on a connection of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_cross_to_a_peer_through_tunnels() {
    let (world, _peer, front) = linked().await;
    eventually("the tunnels' link is up", || world.links.status()[0].dialled.len() == 2).await;
    upgrades(&front, 10).await;
    eventually("all tunnels are closed", || {
        world.links.status()[0].dialled.iter().all(|link| link.streams == 0)
    })
    .await;
}

/// Requests on one connection, one after the other, until told to stop.
fn load(front: SocketAddr, http2: bool, world: &World, stop: &CancellationToken) -> JoinHandle<usize> {
    let stop = stop.clone();
    world.tasks.spawn(async move {
        let stream = TcpStream::connect(front).await.unwrap();
        stream.set_nodelay(true).unwrap();
        if http2 { http2_load(stream, stop).await } else { http1_load(stream, stop).await }
    })
}

async fn http1_load(stream: TcpStream, stop: CancellationToken) -> usize {
    let mut client = super::front::Http1::new(stream);
    let mut answered = 0;
    while !stop.is_cancelled() {
        let answer = client.send("POST /sink", &[1; 1000]).await;
        assert_eq!(answer.unwrap().0, 200, "after {answered} answers");
        answered += 1;
    }
    answered
}

async fn http2_load(stream: TcpStream, stop: CancellationToken) -> usize {
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let requesting = async {
        let mut answered = 0;
        while !stop.is_cancelled() {
            let mut requests = requests.clone().ready().await.unwrap();
            let request = http::Request::post("http://cart.shop/sink").body(()).unwrap();
            let (answer, mut send) = requests.send_request(request, false).unwrap();
            send.send_data(vec![1; 1000].into(), true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200, "after {answered} answers");
            let mut body = answer.into_body();
            while let Some(chunk) = body.data().await {
                chunk.unwrap();
            }
            answered += 1;
        }
        answered
    };
    tokio::select! {
        answered = requesting => answered,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

async fn all_new(world: &World, old: &[u64]) {
    eventually("all links are new", || {
        let now = world.http_links();
        !now.is_empty() && now.iter().all(|link| !old.contains(link))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_version_notices_that_links_are_replaced() {
    let (world, peer, front) = linked().await;
    let stop = CancellationToken::new();
    let clients: Vec<_> =
        [false, false, true, true].map(|http2| load(front.address, http2, &world, &stop)).into();
    // By age: each SVID lives so short that its links are replaced after two seconds.
    peer.drain();
    for _ in 0..2 {
        let old = world.http_links();
        world.svid.replace(world.onprem.svid("/isthmus/gateway", Duration::from_secs(3)));
        all_new(&world, &old).await;
    }
    // By the peer's goodbye.
    world.svid.replace(world.onprem.svid("/isthmus/gateway", Duration::from_secs(3600)));
    for _ in 0..3 {
        let old = world.http_links();
        peer.drain();
        all_new(&world, &old).await;
    }
    stop.cancel();
    for client in clients {
        assert!(client.await.unwrap() > 10);
    }
}
