//! A process that is short of something: bulk traffic is told so, links and probes go on, and it comes back.

use std::sync::Arc;

use gateway::overload::{Guard, Settings, Share, Usage};
use parking_lot::Mutex;
use tests::{Bounds, EchoServer, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NEAR: &str = "near.shop.svc.clusterset.local";
const FAR: &str = "far.shop.svc.clusterset.local";

/// `onprem` reaches `cloud`, whose usage a test sets.
struct World {
    near: TestGateway,
    far: TestGateway,
    used: Arc<Mutex<Usage>>,
    http: HttpEcho,
    _tcp: EchoServer,
}

impl World {
    async fn new(settings: Settings) -> Self {
        let (onprem, cloud) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("cloud"));
        let (http, tcp) = (HttpEcho::start().await, EchoServer::start().await);
        let (mut here, mut there) = (Scene::new("onprem", &onprem), Scene::new("cloud", &cloud));
        there.service("far.shop", "80=http", http.address()).export("far.shop");
        there.service("near.shop", "80=http", http.address()).export("near.shop");
        there.service("db.shop", "5432=tcp", tcp.address()).export("db.shop");
        here.import("cloud", "far.shop", "80=http");
        let near = TestGateway::start("onprem", &onprem, &mut here).await;
        there.peer("onprem", &onprem, &[near.east_west]);
        let used = Arc::<Mutex<Usage>>::default();
        let measured = used.clone();
        let bounds =
            Bounds { overload: Guard::measured(settings, move || *measured.lock()), ..Bounds::default() };
        let far = TestGateway::start_within(bounds, "cloud", &cloud, &mut there).await;
        near.trust.put(cloud.bundle()).unwrap();
        far.trust.put(onprem.bundle()).unwrap();
        here.peer("cloud", &cloud, &[far.east_west]);
        near.publish(&mut here);
        eventually("onprem reaches cloud", || near.reaches("cloud")).await;
        eventually("cloud reaches onprem", || far.reaches("onprem")).await;
        Self { near, far, used, http, _tcp: tcp }
    }

    fn use_memory(&self, percent: u64) {
        self.used.lock().memory = Some(Share { used: percent, limit: 100 });
    }

    /// Those that `onprem` dialled.
    fn links(&self) -> Vec<u64> {
        let all = self.near.registry.list();
        all.iter().filter(|connection| connection.owner() == "link").map(|link| link.id()).collect()
    }
}

async fn status(gateway: &TestGateway, host: &str) -> u16 {
    let answer = within("an answer", gateway.client().await.get(host, "/")).await;
    answer.map_or(0, |answer| answer.status)
}

async fn until_answered(gateway: &TestGateway, host: &str, expected: u16) {
    let answered = async { while status(gateway, host).await != expected {} };
    within(&format!("{host} answers {expected}"), answered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_shed_links_live_and_it_recovers() {
    let world = World::new(Settings::default()).await;
    assert_eq!((status(&world.far, NEAR).await, status(&world.near, FAR).await), (200, 200));
    let links = world.links();
    let mut kept = world.far.client().await;
    assert_eq!(kept.get(NEAR, "/").await.unwrap().status, 200);

    world.use_memory(92);
    until_answered(&world.far, NEAR, 503).await;
    let asked = world.http.asked();
    let answer = within("an answer", kept.get(NEAR, "/")).await.unwrap();
    assert_eq!((answer.status, answer.header("isthmus-fault")), (503, Some("overloaded")), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.body.contains("short of memory"), "{}", answer.body);
    let over_link = within("an answer", world.near.client().await.get(FAR, "/")).await.unwrap();
    assert_eq!(over_link.status, 503, "{over_link:?}");
    let mut tunnel = world.far.client().await;
    let refused = tunnel.send("CONNECT db.shop.svc.clusterset.local:5432 HTTP/1.1").await.unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(world.http.asked(), asked, "no application was bothered");
    assert!(world.near.reaches("cloud") && world.far.reaches("onprem"), "probes are answered");
    assert_eq!(world.links(), links, "no link was given up");
    eventually("the log says why", || {
        world
            .far
            .log()
            .iter()
            .any(|line| line["flags"] == "OM" && line["reason"] == "overload_memory" && line["status"] == 503)
    })
    .await;
    let metrics = String::from_utf8(world.far.metrics.encode()).unwrap();
    for counted in [
        "isthmus_shed_total{entrance=\"mesh\",resource=\"memory\"}",
        "isthmus_shed_total{entrance=\"link\",resource=\"memory\"}",
        "isthmus_saturation_ratio{resource=\"memory\"} 0.92",
    ] {
        assert!(metrics.contains(counted), "{counted}: {metrics}");
    }

    world.use_memory(84);
    until_answered(&world.far, NEAR, 200).await;
    until_answered(&world.near, FAR, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_last_resort_clients_are_closed_and_links_are_still_made() {
    let world = World::new(Settings::default()).await;
    world.use_memory(97);
    let closed = async {
        loop {
            let mut client = TcpStream::connect(world.far.mesh).await.unwrap();
            // Written before the end is read: a refusal needs no request.
            let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: near.shop\r\n\r\n").await;
            if matches!(client.read(&mut [0; 64]).await, Ok(0) | Err(_)) {
                return;
            }
        }
    };
    within("a client is closed", closed).await;
    let before = world.links();
    world.near.registry.cut(|link| link.owner() == "link");
    eventually("new links are made", || {
        let now = world.links();
        world.near.reaches("cloud") && !now.is_empty() && now.iter().all(|id| !before.contains(id))
    })
    .await;
    world.use_memory(10);
    until_answered(&world.far, NEAR, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_bounded_and_a_flood_of_peers_leaves_room_for_clients() {
    let world = World::new(Settings { requests: Some(3), ..Settings::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = world.near.client().await;
        client
            .stream
            .write_all(format!("GET /held HTTP/1.1\r\nHost: {FAR}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        held.push(client);
    }
    eventually("three wait at the endpoint", || world.http.held() == 3).await;
    let refused = within("an answer", world.near.client().await.get(FAR, "/")).await.unwrap();
    assert_eq!((refused.status, refused.header("isthmus-fault")), (503, Some("overloaded")));
    assert_eq!(status(&world.far, NEAR).await, 200, "our own clients are counted apart");
    world.http.release();
    for client in &mut held {
        assert_eq!(within("an answer", client.answer(false)).await.unwrap().status, 200);
    }
    until_answered(&world.near, FAR, 200).await;
}
