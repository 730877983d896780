//! Two whole data planes with real links: what a caller in `onprem` gets of services in `cloud`.

use std::net::{Ipv4Addr, SocketAddr};

use tests::{EchoServer, Http1, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct World {
    onprem: TestTrustDomain,
    here: Scene,
    near: TestGateway,
    far: TestGateway,
    http: HttpEcho,
    _tcp: EchoServer,
}

const DB_PORT: u16 = 5432;

impl World {
    /// `cloud` offers `web`, `db`, `shared` and `dead`; it keeps `secret`, which `onprem` believes to be
    /// offered.
    async fn new() -> Self {
        let (onprem, cloud) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("cloud"));
        let (http, tcp) = (HttpEcho::start().await, EchoServer::start().await);
        let (mut here, mut there) = (Scene::new("onprem", &onprem), Scene::new("cloud", &cloud));
        for (service, port, endpoint) in [
            ("web.shop", "80=http", http.address()),
            ("db.shop", "5432=tcp", tcp.address()),
            ("shared.shop", "80=http", http.address()),
            ("dead.shop", "80=http", "127.0.0.1:1".parse().unwrap()),
        ] {
            there.service(service, port, endpoint).export(service);
            here.import("cloud", service, port);
        }
        there.service("secret.shop", "80=http", http.address());
        here.import("cloud", "secret.shop", "80=http");
        here.address("db.shop", Some(db_address().ip()));

        let near = TestGateway::start("onprem", &onprem, &mut Scene::new("onprem", &onprem)).await;
        let far = TestGateway::start("cloud", &cloud, &mut Scene::new("cloud", &cloud)).await;
        near.trust.put(cloud.bundle()).unwrap();
        far.trust.put(onprem.bundle()).unwrap();
        here.peer("cloud", &cloud, &[far.east_west]);
        there.peer("onprem", &onprem, &[near.east_west]);
        far.publish(&mut there);
        near.publish(&mut here);
        eventually("onprem reaches cloud", || near.reaches("cloud")).await;
        Self { onprem, here, near, far, http, _tcp: tcp }
    }

    async fn db(&self) -> TcpStream {
        eventually("the virtual port listens", || std::net::TcpStream::connect(db_address()).is_ok()).await;
        TcpStream::connect(db_address()).await.unwrap()
    }
}

/// Of this process and thread, so that two tests at a time do not meet.
fn db_address() -> SocketAddr {
    thread_local! {
        static ADDRESS: SocketAddr = {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let [high, low] = taken.to_be_bytes();
            (Ipv4Addr::new(127, 96, high, low), DB_PORT).into()
        };
    }
    ADDRESS.with(|address| *address)
}

fn host(service: &str) -> String {
    format!("{service}.shop.svc.clusterset.local")
}

#[tokio::test]
async fn a_request_crosses_with_its_callers_own_identity() {
    let world = World::new().await;
    let svid = world.onprem.svid("/ns/shop/sa/cart");
    let caller = svid.current().id().to_string();
    let stream = within("a handshake", world.near.workload(&svid, b"http/1.1")).await.unwrap();
    let mut client = Http1::new(stream);
    let head = format!(
        "GET /a?b HTTP/1.1\nHost: {}\nisthmus-caller: spiffe://cloud.isthmus.internal/root\nbaggage: k=v\nx-mine: 1",
        host("web")
    );
    let answer = within("an answer", client.send(&head)).await.unwrap();
    assert_eq!((answer.status, answer.echoed_line()), (200, "GET /a?b HTTP/1.1"), "{answer:?}");
    assert_eq!(answer.echoed("host"), Some(host("web").as_str()), "the caller's own Host");
    assert_eq!(answer.echoed("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(answer.echoed("x-mine"), Some("1"));
    assert!(!answer.body.contains("isthmus-") && !answer.body.contains("baggage"), "{}", answer.body);

    eventually("both gateways have written a line", || {
        !world.near.log().is_empty() && !world.far.log().is_empty()
    })
    .await;
    for (gateway, proof) in [(&world.near, "mutual-tls"), (&world.far, "peer-gateway")] {
        let line = gateway.log()[0].to_string();
        assert!(line.contains(&caller) && line.contains(proof), "{}: {line}", gateway.cluster);
        assert!(!line.contains("/root"), "{line}");
    }
}

#[tokio::test]
async fn tcp_crosses_from_a_virtual_address_with_half_close() {
    let world = World::new().await;
    let mut db = world.db().await;
    db.write_all(b"select 1").await.unwrap();
    db.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    within("the echo and its end", db.read_to_end(&mut echoed)).await.unwrap();
    assert_eq!(echoed, b"select 1");

    let mut client = world.near.client().await;
    let authority = format!("{}:{DB_PORT}", host("db"));
    let connect = format!("CONNECT {authority} HTTP/1.1\nHost: {authority}");
    assert_eq!(within("CONNECT", client.send(&connect)).await.unwrap().status, 200);
    client.stream.write_all(b"x").await.unwrap();
    assert_eq!(within("an echo", client.stream.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn own_endpoints_come_first_and_the_request_crosses_when_they_die() {
    let mut world = World::new().await;
    let local = HttpEcho::start().await;
    world.here.service("shared.shop", "80=http", local.address()).export("shared.shop");
    world.near.publish(&mut world.here);
    let mut client = world.near.client().await;
    // A proxy adds its caller's scheme, and the far gateway cannot know it: so that shows who served.
    let mut served_here = async || {
        let answer = within("an answer", client.get(&host("shared"), "/")).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.echoed("x-forwarded-proto").is_some()
    };
    within("own endpoints are used", async { while !served_here().await {} }).await;
    drop(local);
    for _ in 0..5 {
        assert!(!served_here().await, "a dead endpoint does not answer");
    }
}

#[tokio::test]
async fn faults_of_the_far_side_say_whose_they_are() {
    let world = World::new().await;
    let mut client = world.near.client().await;
    for (service, status, fault) in [("secret", 404, "not-found"), ("dead", 502, "connect")] {
        let answer = within("an answer", client.get(&host(service), "/")).await.unwrap();
        assert_eq!((answer.status, answer.header("isthmus-fault")), (status, Some(fault)), "{answer:?}");
    }
    let answer = within("an answer", client.get(&host("web"), "/")).await.unwrap();
    assert_eq!((answer.status, answer.header("isthmus-fault")), (200, None));
}

#[tokio::test]
async fn users_of_a_forward_proxy_reach_the_far_side_too() {
    let world = World::new().await;
    let mut client = world.near.client().await;
    let head = format!("GET http://{}/a/b?q=1 HTTP/1.1\nHost: {}\nx-mine: 1", host("web"), host("web"));
    for _ in 0..2 {
        let answer = within("an answer", client.send(&head)).await.unwrap();
        assert_eq!((answer.status, answer.echoed_line()), (200, "GET /a/b?q=1 HTTP/1.1"));
        assert_eq!(answer.echoed("x-mine"), Some("1"));
    }
    let connect = |service, port| format!("CONNECT {}:{port} HTTP/1.1\nHost: x", host(service));
    assert_eq!(within("CONNECT", client.send(&connect("db", DB_PORT))).await.unwrap().status, 200);
    client.stream.write_all(b"select 1").await.unwrap();
    client.stream.shutdown().await.unwrap();
    let mut echoed = std::mem::take(&mut client.unread);
    within("the echo and its end", client.stream.read_to_end(&mut echoed)).await.unwrap();
    assert_eq!(echoed, b"select 1");

    let mut client = world.near.client().await;
    assert_eq!(within("CONNECT", client.send(&connect("web", 80))).await.unwrap().status, 200);
    let inner = within("a request inside", client.get("x", "/in")).await.unwrap();
    assert_eq!((inner.status, inner.echoed_line()), (200, "GET /in HTTP/1.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_reading_and_endpoints_that_do_not_delay_the_others() {
    // U1: the link's window must outlast whoever stalls, in both directions, one of them or ninety.
    const STALLED_BYTES: usize = 8 << 20;
    let world = World::new().await;
    let mut stalled = Vec::new();
    for many in [1, 90] {
        while stalled.len() < many {
            let mut download = world.near.client().await;
            let head = format!("GET /bytes/{STALLED_BYTES} HTTP/1.1\r\nHost: {}\r\n\r\n", host("web"));
            download.stream.write_all(head.as_bytes()).await.unwrap();
            let mut first = [0; 1024];
            within("the beginning of 8 MiB", download.stream.read_exact(&mut first)).await.unwrap();
            stalled.push(download);
        }
        others_are_served(&world).await;
    }
    drop(stalled);
    let mut uploads = Vec::new();
    let tasks = tokio_util::task::TaskTracker::new();
    for many in [1, 90] {
        while uploads.len() < many {
            let mut client = world.near.client().await;
            let head = format!(
                "POST /swallow HTTP/1.1\r\nHost: {}\r\nContent-Length: {STALLED_BYTES}\r\n\r\n",
                host("web")
            );
            uploads.push(tasks.spawn(async move {
                client.stream.write_all(head.as_bytes()).await?;
                client.stream.write_all(&vec![1; STALLED_BYTES]).await?;
                client.stream.read_u8().await
            }));
        }
        eventually("all have begun", || world.http.swallowed() == many).await;
        others_are_served(&world).await;
        assert!(uploads.iter().all(|upload| !upload.is_finished()), "the stalled ones are still stalled");
    }
    uploads.iter().for_each(|upload| upload.abort());
}

/// Downloads and uploads of 256 KiB, one after the other.
async fn others_are_served(world: &World) {
    let mut client = world.near.client().await;
    for _ in 0..10 {
        let answer = within("256 KiB", client.get(&host("web"), "/bytes/262144")).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 262_144));
        let head =
            format!("POST /length HTTP/1.1\r\nHost: {}\r\nContent-Length: 262144\r\n\r\n", host("web"));
        client.stream.write_all(&[head.as_bytes(), &vec![1; 262_144]].concat()).await.unwrap();
        let answer = within("the length", client.answer(false)).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "262144"));
    }
}

#[tokio::test]
async fn a_removed_peer_is_cut_off_with_what_is_open() {
    let mut world = World::new().await;
    let mut db = world.db().await;
    db.write_all(b"x").await.unwrap();
    assert_eq!(within("an echo", db.read_u8()).await.unwrap(), b'x');
    let mut held = world.near.client().await;
    held.stream
        .write_all(format!("GET /held HTTP/1.1\r\nHost: {}\r\n\r\n", host("web")).as_bytes())
        .await
        .unwrap();
    eventually("the request is at the endpoint", || world.http.held() == 1).await;

    world.here.without_peer("cloud");
    world.near.publish(&mut world.here);
    let end = within("the cut of the tunnel", db.read(&mut [0; 1])).await;
    assert!(matches!(end, Err(_) | Ok(0)), "{end:?}");
    let answer = within("the end of the request", held.answer(false)).await.unwrap();
    assert!((502..=504).contains(&answer.status), "{answer:?}");
    eventually("no connection of the peer is left", || {
        world.near.registry.count(|connection| connection.peer().is_some()) == 0
    })
    .await;
    let answer = within("an answer", world.near.client().await.get(&host("web"), "/")).await.unwrap();
    assert!([404, 503].contains(&answer.status), "{answer:?}");
}

#[tokio::test]
async fn a_drained_gateway_finishes_what_crosses_and_the_peer_notices_no_failure() {
    let mut world = World::new().await;
    let mut held = world.near.client().await;
    held.stream
        .write_all(format!("GET /held HTTP/1.1\r\nHost: {}\r\n\r\n", host("web")).as_bytes())
        .await
        .unwrap();
    eventually("the request is at the endpoint", || world.http.held() == 1).await;
    world.far.shut_down();
    eventually("the port between clusters is closed", || {
        std::net::TcpStream::connect(world.far.east_west).is_err()
    })
    .await;
    world.http.release();
    let answer = within("the answer", held.answer(false)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    world.far.ended().await;
    let answer = within("an answer", world.near.client().await.get(&host("web"), "/")).await.unwrap();
    assert_eq!((answer.status, answer.header("isthmus-fault")), (503, Some("no-endpoint")), "{answer:?}");
}
