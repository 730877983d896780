//! Under constant requests of both HTTP versions SVIDs are renewed, links replaced, replicas exchanged:
//! nobody notices.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tests::{Http1, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const WEB: &str = "web.shop.svc.clusterset.local";
/// Links are replaced after two or three seconds.
const SHORT_LIFE: Duration = Duration::from_secs(4);

struct World {
    onprem: TestTrustDomain,
    cloud: TestTrustDomain,
    here: Scene,
    there: Scene,
    near: TestGateway,
    far: Vec<TestGateway>,
    _http: HttpEcho,
}

impl World {
    async fn new() -> Self {
        let (onprem, cloud) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("cloud"));
        let http = HttpEcho::start().await;
        let (mut here, mut there) = (Scene::new("onprem", &onprem), Scene::new("cloud", &cloud));
        there.service("web.shop", "80=http", http.address()).export("web.shop");
        here.import("cloud", "web.shop", "80=http");
        let near = TestGateway::start("onprem", &onprem, &mut Scene::new("onprem", &onprem)).await;
        near.trust.put(cloud.bundle()).unwrap();
        there.peer("onprem", &onprem, &[near.east_west]);
        let mut world = Self { onprem, cloud, here, there, near, far: Vec::new(), _http: http };
        world.start_replica().await;
        eventually("onprem reaches cloud", || world.near.reaches("cloud")).await;
        world
    }

    /// One more gateway of `cloud`, which says so to everybody.
    async fn start_replica(&mut self) {
        let far = TestGateway::start("cloud", &self.cloud, &mut Scene::new("cloud", &self.cloud)).await;
        far.trust.put(self.onprem.bundle()).unwrap();
        far.publish(&mut self.there);
        self.far.push(far);
        self.publish_replicas();
    }

    fn publish_replicas(&mut self) {
        for far in &self.far {
            far.plane.links.set_replicas(self.far.len() as u32);
        }
        let gateways: Vec<_> = self.far.iter().map(|far| far.east_west).collect();
        self.here.peer("cloud", &self.cloud, &gateways);
        self.near.publish(&mut self.here);
    }

    fn renew(&self) {
        self.near.svid.replace(self.onprem.issue("/isthmus/gateway", SHORT_LIFE));
        for far in &self.far {
            far.svid.replace(self.cloud.issue("/isthmus/gateway", SHORT_LIFE));
        }
    }

    /// Numbers of the links for HTTP that requests are sent on.
    fn links(&self) -> Vec<u64> {
        let status = self.near.plane.links.status();
        let dialled = status.iter().flat_map(|peer| &peer.dialled);
        dialled.filter(|link| link.replica.is_some()).map(|link| link.id).collect()
    }
}

/// One connection each of HTTP/1.1 and HTTP/2, by GET and by POST, until told to stop.
struct Load {
    clients: Vec<JoinHandle<usize>>,
    stop: CancellationToken,
}

impl Load {
    fn start(gateway: &TestGateway, tasks: &TaskTracker) -> Self {
        let (mesh, stop) = (gateway.mesh, CancellationToken::new());
        let clients = ["GET", "POST"].into_iter().flat_map(|method| {
            let (one, two) = (stop.clone(), stop.clone());
            let http1 = tasks.spawn(async move { http1(connect(mesh).await, method, &one).await });
            let http2 = tasks.spawn(async move { http2(connect(mesh).await, method, &two).await });
            [http1, http2]
        });
        Self { clients: clients.collect(), stop }
    }

    /// How many were answered; none may have failed.
    async fn end(self) -> usize {
        self.stop.cancel();
        let mut answered = 0;
        for client in self.clients {
            answered += within("the last answer", client).await.unwrap();
        }
        answered
    }
}

async fn connect(address: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn http1(stream: TcpStream, method: &str, stop: &CancellationToken) -> usize {
    let mut client = Http1::new(stream);
    let mut answered = 0;
    while !stop.is_cancelled() {
        let answer =
            client.send(&format!("{method} / HTTP/1.1\nHost: {WEB}\nContent-Length: 0")).await.unwrap();
        assert_eq!(answer.status, 200, "{method} over HTTP/1.1 after {answered} answers: {answer:?}");
        answered += 1;
    }
    answered
}

async fn http2(stream: TcpStream, method: &str, stop: &CancellationToken) -> usize {
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let requesting = async {
        let mut answered = 0;
        while !stop.is_cancelled() {
            let request = Request::builder().method(method).uri(format!("http://{WEB}/")).body(()).unwrap();
            let mut requests = requests.clone().ready().await.unwrap();
            let (answer, mut send) = requests.send_request(request, method == "GET").unwrap();
            if method == "POST" {
                send.send_data(Bytes::from_static(b"some body"), true).unwrap();
            }
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200, "{method} over HTTP/2 after {answered} answers: {answer:?}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn svids_of_seconds_fail_no_request() {
    let world = World::new().await;
    let tasks = TaskTracker::new();
    world.renew();
    // The first link has an hour; the peer's goodbye makes room for one that has seconds.
    world.far[0].registry.drain(|connection| connection.peer().is_some());
    let load = Load::start(&world.near, &tasks);
    for _ in 0..3 {
        let old = world.links();
        world.renew();
        eventually("the links have new SVIDs", || {
            let now = world.links();
            !now.is_empty() && now.iter().all(|link| !old.contains(link))
        })
        .await;
    }
    assert!(load.end().await > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanging_every_replica_fails_no_request() {
    let mut world = World::new().await;
    let tasks = TaskTracker::new();
    let load = Load::start(&world.near, &tasks);
    for _ in 0..3 {
        world.start_replica().await;
        eventually("both replicas are linked", || world.links().len() == 2).await;
        let mut oldest = world.far.remove(0);
        oldest.shut_down();
        oldest.ended().await;
        world.publish_replicas();
        eventually("one is left", || world.links().len() == 1).await;
    }
    assert!(load.end().await > 100);
}
