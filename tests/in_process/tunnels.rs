//! CONNECT streams that a peer's gateway opens: export check, bytes, HTTP inside (T8, T9).

use bytes::Bytes;
use gateway::tunnel::Tunnel;
use h2::client::SendRequest;
use http::{Request, Response};
use tests::{
    EchoServer, Http1, Http2, Http2Echo, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::TaskTracker;

const GATEWAY: &str = "gateway.onprem.isthmus.internal";

struct World {
    http: HttpEcho,
    grpc: Http2Echo,
    tcp: EchoServer,
    scene: Scene,
    gateway: TestGateway,
    /// What the peer's gateway opens streams with.
    requests: SendRequest<Bytes>,
    _tasks: TaskTracker,
}

impl World {
    async fn new() -> Self {
        let (onprem, cloud) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("cloud"));
        let (http, tcp) = (HttpEcho::start().await, EchoServer::start().await);
        let grpc = Http2Echo::start().await;
        let mut scene = Scene::new("onprem", &onprem);
        scene.service("grpc.shop", "80=grpc", grpc.address()).export("grpc.shop");
        scene.service("web.shop", "80=http", http.address()).export("web.shop");
        scene.service("echo.shop", "7=tcp", tcp.address()).export("echo.shop");
        scene.service("dead.shop", "7=tcp", "127.0.0.1:1".parse().unwrap()).export("dead.shop");
        scene.service("secret.shop", "7=tcp", tcp.address());
        scene.peer("cloud", &cloud, &[]);
        let gateway = TestGateway::start("onprem", &onprem, &mut scene).await;
        gateway.trust.put(cloud.bundle()).unwrap();
        let svid = cloud.svid("/isthmus/gateway");
        let link = within("a handshake", gateway.dial(&svid, GATEWAY, b"isthmus-tunnel/1")).await.unwrap();
        let (requests, connection) = within("HTTP/2", h2::client::handshake(link)).await.unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(async move { _ = connection.await });
        Self { http, grpc, tcp, scene, gateway, requests, _tasks: tasks }
    }

    async fn connect(&self, to: &str, caller: Option<&str>) -> Result<Tunnel, Response<()>> {
        let mut request = Request::connect(to).body(()).unwrap();
        request.headers_mut().extend(caller.map(|id| (gateway::headers::CALLER, id.parse().unwrap())));
        request.headers_mut().insert(gateway::headers::CLIENT, "192.0.2.9".parse().unwrap());
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (answer, send) = requests.send_request(request, false).unwrap();
        let answer = within("an answer", answer).await.unwrap();
        match answer.status().as_u16() {
            200 => Ok(Tunnel::new(send, answer.into_body())),
            _ => Err(answer.map(drop)),
        }
    }
}

#[tokio::test]
async fn bytes_go_both_ways_at_once_and_each_half_ends_alone() {
    let world = World::new().await;
    let tunnel = world.connect("echo.shop:7", None).await.unwrap();
    let (mut read, mut write) = tokio::io::split(tunnel);
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut echoed = Vec::new();
    let both = async { tokio::join!(writing, read.read_to_end(&mut echoed)).1 };
    within("3 MB there and back", both).await.unwrap();
    assert!(echoed == sent, "{} of {} bytes", echoed.len(), sent.len());
    eventually("the stream is in the access log", || world.gateway.log().len() == 1).await;
}

#[tokio::test]
async fn what_is_not_exported_is_as_what_does_not_exist() {
    let world = World::new().await;
    for to in [
        "secret.shop:7",
        "nowhere.shop:7",
        "echo.shop:8",
        "echo.shop",
        "echo.shop.svc.clusterset.local:7",
        "127.0.0.1:22",
    ] {
        let refused = world.connect(to, None).await.unwrap_err();
        assert_eq!(refused.status(), 404, "{to}");
        assert_eq!(refused.headers().get("isthmus-fault").unwrap(), "not-found", "{to}");
        assert_eq!(refused.headers().len(), 1, "{to}: {:?}", refused.headers());
    }
    assert_eq!(world.tcp.accepted(), 0, "no endpoint has noticed");
}

#[tokio::test]
async fn success_is_only_said_when_the_endpoint_took_the_connection() {
    let world = World::new().await;
    let refused = world.connect("dead.shop:7", None).await.unwrap_err();
    assert_eq!(refused.status(), 502);
    assert_eq!(refused.headers().get("isthmus-fault").unwrap(), "connect");
}

#[tokio::test]
async fn a_stream_to_an_http_port_takes_the_http_path_with_the_caller_of_its_head() {
    let world = World::new().await;
    let own = "spiffe://cloud.isthmus.internal/ns/shop/sa/cart";
    let foreign = "spiffe://onprem.isthmus.internal/ns/shop/sa/admin";
    for (caller, believed) in [(own, true), (foreign, false)] {
        let mut inside = Http1::new(world.connect("web.shop:80", Some(caller)).await.unwrap());
        let head =
            format!("GET /in HTTP/1.1\nHost: whatever\nisthmus-caller: {own}\nisthmus-to: secret.shop:7");
        for _ in 0..2 {
            let answer = within("an answer", inside.send(&head)).await.unwrap();
            assert_eq!((answer.status, answer.echoed_line()), (200, "GET /in HTTP/1.1"));
            assert_eq!(answer.echoed("x-forwarded-for"), Some("192.0.2.9"));
            assert!(!answer.body.contains("isthmus-"), "{}", answer.body);
        }
        let lines = || world.gateway.log().iter().filter(|line| line.to_string().contains(caller)).count();
        let expected = if believed { 2 } else { 0 };
        eventually("two lines each", || world.gateway.log().len() % 2 == 0 && lines() == expected).await;
        let nested = within("CONNECT", inside.send("CONNECT echo.shop:7 HTTP/1.1\nHost: x")).await.unwrap();
        assert_eq!(nested.status, 405);
    }
}

#[tokio::test]
async fn a_drained_link_ends_idle_http_inside_and_lets_streams_finish() {
    let world = World::new().await;
    let mut idle = Http1::new(world.connect("web.shop:80", None).await.unwrap());
    assert_eq!(within("an answer", idle.get("a", "/")).await.unwrap().status, 200);
    let mut busy = world.connect("echo.shop:7", None).await.unwrap();
    assert_eq!(world.gateway.registry.drain(|connection| connection.peer().is_some()), 1);
    assert_eq!(within("END_STREAM, not a reset", idle.stream.read(&mut [0; 1])).await.unwrap(), 0);
    busy.write_all(b"still here").await.unwrap();
    busy.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    within("the stream's own end", busy.read_to_end(&mut echoed)).await.unwrap();
    assert_eq!(echoed, b"still here");
    eventually("the link is gone", || world.gateway.registry.count(|c| c.peer().is_some()) == 0).await;
    let _ = &world.http;
}

#[tokio::test]
async fn a_cut_link_ends_its_streams_at_once() {
    let world = World::new().await;
    let mut tunnel = world.connect("echo.shop:7", None).await.unwrap();
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(within("an echo", tunnel.read_u8()).await.unwrap(), b'x');
    assert_eq!(world.gateway.registry.cut(|connection| connection.peer().is_some()), 1);
    assert!(within("the cut", tunnel.read_u8()).await.is_err());
    eventually("the link is forgotten", || world.gateway.registry.count(|c| c.peer().is_some()) == 0).await;
}

#[tokio::test]
async fn http2_by_preface_inside_a_stream_keeps_its_trailers_and_the_callers_identity() {
    let world = World::new().await;
    let caller = "spiffe://cloud.isthmus.internal/ns/shop/sa/cart";
    let inside = Http2::over(world.connect("grpc.shop:80", Some(caller)).await.unwrap()).await.unwrap();
    for n in 1..3 {
        let request = Request::post("http://whatever/shop.Cart/Add").header("te", "trailers").body(());
        let answer = inside.send(request.unwrap(), vec![7; 100_000]).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 100_000));
        assert_eq!((answer.trailer("x-total"), answer.trailers.len()), (Some("100000"), 2));
        let lines = || world.gateway.log().iter().filter(|line| line.to_string().contains(caller)).count();
        eventually("a line with the caller", || lines() == n).await;
    }
    assert_eq!(world.grpc.accepted(), 1);
    world.gateway.registry.drain(|connection| connection.peer().is_some());
    inside.said_goodbye().await;
    inside.ended().await;
}

#[tokio::test]
async fn a_withdrawn_export_ends_its_open_streams_and_no_others() {
    // T25: authorised when it was opened, and no longer.
    let mut world = World::new().await;
    let mut web = Http1::new(world.connect("web.shop:80", None).await.unwrap());
    assert_eq!(within("an answer", web.get("a", "/")).await.unwrap().status, 200);
    let mut echo = world.connect("echo.shop:7", None).await.unwrap();
    let grpc = Http2::over(world.connect("grpc.shop:80", None).await.unwrap()).await.unwrap();
    echo.write_all(b"x").await.unwrap();
    assert_eq!(within("an echo", echo.read_u8()).await.unwrap(), b'x');
    assert_eq!(grpc.get("a", "/").await.unwrap().status, 200);

    world.scene.withdraw("echo.shop").withdraw("web.shop");
    world.gateway.publish(&mut world.scene);
    let limit = std::time::Duration::from_secs(5);
    let ended = tokio::time::timeout(limit, echo.read(&mut [0; 1])).await.expect("T25 allows 5 s");
    assert!(ended.is_err(), "a withdrawal is no end of stream: {ended:?}");
    let ended = tokio::time::timeout(limit, web.stream.read(&mut [0; 1])).await.expect("T25 allows 5 s");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert_eq!(grpc.get("a", "/").await.unwrap().status, 200, "what is still offered goes on");
    assert_eq!(world.connect("echo.shop:7", None).await.unwrap_err().status(), 404);
    let closed = || {
        let lines = world.gateway.log();
        lines.iter().any(|line| line["destination_service"] == "echo.shop")
    };
    eventually("the stream is in the access log", closed).await;
}
