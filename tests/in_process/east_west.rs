//! The port between clusters: the table of design.md, section 5, from the outside.

use federation::model::ClusterName;
use gateway::listener::Service;
use tests::{HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct World {
    cloud: TestTrustDomain,
    stranger: TestTrustDomain,
    scene: Scene,
    gateway: TestGateway,
}

impl World {
    /// `onprem` with the peer `cloud`, and a trust domain that is trusted without being a peer's.
    async fn new() -> Self {
        let onprem = TestTrustDomain::new("onprem");
        let (cloud, stranger) = (TestTrustDomain::new("cloud"), TestTrustDomain::new("stranger"));
        let mut scene = Scene::new("onprem", &onprem);
        scene.peer("cloud", &cloud, &[]);
        let gateway = TestGateway::start("onprem", &onprem, &mut scene).await;
        gateway.trust.put(cloud.bundle()).unwrap();
        gateway.trust.put(stranger.bundle()).unwrap();
        Self { cloud, stranger, scene, gateway }
    }

    fn links(&self) -> usize {
        self.gateway.registry.count(|connection| connection.owner().starts_with("east-west "))
    }
}

const GATEWAY: &str = "gateway.onprem.isthmus.internal";

#[tokio::test]
async fn federation_and_join_are_handed_over_with_every_byte() {
    let mut world = World::new().await;
    for (name, service) in [
        ("federation.onprem.isthmus.internal", Service::Federation),
        ("JOIN.onprem.isthmus.internal", Service::Join),
    ] {
        let hello = client_hello(name);
        let mut client = TcpStream::connect(world.gateway.east_west).await.unwrap();
        // In two pieces, so that one of them is certainly peeked alone.
        client.write_all(&hello[..7]).await.unwrap();
        client.write_all(&hello[7..]).await.unwrap();
        let mut handover = within("a handover", world.gateway.handovers.recv()).await.unwrap();
        assert_eq!((handover.service, handover.from), (service, client.local_addr().unwrap()));
        let mut seen = vec![0; hello.len()];
        within("the ClientHello again", handover.stream.read_exact(&mut seen)).await.unwrap();
        assert_eq!(seen, hello);
        handover.stream.write_all(b"from federation").await.unwrap();
        drop(handover);
        let mut answer = String::new();
        within("the answer", client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "from federation");
    }
}

#[tokio::test]
async fn what_is_for_nobody_is_closed_without_an_alert_and_counted() {
    let world = World::new().await;
    for (bytes, reason) in [
        (client_hello("gateway.cloud.isthmus.internal"), "sni_unknown"),
        (client_hello("example.com"), "sni_unknown"),
        (client_hello("127.0.0.1"), "sni_absent"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "client_hello_malformed"),
    ] {
        let mut client = TcpStream::connect(world.gateway.east_west).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        // Nothing but the end, in whichever way the kernel says it.
        let _ = within("the end", client.read_to_end(&mut answer)).await;
        assert_eq!(answer, b"", "{reason}");
        let counted = format!("isthmus_rejected_connections_total{{entrance=\"link\",reason=\"{reason}\"}}");
        let metrics = || String::from_utf8(world.gateway.metrics.encode()).unwrap();
        eventually(&counted, || metrics().contains(&counted)).await;
    }
}

#[tokio::test]
async fn one_network_cannot_take_all_room_by_saying_nothing() {
    let world = World::new().await;
    let metrics = || String::from_utf8(world.gateway.metrics.encode()).unwrap();
    let counted = "reason=\"handshakes_of_source\"";
    let mut silent = Vec::new();
    while !metrics().contains(counted) {
        assert!(silent.len() <= 100, "everybody was let in");
        silent.push(TcpStream::connect(world.gateway.east_west).await.unwrap());
    }
    drop(silent);
    let svid = world.cloud.svid("/isthmus/gateway");
    eventually("the handshakes have ended", || world.gateway.registry.count(|_| true) == 0).await;
    let link =
        async { while within("a handshake", world.gateway.dial(&svid, GATEWAY, b"h2")).await.is_err() {} };
    within("a link", link).await;
}

#[tokio::test]
async fn only_the_gateway_of_an_active_peer_opens_links() {
    let world = World::new().await;
    for (svid, alpn, opens) in [
        (world.cloud.svid("/isthmus/gateway"), &b"h2"[..], true),
        (world.cloud.svid("/isthmus/gateway"), b"isthmus-tunnel/1", true),
        (world.cloud.svid("/isthmus/federation"), b"h2", false),
        (world.cloud.svid("/ns/shop/sa/cart"), b"h2", false),
        (world.stranger.svid("/isthmus/gateway"), b"h2", false),
        (TestTrustDomain::new("unheard-of").svid("/isthmus/gateway"), b"h2", false),
    ] {
        let link = within("a handshake", world.gateway.dial(&svid, GATEWAY, alpn)).await;
        let id = svid.current().id().to_string();
        match link {
            Ok(mut link) if !opens => {
                // The client has finished its handshake before the server has judged it.
                let end = within("the refusal", link.read(&mut [0; 64])).await;
                assert!(matches!(end, Ok(0) | Err(_)), "{id}: {end:?}");
            }
            Ok(link) => {
                eventually("the link is registered", || world.links() == 1).await;
                drop(link);
                eventually("the link is gone", || world.links() == 0).await;
            }
            Err(error) => assert!(!opens, "{id}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_removed_peer_loses_its_open_links_and_gets_no_new_ones() {
    let mut world = World::new().await;
    let svid = world.cloud.svid("/isthmus/gateway");
    let mut link =
        within("a handshake", world.gateway.dial(&svid, GATEWAY, b"isthmus-tunnel/1")).await.unwrap();
    eventually("the link is registered", || world.links() == 1).await;
    world.scene.without_peer("cloud");
    world.gateway.publish(&mut world.scene);
    let end = within("the cut", async {
        loop {
            match link.read(&mut [0; 1024]).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    end.await;
    eventually("the link is gone", || world.links() == 0).await;
    if let Ok(mut again) = world.gateway.dial(&svid, GATEWAY, b"h2").await {
        let end = within("the refusal", again.read(&mut [0; 64])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert_eq!(world.links(), 0);
}

#[tokio::test]
async fn without_federation_its_connections_are_closed_at_once_and_requests_go_on() {
    let mut world = World::new().await;
    let http = HttpEcho::start().await;
    world.scene.service("web.shop", "80=http", http.address()).export("web.shop");
    world.gateway.publish(&mut world.scene);
    let mut open = TcpStream::connect(world.gateway.east_west).await.unwrap();
    open.write_all(&client_hello("federation.onprem.isthmus.internal")).await.unwrap();
    drop(within("a handover", world.gateway.handovers.recv()).await.unwrap());
    assert!(matches!(within("its end", open.read(&mut [0; 1])).await, Ok(0) | Err(_)));

    world.gateway.handovers.close();
    for name in ["federation.onprem.isthmus.internal", "join.onprem.isthmus.internal"] {
        let mut client = TcpStream::connect(world.gateway.east_west).await.unwrap();
        client.write_all(&client_hello(name)).await.unwrap();
        assert!(matches!(within("the end", client.read(&mut [0; 1])).await, Ok(0) | Err(_)), "{name}");
    }
    let svid = world.cloud.svid("/isthmus/gateway");
    within("a link", world.gateway.dial(&svid, GATEWAY, b"h2")).await.unwrap();
    let mut client = world.gateway.client().await;
    for _ in 0..3 {
        let answer = within("an answer", client.get("web.shop.svc.clusterset.local", "/")).await.unwrap();
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn the_server_name_of_a_link_is_one_that_we_serve() {
    let cluster = ClusterName::try_from("onprem").unwrap();
    let name = gateway::link::server_name(&cluster);
    assert_eq!(Service::of(&name, &cluster), Some(Service::Gateway));
}

fn client_hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(trust_bundle::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
