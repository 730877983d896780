//! Peers with the right certificate and bad manners, and how much of us they can have.

use bytes::Bytes;
use gateway::listener::Room;
use h2::client::SendRequest;
use http::Request;
use tests::{Bounds, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::AsyncReadExt;
use tokio_util::task::TaskTracker;

const GATEWAY: &str = "gateway.onprem.isthmus.internal";
const CONTROL: &str = "https://gateway.onprem.isthmus.internal/isthmus.link.v1/Control";

struct World {
    cloud: TestTrustDomain,
    edge: TestTrustDomain,
    gateway: TestGateway,
    http: HttpEcho,
    tasks: TaskTracker,
}

impl World {
    async fn new(bounds: Bounds) -> Self {
        let onprem = TestTrustDomain::new("onprem");
        let (cloud, edge) = (TestTrustDomain::new("cloud"), TestTrustDomain::new("edge"));
        let (http, mut scene) = (HttpEcho::start().await, Scene::new("onprem", &onprem));
        scene.service("web.shop", "80=http", http.address()).export("web.shop");
        scene.peer("cloud", &cloud, &[]).peer("edge", &edge, &[]);
        let gateway = TestGateway::start_within(bounds, "onprem", &onprem, &mut scene).await;
        gateway.trust.put(cloud.bundle()).unwrap();
        gateway.trust.put(edge.bundle()).unwrap();
        Self { cloud, edge, gateway, http, tasks: TaskTracker::new() }
    }

    /// A link of `cloud`, as far as HTTP/2.
    async fn link(&self) -> SendRequest<Bytes> {
        let svid = self.cloud.svid("/isthmus/gateway");
        let tls = within("a handshake", self.gateway.dial(&svid, GATEWAY, b"h2")).await.unwrap();
        let (requests, connection) = within("HTTP/2", h2::client::handshake(tls)).await.unwrap();
        self.tasks.spawn(async move { _ = connection.await });
        requests
    }

    fn links(&self) -> usize {
        self.gateway.registry.count(|connection| connection.owner().starts_with("east-west "))
    }

    fn metrics(&self) -> String {
        String::from_utf8(self.gateway.metrics.encode()).unwrap()
    }
}

fn control() -> Request<()> {
    Request::post(CONTROL).body(()).unwrap()
}

const HELLO: &str = "{\"type\":\"hello\",\"version\":1,\"replica\":\"r\",\"replicas\":1}\n";

async fn get(requests: &SendRequest<Bytes>) -> u16 {
    let request = Request::get("https://web.shop.svc.clusterset.local/").header("isthmus-to", "web.shop:80");
    let mut requests = within("room for a stream", requests.clone().ready()).await.unwrap();
    let (answer, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
    within("an answer", answer).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_link_has_one_control_stream() {
    let world = World::new(Bounds::default()).await;
    let requests = world.link().await;
    let mut held = Vec::new();
    for expected in [200, 409, 409] {
        let mut requests = within("room", requests.clone().ready()).await.unwrap();
        let (answer, mut send) = requests.send_request(control(), false).unwrap();
        if expected == 200 {
            send.send_data(HELLO.into(), false).unwrap();
        }
        let answer = within("an answer", answer).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected);
        held.push((answer, send));
    }
    assert_eq!((world.links(), get(&requests).await), (1, 200), "the link and its first stream go on");
}

#[tokio::test]
async fn a_control_stream_that_breaks_takes_its_link_along() {
    for (said, why) in [
        (
            Some("{\"type\":\"hello\",\"version\":0,\"replica\":\"r\",\"replicas\":1}\n"),
            "a version that is too old",
        ),
        (Some("{\"type\":\"probe\",\"number\":1}\n"), "no hello"),
        (Some("nonsense\n"), "no message"),
        (None, "reset"),
    ] {
        let world = World::new(Bounds::default()).await;
        let requests = world.link().await;
        let mut ready = within("room", requests.clone().ready()).await.unwrap();
        let (answer, mut send) = ready.send_request(control(), false).unwrap();
        send.send_data(HELLO.into(), false).unwrap();
        let _answer = within("an answer", answer).await.unwrap();
        assert_eq!(get(&requests).await, 200, "{why}");
        match said {
            Some(text) if why == "no message" => send.send_data(text.into(), false).unwrap(),
            Some(_) => {
                // A first message can only be wrong on another link.
                let other = world.link().await;
                eventually("both links are there", || world.links() == 2).await;
                let mut ready = within("room", other.clone().ready()).await.unwrap();
                let (_answer, mut send) = ready.send_request(control(), false).unwrap();
                send.send_data(said.unwrap_or_default().into(), false).unwrap();
                eventually("the other link is cut", || world.links() == 1).await;
                assert_eq!(get(&requests).await, 200, "{why}: the first one stays");
                continue;
            }
            None => send.send_reset(h2::Reason::CANCEL),
        }
        eventually(&format!("{why}: the link is cut"), || world.links() == 0).await;
    }
}

#[tokio::test]
async fn one_peer_takes_half_of_the_room_for_links_at_most() {
    let bounds = Bounds { room: Room::new(100, 8), ..Bounds::default() };
    let world = World::new(bounds).await;
    let svid = world.cloud.svid("/isthmus/gateway");
    let mut held = Vec::new();
    for number in 1..=6 {
        let link = within("a handshake", world.gateway.dial(&svid, GATEWAY, b"isthmus-tunnel/1")).await;
        let Ok(mut link) = link else { continue };
        if number <= 4 {
            eventually("the link is registered", || world.links() == number).await;
        } else {
            let end = within("the refusal", link.read(&mut [0; 64])).await;
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        }
        held.push(link);
    }
    assert_eq!(world.links(), 4);
    let counted = "isthmus_rejected_connections_total{entrance=\"link\",reason=\"links_of_peer\"} 2";
    eventually(counted, || world.metrics().contains(counted)).await;
    let other = world.edge.svid("/isthmus/gateway");
    let _theirs = within("a link of another peer", world.gateway.dial(&other, GATEWAY, b"h2")).await.unwrap();
    eventually("the other peer has room", || world.links() == 5).await;
    drop(held);
    eventually("what was given up is free again", || world.links() == 1).await;
    assert_eq!(get(&world.link().await).await, 200);
    assert_eq!(world.http.asked(), 1);
}
