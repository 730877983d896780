//! Services' own addresses: hundreds of ports on one proxy, that come and go one by one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use federation::control::Report;
use http::Request;
use tests::{EchoServer, Http1, Http2, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// From a /20 of this process and block, so that two tests at a time do not meet.
fn address(block: u8, n: usize) -> IpAddr {
    let process = std::process::id() as usize % 512;
    let third = 16 * (process % 16) + n / 250;
    Ipv4Addr::new(127, 64 + (process / 16) as u8 + 32 * (block % 2), third as u8, 1 + (n % 250) as u8).into()
}

#[tokio::test]
async fn five_hundred_ports_open_answer_and_close() {
    const PORTS: usize = 500;
    let domain = TestTrustDomain::new("onprem");
    let http = HttpEcho::start().await;
    let mut scene = Scene::new("onprem", &domain);
    let gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    for n in 0..PORTS {
        let service = format!("web-{n}.shop");
        scene.service(&service, "8080=http", http.address()).export(&service);
        scene.address(&service, Some(address(0, n)));
    }
    gateway.publish(&mut scene);
    let at = |n: usize| SocketAddr::new(address(0, n), 8080);
    eventually("the last port listens", || std::net::TcpStream::connect(at(PORTS - 1)).is_ok()).await;
    for n in 0..PORTS {
        let mut client = Http1::new(TcpStream::connect(at(n)).await.unwrap());
        let answer = within("an answer", client.get("any.host", "/x")).await.unwrap();
        assert_eq!((answer.status, answer.echoed_line()), (200, "GET /x HTTP/1.1"), "{n}");
    }
    for n in 0..PORTS {
        scene.address(&format!("web-{n}.shop"), None);
    }
    gateway.publish(&mut scene);
    eventually("all ports are closed", || (0..PORTS).all(|n| std::net::TcpStream::connect(at(n)).is_err()))
        .await;
    eventually("all connections are gone", || gateway.registry.count(|_| true) == 0).await;
}

#[tokio::test]
async fn a_port_that_goes_drains_its_connections_and_no_others() {
    let domain = TestTrustDomain::new("onprem");
    let (http, tcp) = (HttpEcho::start().await, EchoServer::start().await);
    let mut scene = Scene::new("onprem", &domain);
    scene.service("one.shop", "8080=http", http.address()).export("one.shop");
    scene.service("two.shop", "8080=http", http.address()).export("two.shop");
    scene.service("raw.shop", "8080=tcp", tcp.address()).export("raw.shop");
    for (n, service) in ["one.shop", "two.shop", "raw.shop"].iter().enumerate() {
        scene.address(service, Some(address(1, n)));
    }
    let gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    let connect = async |n| TcpStream::connect(SocketAddr::new(address(1, n), 8080)).await.unwrap();

    let (mut one, mut two) = (Http1::new(connect(0).await), Http1::new(connect(1).await));
    let mut raw = connect(2).await;
    assert_eq!(one.get("x", "/").await.unwrap().status, 200);
    assert_eq!(two.get("x", "/").await.unwrap().status, 200);
    let slow = Http2::over(connect(0).await).await.unwrap();
    let held = Request::get("http://x/held").body(()).unwrap();
    let (held, mut send) = slow.open(held).await.unwrap();
    send.send_data("".into(), true).unwrap();
    eventually("the request is at the endpoint", || http.held() == 1).await;
    raw.write_all(b"bytes").await.unwrap();
    let mut echoed = [0; 5];
    within("an echo", raw.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"bytes");

    scene.address("one.shop", None);
    gateway.publish(&mut scene);
    assert_eq!(within("the idle connection", one.stream.read(&mut [0; 1])).await.unwrap(), 0);
    assert!(TcpStream::connect(SocketAddr::new(address(1, 0), 8080)).await.is_err());
    slow.said_goodbye().await;
    http.release();
    assert_eq!(within("the answer", held).await.unwrap().status(), 200, "what had begun is finished");
    drop(send);
    assert_eq!(two.get("x", "/").await.unwrap().status, 200, "the other port's connection goes on");
    raw.shutdown().await.unwrap();
    assert_eq!(within("the end", raw.read(&mut [0; 1])).await.unwrap(), 0);

    scene.address("one.shop", Some(address(1, 0)));
    gateway.publish(&mut scene);
    let again = SocketAddr::new(address(1, 0), 8080);
    eventually("the port is back", || std::net::TcpStream::connect(again).is_ok()).await;
    assert_eq!(Http1::new(connect(0).await).get("x", "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_udp_port_is_reported_with_what_to_do_instead() {
    let domain = TestTrustDomain::new("onprem");
    let tcp = EchoServer::start().await;
    let mut scene = Scene::new("onprem", &domain);
    let port = tcp.address().port();
    scene.documents(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: dns, namespace: shop}}\n\
         spec:\n  ports: [{{name: tcp-dns, port: 8053}}, {{name: dns, port: 8053, protocol: UDP}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: dns-1, namespace: shop, labels: {{kubernetes.io/service-name: dns}}}}\n\
         addressType: IPv4\nports: [{{name: tcp-dns, port: {port}}}]\n\
         endpoints: [{{addresses: [127.0.0.1]}}]\n"
    ));
    scene.export("dns.shop").address("dns.shop", Some(address(1, 9)));
    let mut gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    let unbound = within("a report", async {
        loop {
            if let Report::Unbound(unbound) = gateway.reports.recv().await.unwrap() {
                return unbound;
            }
        }
    });
    let unbound = unbound.await;
    assert_eq!(unbound.len(), 1, "{unbound:?}");
    assert_eq!(unbound[0].reason, "UDP is not carried yet");
    assert!(unbound[0].owner.contains("dns.shop") && unbound[0].remedy.contains("TCP"), "{unbound:?}");
    let at = SocketAddr::new(address(1, 9), 8053);
    assert!(TcpStream::connect(at).await.is_ok(), "the TCP port of the same number is served");
}

#[tokio::test]
async fn a_port_that_cannot_be_bound_says_so_and_is_bound_once_it_can() {
    let domain = TestTrustDomain::new("onprem");
    let http = HttpEcho::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut scene = Scene::new("onprem", &domain);
    scene.service("web.shop", &format!("{port}=http"), http.address()).export("web.shop");
    scene.address("web.shop", Some(Ipv4Addr::LOCALHOST.into()));
    let mut gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    let unbound = within("a report", async {
        loop {
            if let Report::Unbound(unbound) = gateway.reports.recv().await.unwrap() {
                return unbound;
            }
        }
    });
    let unbound = unbound.await;
    assert_eq!(unbound.len(), 1);
    assert!(unbound[0].owner.contains("web.shop") && unbound[0].remedy.contains("ss -ltnp"), "{unbound:?}");
    drop(taken);
    let mut client = within("the retry", async {
        loop {
            match TcpStream::connect(unbound[0].address).await {
                Ok(stream) => return Http1::new(stream),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    assert_eq!(within("an answer", client.get("x", "/")).await.unwrap().status, 200);
}
