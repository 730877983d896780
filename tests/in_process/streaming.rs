//! Bodies and trailers over HTTP/2: to an endpoint here, and over a link to one of a peer.

use bytes::Bytes;
use gateway::windows::Windows;
use http::{HeaderMap, Request};
use tests::{Http1, Http2, Http2Echo, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

/// The same service, served here, and served by the peer.
const HOSTS: [&str; 2] = ["near.shop.svc.clusterset.local", "far.shop.svc.clusterset.local"];

struct World {
    near: TestGateway,
    _far: TestGateway,
    /// In the order of `HOSTS`.
    endpoints: [Http2Echo; 2],
}

impl World {
    async fn new() -> Self {
        let (onprem, cloud) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("cloud"));
        let endpoints = [Http2Echo::start().await, Http2Echo::start().await];
        let (mut here, mut there) = (Scene::new("onprem", &onprem), Scene::new("cloud", &cloud));
        here.service("near.shop", "80=grpc", endpoints[0].address()).export("near.shop");
        there.service("far.shop", "80=grpc", endpoints[1].address()).export("far.shop");
        here.import("cloud", "far.shop", "80=grpc");
        let near = TestGateway::start("onprem", &onprem, &mut here).await;
        there.peer("onprem", &onprem, &[near.east_west]);
        let far = TestGateway::start("cloud", &cloud, &mut there).await;
        near.trust.put(cloud.bundle()).unwrap();
        far.trust.put(onprem.bundle()).unwrap();
        here.peer("cloud", &cloud, &[far.east_west]);
        near.publish(&mut here);
        eventually("onprem reaches cloud", || near.reaches("cloud")).await;
        Self { near, _far: far, endpoints }
    }

    async fn client(&self) -> Http2 {
        let stream = TcpStream::connect(self.near.mesh).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Http2::over(stream).await.unwrap()
    }
}

fn post(host: &str, path: &str) -> Request<()> {
    Request::post(format!("http://{host}{path}")).header("te", "trailers").body(()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_answers_pass_and_say_nothing_that_only_gateways_may() {
    let world = World::new().await;
    let client = world.client().await;
    for (host, endpoint) in HOSTS.into_iter().zip(&world.endpoints) {
        let answer = client.send(post(host, "/shop.Cart/Add"), "hello").await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]), "{host}: {answer:?}");
        assert_eq!(answer.trailer("grpc-status"), Some("0"), "{host}");
        assert_eq!(answer.trailer("x-total"), Some("5"), "{host}");
        assert_eq!(answer.trailers.len(), 2, "{host}: {:?}", answer.trailers);
        let seen = &endpoint.seen()[0];
        assert_eq!(seen.headers.get("te").unwrap(), "trailers", "{host}");
        assert_eq!(seen.uri.path(), "/shop.Cart/Add", "{host}");
        assert_eq!(seen.uri.host(), Some(host), "the caller's own authority");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_requests_say_nothing_and_cost_nothing() {
    // T9. Of HTTP/2 they are refused: pingora would wait in circles for the end of the body.
    let world = World::new().await;
    for (host, endpoint) in HOSTS.into_iter().zip(&world.endpoints) {
        let client = world.client().await;
        for method in ["POST", "GET"] {
            let request = Request::builder().method(method).uri(format!("http://{host}/")).body(()).unwrap();
            let (answer, mut send) = client.open(request).await.unwrap();
            send.send_data("hello".into(), false).unwrap();
            send.send_trailers(claims()).unwrap();
            // An endpoint that streams may have begun its answer already; then that is broken off.
            if let Ok(answer) = within("an answer", answer).await {
                let (status, mut body) = (answer.status().as_u16(), answer.into_body());
                let mut broken_off = false;
                while let Some(chunk) = within("the end", body.data()).await {
                    broken_off = chunk.is_err();
                    if broken_off {
                        break; // h2 would say so again and again
                    }
                }
                assert!(status >= 400 || broken_off, "{host}: {method}: {status}");
            }
        }
        let answer = client.send(post(host, "/"), "hello").await.unwrap();
        assert_eq!(answer.status, 200, "{host}: the other streams of the connection go on");

        let head =
            format!("POST / HTTP/1.1\nHost: {host}\nTransfer-Encoding: chunked\nTrailer: isthmus-caller");
        let body = "\n\n5\nhello\n0\nisthmus-caller: spiffe://onprem.isthmus.internal/admin";
        let mut http1 = world.near.client().await;
        assert_eq!(chunked(&mut http1, &format!("{head}{body}")).await, 200);
        for seen in endpoint.seen() {
            assert!(seen.trailers.is_empty() && !seen.headers.contains_key("isthmus-caller"), "{seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_a_length_and_trailers_is_answered_by_an_http1_endpoint() {
    let (onprem, echo) = (TestTrustDomain::new("onprem"), HttpEcho::start().await);
    let mut scene = Scene::new("onprem", &onprem);
    scene.service("web.shop", "80=http", echo.address()).export("web.shop");
    let gateway = TestGateway::start("onprem", &onprem, &mut scene).await;
    for (length, late) in [(None, false), (Some("5"), false), (Some("5"), true), (Some("0"), false)] {
        let client = Http2::over(TcpStream::connect(gateway.mesh).await.unwrap()).await.unwrap();
        let mut request = Request::post("http://web.shop.svc.clusterset.local/length").body(()).unwrap();
        request.headers_mut().extend(length.map(|n| (http::header::CONTENT_LENGTH, n.parse().unwrap())));
        let asked = echo.asked();
        let (answer, mut send) = client.open(request).await.unwrap();
        if length != Some("0") {
            send.send_data("hello".into(), false).unwrap();
        }
        if late {
            eventually("the endpoint has all of the body", || echo.asked() > asked).await;
        }
        // With all of its length there the request may be answered by now, and its stream gone.
        let _ = send.send_trailers(claims());
        let answer = within(&format!("an answer: {length:?}, {late}"), answer).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{length:?}, {late}");
    }
}

/// What a caller would like to be taken for.
fn claims() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("isthmus-caller", "spiffe://onprem.isthmus.internal/admin".parse().unwrap());
    trailers.insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
    trailers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_echoes_at_once_come_back_whole_and_connections_are_kept() {
    let (world, tasks) = (World::new().await, TaskTracker::new());
    for (host, endpoint) in HOSTS.into_iter().zip(&world.endpoints) {
        let client = std::sync::Arc::new(world.client().await);
        let echoes: Vec<_> = (0..50u8)
            .map(|n| {
                let client = client.clone();
                tasks.spawn(async move { client.send(post(host, "/"), vec![n; 100_000]).await })
            })
            .collect();
        for (n, echo) in (0..50u8).zip(echoes) {
            let answer = within("an echo", echo).await.unwrap().unwrap();
            assert_eq!((answer.status, answer.trailer("x-total")), (200, Some("100000")), "{host}");
            assert!(answer.body == vec![n; 100_000], "{host}: {} bytes of echo {n}", answer.body.len());
        }
        let opened = endpoint.accepted();
        for _ in 0..20 {
            client.send(post(host, "/"), "x").await.unwrap();
        }
        assert_eq!(endpoint.accepted(), opened, "{host}: one after the other need no new one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_pass_with_the_options_that_we_chose() {
    let world = World::new().await;
    let client = world.client().await;
    for host in HOSTS {
        let answer = client.send(post(host, "/"), vec![1; 3_000_000]).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 3_000_000), "{host}");
    }
    assert_eq!(client.streams_max(), Windows::CLIENTS.streams() as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_stream_at_once_and_a_reset_reaches_the_endpoint() {
    let world = World::new().await;
    let client = world.client().await;
    for (host, endpoint) in HOSTS.into_iter().zip(&world.endpoints) {
        let (answer, mut send) = client.open(post(host, "/")).await.unwrap();
        send.send_data("one".into(), false).unwrap();
        let mut body = within("the head of the answer", answer).await.unwrap().into_body();
        assert_eq!(within("an echo", body.data()).await.unwrap().unwrap(), "one", "{host}");
        send.send_data("two".into(), false).unwrap();
        assert_eq!(within("an echo", body.data()).await.unwrap().unwrap(), "two", "{host}");
        assert!(!endpoint.seen()[0].reset);
        send.send_reset(h2::Reason::CANCEL);
        eventually("the endpoint is told", || endpoint.seen()[0].reset).await;
        let answer = client.send(post(host, "/"), "three").await.unwrap();
        assert_eq!(answer.body, b"three", "{host}: the other streams of the connection go on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_reaches_http2_without_what_concerns_its_own_connection() {
    let world = World::new().await;
    for (host, endpoint) in HOSTS.into_iter().zip(&world.endpoints) {
        let mut client = world.near.client().await;
        for target in ["/a?b=c".to_owned(), format!("http://{host}/a?b=c")] {
            let head = format!(
                "GET {target} HTTP/1.1\nHost: {host}\nConnection: keep-alive, x-drop\nx-drop: 1\n\
                 Keep-Alive: 5\nProxy-Connection: keep-alive\nx-mine: 1\nTE: trailers"
            );
            let answer = chunked(&mut client, &head).await;
            assert_eq!(answer, 200, "{host}: {target}");
        }
        for seen in endpoint.seen() {
            assert_eq!(seen.uri.path_and_query().unwrap(), "/a?b=c");
            assert_eq!(seen.uri.host(), Some(host));
            assert_eq!(seen.headers.get("x-mine").unwrap(), "1");
            for gone in ["connection", "keep-alive", "proxy-connection", "x-drop", "transfer-encoding"] {
                assert!(!seen.headers.contains_key(gone), "{host}: {seen:?}");
            }
        }
        assert_eq!(endpoint.seen().len(), 2);
    }
}

/// Sends a head and reads an answer whose body is in chunks, all of them empty.
async fn chunked(client: &mut Http1<TcpStream>, head: &str) -> u16 {
    let answer = within("an answer", client.send(head)).await.unwrap();
    while answer.header("transfer-encoding").is_some() && !client.unread.ends_with(b"0\r\n\r\n") {
        let read = tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut client.unread);
        assert_ne!(within("the last chunk", read).await.unwrap(), 0);
    }
    client.unread.clear();
    answer.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_its_time_gets_everything() {
    let world = World::new().await;
    let client = world.client().await;
    for host in HOSTS {
        let (answer, mut send) = client.open(post(host, "/")).await.unwrap();
        send.send_data(Bytes::from(vec![7; 1 << 20]), true).unwrap();
        let mut body = within("the head of the answer", answer).await.unwrap().into_body();
        let mut total = 0;
        while let Some(chunk) = within("more", body.data()).await {
            let chunk = chunk.unwrap();
            total += chunk.len();
            // The window opens in small steps only.
            body.flow_control().release_capacity(chunk.len()).unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(total, 1 << 20, "{host}");
    }
}
