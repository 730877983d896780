//! Connections of peers through a gateway to the leader.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use trust_bundle::{ExpectedPeer, SvidHandle, client_config};

use super::fixture::{Site, eventually};
use crate::control::handover::{HANDOVER_ALPN, header};
use crate::issuer::Role;
use crate::peering::{HandedOver, PeeringService};

#[tokio::test]
async fn the_leader_sees_the_real_source_and_the_peers_own_bytes() {
    let site = Site::new("cloud");
    let mut federation = site.federation().await;
    let gateway = site.gateway("g1", &[&federation]);
    gateway.is_led_by(&federation).await;
    for (source, service) in
        [("203.0.113.9:4711", PeeringService::Join), ("[2001:db8::9]:4711", PeeringService::Federation)]
    {
        let (mut peer, ours) = tokio::io::duplex(1024);
        let peer_address = source.parse().unwrap();
        let handed = HandedOver { stream: Box::new(ours), peer_address, service };
        gateway.handover.send(handed).await.unwrap();
        peer.write_all(b"the peer's ClientHello").await.unwrap();
        let mut received = federation.handed_over.recv().await.unwrap();
        assert_eq!((received.peer_address, received.service), (peer_address, service));
        let mut said = [0; 22];
        received.stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"the peer's ClientHello");
        received.stream.write_all(b"and back").await.unwrap();
        let mut said = [0; 8];
        peer.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"and back");
        drop(received);
        assert_eq!(peer.read(&mut said).await.unwrap_or(0), 0, "an end is an end at the other side");
    }
}

#[tokio::test]
async fn without_a_leader_the_connection_ends() {
    let site = Site::new("cloud");
    let gateway = site.gateway("g1", &[]);
    let (mut peer, ours) = tokio::io::duplex(1024);
    let peer_address = "203.0.113.9:1".parse().unwrap();
    let service = PeeringService::Federation;
    gateway.handover.send(HandedOver { stream: Box::new(ours), peer_address, service }).await.unwrap();
    assert_eq!(peer.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn only_gateways_may_say_where_a_connection_comes_from() {
    let site = Site::new("cloud");
    let mut federation = site.federation().await;
    let header = header::write("203.0.113.9:4711".parse().unwrap(), PeeringService::Join, &site.cluster);
    let (socket, refusals) = (federation.socket(), federation.refusals.clone());
    let knock = async |path: &str, bytes: &[u8]| {
        let tcp = tokio::net::TcpStream::connect(socket).await.unwrap();
        let expected = ExpectedPeer::Exact(Role::Federation.id(&site.domain));
        let svid = SvidHandle::new(site.svid(path));
        let config = client_config(&site.trust(), &svid, expected, &[HANDOVER_ALPN]);
        let name = "control.cloud.isthmus.internal".try_into().unwrap();
        let mut tls = TlsConnector::from(config).connect(name, tcp).await.unwrap();
        let _refused_already = tls.write_all(bytes).await;
        tls
    };
    let mut tls = knock("/shop/cart", &header).await;
    assert_eq!(tls.read(&mut [0; 8]).await.unwrap_or(0), 0);
    eventually("refused", async || refusals.list().contains_key("other_role")).await;
    // A gateway is believed, but only with a header as we write it.
    let mut tls = knock("/isthmus/gateway", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(tls.read(&mut [0; 8]).await.unwrap_or(0), 0);
    eventually("refused", async || refusals.list().contains_key("handover")).await;
    assert!(federation.handed_over.try_recv().is_err());
    // A follower takes none.
    federation.follow(&[]);
    let mut tls = knock("/isthmus/gateway", &header).await;
    assert_eq!(tls.read(&mut [0; 8]).await.unwrap_or(0), 0);
    eventually("refused", async || refusals.list().contains_key("not_leader")).await;
}
