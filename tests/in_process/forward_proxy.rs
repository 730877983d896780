//! Users of `HTTP_PROXY`: absolute form and CONNECT on the mesh listener (notes/pingora 9.7).

use tests::{EchoServer, Http1, HttpEcho, Scene, TestGateway, TestTrustDomain, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct World {
    gateway: TestGateway,
    _http: HttpEcho,
    _tcp: EchoServer,
}

impl World {
    async fn new() -> Self {
        let domain = TestTrustDomain::new("onprem");
        let (http, tcp) = (HttpEcho::start().await, EchoServer::start().await);
        let mut scene = Scene::new("onprem", &domain);
        scene.service("web.shop", "80=http", http.address()).export("web.shop");
        scene.service("echo.shop", "7=tcp", tcp.address()).export("echo.shop");
        Self { gateway: TestGateway::start("onprem", &domain, &mut scene).await, _http: http, _tcp: tcp }
    }

    async fn client(&self) -> Http1<TcpStream> {
        self.gateway.client().await
    }
}

const WEB: &str = "web.shop.svc.clusterset.local";
const ECHO: &str = "echo.shop.svc.clusterset.local:7";

#[tokio::test]
async fn a_request_by_host_reaches_the_endpoint_with_what_we_know_of_its_caller() {
    let world = World::new().await;
    let mut client = world.client().await;
    let head = format!(
        "GET /a?q=1 HTTP/1.1\nHost: {WEB}\nX-Forwarded-For: 1.2.3.4\nisthmus_caller: spiffe://x/y\n\
         Isthmus-Caller: spiffe://onprem.isthmus.internal/admin\nX-Mine: 1"
    );
    let answer = within("an answer", client.send(&head)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.echoed_line(), "GET /a?q=1 HTTP/1.1");
    assert_eq!(answer.echoed("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(answer.echoed("x-forwarded-proto"), Some("http"));
    assert_eq!(answer.echoed("x-mine"), Some("1"));
    assert!(!answer.body.to_lowercase().contains("caller"), "{}", answer.body);
    assert_eq!(answer.header("isthmus-fault"), None, "an endpoint cannot speak as a gateway");
}

#[tokio::test]
async fn absolute_form_is_routed_by_its_host_and_becomes_origin_form() {
    let world = World::new().await;
    let mut client = world.client().await;
    for (target, line) in [
        (format!("http://{WEB}/a/b?q=1"), "GET /a/b?q=1 HTTP/1.1"),
        (format!("http://{WEB}?q=1"), "GET /?q=1 HTTP/1.1"),
        (format!("http://{WEB}"), "GET / HTTP/1.1"),
    ] {
        let head = format!("GET {target} HTTP/1.1\nHost: {WEB}\nProxy-Connection: keep-alive");
        let answer = within("an answer", client.send(&head)).await.unwrap();
        assert_eq!((answer.status, answer.echoed_line()), (200, line), "{target}");
        assert_eq!(answer.echoed("proxy-connection"), None);
    }
    let lie = format!("GET http://{WEB}/ HTTP/1.1\nHost: other.shop.svc.clusterset.local");
    assert_eq!(within("an answer", world.client().await.send(&lie)).await.unwrap().status, 400);
}

#[tokio::test]
async fn connect_to_a_tcp_port_carries_bytes_also_after_other_requests() {
    let world = World::new().await;
    let mut client = world.client().await;
    for _ in 0..2 {
        assert_eq!(client.get(WEB, "/").await.unwrap().status, 200);
    }
    let opened =
        within("CONNECT", client.send(&format!("CONNECT {ECHO} HTTP/1.1\nHost: {ECHO}"))).await.unwrap();
    assert_eq!(opened.status, 200, "{opened:?}");
    let mut stream = client.stream;
    stream.write_all(b"raw bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    within("half-close", stream.read_to_end(&mut echoed)).await.unwrap();
    assert_eq!(echoed, b"raw bytes", "the other half stays open until it has said all");
}

#[tokio::test]
async fn connect_in_pieces_keeps_what_follows_its_head() {
    let world = World::new().await;
    let mut client = world.client().await;
    for piece in ["CON", "NECT ", ECHO, " HTTP/1.1\r\nHost: x\r\n", "\r\nearly"] {
        client.stream.write_all(piece.as_bytes()).await.unwrap();
        client.stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let opened = within("CONNECT", client.answer(true)).await.unwrap();
    assert_eq!(opened.head.lines().next(), Some("HTTP/1.1 200 Connection Established"));
    let mut early = std::mem::take(&mut client.unread);
    while early.len() < 5 {
        within("early data", client.stream.read_buf(&mut early)).await.unwrap();
    }
    assert_eq!(early, b"early");
}

#[tokio::test]
async fn connect_to_an_http_port_takes_the_http_path_and_does_not_nest() {
    let world = World::new().await;
    let mut client = world.client().await;
    let connect = format!("CONNECT {WEB}:80 HTTP/1.1\nHost: {WEB}:80");
    assert_eq!(within("CONNECT", client.send(&connect)).await.unwrap().status, 200);
    for host in [WEB, "whatever.example"] {
        let inner = within("a request inside", client.get(host, "/in")).await.unwrap();
        assert_eq!((inner.status, inner.echoed_line()), (200, "GET /in HTTP/1.1"), "the CONNECT decided");
    }
    let nested = within("a CONNECT inside", client.send(&connect)).await.unwrap();
    assert_eq!(nested.status, 405, "{nested:?}");
}

#[tokio::test]
async fn what_the_mesh_does_not_serve_is_not_connected_to() {
    let world = World::new().await;
    for (authority, status) in [
        ("gone.shop.svc.clusterset.local:80", 404),
        ("example.com:443", 404),
        ("echo.shop.svc.clusterset.local:8", 404),
        ("127.0.0.1:22", 404),
        ("echo.shop.svc.clusterset.local", 400),
        ("", 400),
    ] {
        let connect = format!("CONNECT {authority} HTTP/1.1\nHost: x");
        let answer = within("an answer", world.client().await.send(&connect)).await.unwrap();
        assert_eq!(answer.status, status, "{authority:?}: {answer:?}");
    }
    let answer = within("an answer", world.client().await.get("example.com", "/")).await.unwrap();
    assert_eq!((answer.status, answer.header("isthmus-fault")), (404, Some("not-found")));
    assert!(answer.body.contains("<service>.<namespace>.svc.clusterset.local"), "{}", answer.body);
}
