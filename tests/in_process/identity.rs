//! Mutual TLS on the listeners: who calls is known for each request, and who cannot prove it is refused.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tests::{Http1, Http2, HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trust_bundle::{SvidHandle, X509Svid};

const WEB: &str = "web.shop.svc.clusterset.local";
const EAST_WEST: &str = "gateway.onprem.isthmus.internal";

struct World {
    onprem: TestTrustDomain,
    cloud: TestTrustDomain,
    gateway: TestGateway,
    _http: HttpEcho,
}

impl World {
    async fn new() -> Self {
        let (onprem, cloud) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("cloud"));
        let http = HttpEcho::start().await;
        let mut scene = Scene::new("onprem", &onprem);
        scene.service("web.shop", "80=http", http.address()).export("web.shop");
        scene.peer("cloud", &cloud, &[]);
        let gateway = TestGateway::start("onprem", &onprem, &mut scene).await;
        gateway.trust.put(cloud.bundle()).unwrap();
        Self { onprem, cloud, gateway, _http: http }
    }

    /// Callers in the access log, line by line; empty where none was proven.
    async fn callers(&self, lines: usize) -> Vec<String> {
        eventually("a line for each request", || self.gateway.log().len() == lines).await;
        let lines = self.gateway.log();
        lines.iter().map(|line| line["source_principal"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// A handshake with the mesh listener and a request; an error of either.
    async fn request(&self, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let mut client = Http1::new(self.handshake(config, false).await?);
        let answer = within("an answer, or none", client.get(WEB, "/")).await?;
        assert_eq!(answer.status, 200);
        Ok(client.stream)
    }

    async fn handshake(
        &self,
        config: &Arc<ClientConfig>,
        east_west: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let (address, name) = match east_west {
            true => (self.gateway.east_west, EAST_WEST),
            false => (self.gateway.mesh, "mesh.local"),
        };
        let name = ServerName::try_from(name).unwrap();
        let stream = TcpStream::connect(address).await?;
        within("a handshake", TlsConnector::from(config.clone()).connect(name, stream)).await
    }
}

#[tokio::test]
async fn each_request_of_a_connection_has_the_identity_of_its_caller() {
    let world = World::new().await;
    let (one, two) = (world.onprem.svid("/ns/shop/sa/one"), world.onprem.svid("/ns/shop/sa/two"));
    let mut http1 = Http1::new(world.gateway.workload(&one, b"http/1.1").await.unwrap());
    let http2 = Http2::over(world.gateway.workload(&two, b"h2").await.unwrap()).await.unwrap();
    for n in 0..3 {
        let answer = within("an answer", http1.get(WEB, "/")).await.unwrap();
        assert_eq!((answer.status, answer.echoed("x-forwarded-proto")), (200, Some("https")));
        assert_eq!(http2.get(WEB, "/").await.unwrap().status, 200);
        world.callers(2 * (n + 1)).await;
    }
    let id = |svid: &SvidHandle| svid.current().id().to_string();
    let mut expected = vec![id(&one), id(&one), id(&one), id(&two), id(&two), id(&two)];
    let mut callers = world.callers(6).await;
    callers.sort();
    expected.sort();
    assert_eq!(callers, expected);
}

#[tokio::test]
async fn who_shows_no_certificate_is_nobody_on_the_mesh_and_refused_between_clusters() {
    let world = World::new().await;
    let config = config(None, false);
    world.request(&config).await.unwrap();
    assert_eq!(world.callers(1).await, [""]);
    assert!(is_refused(world.handshake(&config, true).await).await);
}

#[tokio::test]
async fn what_does_not_lead_to_a_trusted_authority_is_refused() {
    let world = World::new().await;
    let (forger, stranger) = (TestTrustDomain::new("onprem"), TestTrustDomain::new("stranger"));
    let honest = world.onprem.svid("/ns/shop/sa/cart").current();
    let forged = forger.svid("/ns/shop/sa/cart").current();
    for (what, chain, svid) in [
        ("the right name by the wrong authority", None, forged.clone()),
        ("a trust domain that nobody knows", None, stranger.svid("/ns/shop/sa/cart").current()),
        (
            "an honest leaf that is shown behind a forged one",
            Some([forged.chain(), honest.chain()].concat()),
            forged,
        ),
    ] {
        let config = config(Some((chain.unwrap_or_else(|| svid.chain().to_vec()), &svid)), false);
        assert!(world.request(&config).await.is_err(), "{what}");
        assert!(is_refused(world.handshake(&config, true).await).await, "{what}");
    }
    let honest = config(Some((honest.chain().to_vec(), &honest)), false);
    world.request(&honest).await.unwrap();
    assert_eq!(world.callers(1).await.len(), 1, "nobody else got as far as a request");
}

#[tokio::test]
async fn nobody_resumes_and_a_bundle_that_went_lets_nobody_in() {
    let world = World::new().await;
    let svid = world.cloud.svid("/ns/shop/sa/cart").current();
    let resuming = config(Some((svid.chain().to_vec(), &svid)), true);
    for _ in 0..3 {
        let stream = world.request(&resuming).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
    assert!(world.gateway.trust.remove(&world.cloud.name()));
    assert!(world.request(&resuming).await.is_err());
    world.gateway.trust.put(world.cloud.bundle()).unwrap();
    world.request(&resuming).await.unwrap();
}

#[tokio::test]
async fn a_renewed_svid_is_shown_at_the_next_handshake_and_what_is_open_lives_on() {
    let world = World::new().await;
    let svid = world.onprem.svid("/ns/shop/sa/cart");
    let connect = async || Http1::new(world.gateway.workload(&svid, b"http/1.1").await.unwrap());
    let mut before = connect().await;
    assert_eq!(before.get(WEB, "/").await.unwrap().status, 200);
    let renewed = world.onprem.issue("/isthmus/gateway", std::time::Duration::from_secs(600));
    let leaf = renewed.chain()[0].clone();
    world.gateway.svid.replace(renewed);
    let mut after = connect().await;
    assert_ne!(shown(&before), leaf);
    assert_eq!(shown(&after), leaf);
    for client in [&mut before, &mut after] {
        assert_eq!(within("an answer", client.get(WEB, "/")).await.unwrap().status, 200);
    }
}

fn shown(client: &Http1<TlsStream<TcpStream>>) -> CertificateDer<'static> {
    client.stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// In TLS 1.3 a client has finished its handshake before it hears that it is refused.
async fn is_refused(stream: io::Result<TlsStream<TcpStream>>) -> bool {
    match stream {
        Err(_) => true,
        Ok(mut stream) => matches!(within("the refusal", stream.read(&mut [0; 64])).await, Ok(0) | Err(_)),
    }
}

/// A client that takes every server, shows this chain, and resumes where it can.
fn config(shows: Option<(Vec<CertificateDer<'static>>, &Arc<X509Svid>)>, resumes: bool) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(trust_bundle::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some((chain, svid)) => {
            let pem = svid.key().to_pem();
            let key = <PrivateKeyDer as rustls::pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes());
            builder.with_client_auth_cert(chain, key.unwrap()).unwrap()
        }
    };
    config.resumption = if resumes { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Arc::new(config)
}

/// Here the server judges; what its client believes does not matter.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
