//! Ends that nobody notices: idle connections close soon, requests finish, new ones go elsewhere.

use bytes::Bytes;
use gateway::host::Sockets;
use h2::client::SendRequest;
use http::Request;
use tests::{HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use trust_bundle::{ExpectedPeer, client_config};

const WEB: &str = "web.shop.svc.clusterset.local";

async fn world() -> (HttpEcho, Scene, TestGateway) {
    let domain = TestTrustDomain::new("onprem");
    let http = HttpEcho::start().await;
    let mut scene = Scene::new("onprem", &domain);
    scene.service("web.shop", "80=http", http.address()).export("web.shop");
    let gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    (http, scene, gateway)
}

/// HTTP/2 by prior knowledge.
async fn http2(gateway: &TestGateway, tasks: &TaskTracker) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway.mesh).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tasks.spawn(async move { _ = connection.await });
    requests
}

fn request(path: &str) -> Request<()> {
    Request::get(format!("http://{WEB}{path}")).body(()).unwrap()
}

/// Whether the server has said goodbye: no request may begin, and nothing went wrong.
async fn said_goodbye(requests: &SendRequest<Bytes>) {
    let refused = within("GOAWAY", async {
        loop {
            match requests.clone().ready().await {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                Err(error) => return error,
            }
        }
    });
    let refused = refused.await;
    assert!(refused.is_go_away() && refused.reason() == Some(h2::Reason::NO_ERROR), "{refused:?}");
}

#[tokio::test]
async fn an_idle_http1_connection_ends_soon_and_a_request_under_way_is_answered() {
    let (http, _scene, mut gateway) = world().await;
    let mut idle = gateway.client().await;
    assert_eq!(idle.get(WEB, "/").await.unwrap().status, 200);
    let mut busy = gateway.client().await;
    busy.stream.write_all(format!("GET /held HTTP/1.1\r\nHost: {WEB}\r\n\r\n").as_bytes()).await.unwrap();
    eventually("the request is at the endpoint", || http.held() == 1).await;

    gateway.shut_down();
    assert_eq!(within("the idle connection", idle.stream.read(&mut [0; 1])).await.unwrap(), 0);
    eventually("the listener is closed", || std::net::TcpStream::connect(gateway.mesh).is_err()).await;
    http.release();
    let answer = within("the answer", busy.answer(false)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(within("the end", busy.stream.read(&mut [0; 1])).await.unwrap(), 0);
    gateway.ended().await;
    assert_eq!(gateway.registry.count(|_| true), 0);
}

#[tokio::test]
async fn newcomers_are_served_as_long_as_those_of_before_where_sockets_outlive_us() {
    let domain = TestTrustDomain::new("onprem");
    let http = HttpEcho::start().await;
    let mut scene = Scene::new("onprem", &domain);
    scene.service("web.shop", "80=http", http.address()).export("web.shop");
    let (store, _kept) = std::sync::mpsc::channel();
    let sockets = Sockets::new(Vec::new(), Some(store));
    let mut gateway = TestGateway::start_keeping("onprem", &domain, &mut scene, sockets).await;
    let mut busy = gateway.client().await;
    busy.stream.write_all(format!("GET /held HTTP/1.1\r\nHost: {WEB}\r\n\r\n").as_bytes()).await.unwrap();
    eventually("the request is at the endpoint", || http.held() == 1).await;

    gateway.shut_down();
    within("a newcomer is told that it does not stay", async {
        loop {
            let answer = gateway.client().await.get(WEB, "/").await.unwrap();
            assert_eq!(answer.status, 200);
            if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                break;
            }
        }
    })
    .await;
    http.release();
    assert_eq!(within("the answer", busy.answer(false)).await.unwrap().status, 200);
    gateway.ended().await;
    assert!(std::net::TcpStream::connect(gateway.mesh).is_err(), "nobody else has the socket here");
}

#[tokio::test]
async fn http2_says_goodbye_and_finishes_what_it_has() {
    let (http, _scene, mut gateway) = world().await;
    let tasks = TaskTracker::new();
    let mut requests = within("a handshake", http2(&gateway, &tasks)).await;
    let (answer, _) = requests.send_request(request("/held"), true).unwrap();
    eventually("the request is at the endpoint", || http.held() == 1).await;

    gateway.shut_down();
    said_goodbye(&requests).await;
    http.release();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    while let Some(chunk) = within("the body", body.data()).await {
        body.flow_control().release_capacity(chunk.unwrap().len()).unwrap();
    }
    drop((requests, body));
    gateway.ended().await;
}

#[tokio::test]
async fn http2_over_tls_is_served_on_the_same_port_and_knows_its_caller() {
    let domain = TestTrustDomain::new("onprem");
    let http = HttpEcho::start().await;
    let mut scene = Scene::new("onprem", &domain);
    scene.service("web.shop", "80=http", http.address()).export("web.shop");
    let gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    let svid = domain.svid("/ns/shop/sa/cart");
    let tls = within("a handshake", gateway.workload(&svid, b"h2")).await.unwrap();
    let (mut requests, connection) = within("HTTP/2", h2::client::handshake(tls)).await.unwrap();
    let tasks = TaskTracker::new();
    tasks.spawn(async move { _ = connection.await });
    let (answer, _) = requests.send_request(request("/a"), true).unwrap();
    let answer = within("the answer", answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = within("the body", answer.into_body().data()).await.unwrap().unwrap();
    let body = String::from_utf8_lossy(&body).to_lowercase();
    assert!(body.contains(&format!("host: {WEB}")) && body.contains("x-forwarded-proto: https"), "{body}");
    eventually("a line", || !gateway.log().is_empty()).await;
    assert!(gateway.log()[0].to_string().contains("/ns/shop/sa/cart"));
}

#[tokio::test]
async fn who_has_said_nothing_is_not_waited_for() {
    let (_http, _scene, mut gateway) = world().await;
    let mut silent = TcpStream::connect(gateway.mesh).await.unwrap();
    let mut half = TcpStream::connect(gateway.east_west).await.unwrap();
    half.write_all(&[0x16]).await.unwrap();
    gateway.shut_down();
    gateway.ended().await;
    assert!(matches!(silent.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert!(matches!(half.read(&mut [0; 1]).await, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_introduces_itself_while_the_drain_begins_is_drained_too() {
    let (domain, http) = (TestTrustDomain::new("onprem"), HttpEcho::start().await);
    let mut scene = Scene::new("onprem", &domain);
    scene.service("web.shop", "80=http", http.address()).export("web.shop");
    let mut gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    let mut idle = gateway.client().await;
    assert_eq!(idle.get(WEB, "/").await.unwrap().status, 200);

    let mut slow = std::net::TcpStream::connect(gateway.mesh).unwrap();
    let expected = ExpectedPeer::Exact(domain.id("/isthmus/gateway"));
    let config = client_config(&gateway.trust, &domain.svid("/ns/shop/sa/cart"), expected, &[b"http/1.1"]);
    let mut tls = rustls::ClientConnection::new(config, "gateway".try_into().unwrap()).unwrap();
    tls.write_tls(&mut slow).unwrap();
    eventually("the server has answered", || slow.peek(&mut [0; 1]).unwrap() == 1).await;
    gateway.shut_down();
    assert_eq!(within("the drain", idle.stream.read(&mut [0; 1])).await.unwrap(), 0);

    let drained = tokio::task::spawn_blocking(move || {
        while tls.is_handshaking() {
            tls.complete_io(&mut slow).unwrap();
        }
        (tls, slow)
    });
    let _open = within("the handshake", drained).await.unwrap();
    let soon = std::time::Duration::from_secs(8);
    assert!(tokio::time::timeout(soon, gateway.ended()).await.is_ok(), "an idle connection was waited for");
}

#[tokio::test]
async fn a_cut_ends_a_connection_in_the_middle_of_a_request() {
    let (http, _scene, gateway) = world().await;
    let mut client = gateway.client().await;
    client.stream.write_all(format!("GET /held HTTP/1.1\r\nHost: {WEB}\r\n\r\n").as_bytes()).await.unwrap();
    eventually("the request is at the endpoint", || http.held() == 1).await;
    assert_eq!(gateway.registry.cut(|connection| connection.owner().starts_with("mesh ")), 1);
    assert!(matches!(within("the cut", client.stream.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    eventually("the connection is forgotten", || gateway.registry.count(|_| true) == 0).await;
    assert_eq!(gateway.client().await.get(WEB, "/").await.unwrap().status, 200, "others go on");
}

#[tokio::test]
async fn heads_that_are_too_large_or_not_http_are_answered_and_closed() {
    let (_http, _scene, gateway) = world().await;
    let large = format!("GET / HTTP/1.1\nHost: {WEB}\nX: {}", "x".repeat(70 * 1024));
    for (head, status) in
        [(large.as_str(), 431), ("nonsense", 400), ("GET / HTTP/1.1\nHost: a\nbad header", 400)]
    {
        let mut client = gateway.client().await;
        let answer = within("an answer", client.send(head)).await.unwrap();
        assert_eq!(answer.status, status);
        assert!(matches!(within("the end", client.stream.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn every_request_leaves_one_line() {
    let (_http, _scene, gateway) = world().await;
    let mut client = gateway.client().await;
    client.get(WEB, "/a?secret=1").await.unwrap();
    client.get("nobody.shop.svc.clusterset.local", "/b").await.unwrap();
    eventually("both are written", || gateway.log().len() == 2).await;
    let log = gateway.log();
    let text = serde_json::to_string(&log).unwrap();
    assert!(text.contains("web.shop") && text.contains("\"NR\""), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let metrics = String::from_utf8(gateway.metrics.encode()).unwrap();
    assert!(metrics.contains("isthmus_no_route_total{entrance=\"mesh\""), "{metrics}");
}
