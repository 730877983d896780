//! Whole handshakes in memory: who gets in, who does not, and what is remembered.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, HandshakeKind, ServerConfig, SignatureScheme};

use crate::bundle::Bundle;
use crate::source::SvidHandle;
use crate::testing::{TestAuthority, TestLeaf, handshake, id, later, now, td};
use crate::verify::{
    ClientAuth, ExpectedPeer, PeerSide, Rejection, TrustStore, authenticate, client_config, provider,
    server_config,
};

const A: &str = "spiffe://a/gateway";
const B: &str = "spiffe://b/gateway";

/// Two trust domains, each of which trusts the other.
struct World {
    a: TestAuthority,
    b: TestAuthority,
    trust: TrustStore,
}

impl World {
    fn new() -> Self {
        let (a, b) = (TestAuthority::root("a"), TestAuthority::root("b"));
        let trust = TrustStore::new();
        trust.put(a.bundle("a", 1)).unwrap();
        trust.put(b.bundle("b", 1)).unwrap();
        Self { a, b, trust }
    }

    fn server(&self, leaf: &TestLeaf) -> Arc<ServerConfig> {
        server_config(&self.trust, &leaf.handle(), ClientAuth::Required, &[b"h2"])
    }

    fn client(&self, leaf: &TestLeaf, expected: &str) -> Arc<ClientConfig> {
        let expected = ExpectedPeer::Exact(id(expected));
        client_config(&self.trust, &leaf.handle(), expected, &[b"h2"])
    }
}

#[track_caller]
fn reason(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<(), &'static str> {
    let refused = |error: Error| Rejection::in_tls(&error).unwrap_or_else(|| panic!("{error}")).reason();
    handshake(client, server).map(|_| ()).map_err(refused)
}

/// X15, T1: nobody but a trust domain's own authorities speaks for it, on either side.
#[test]
fn cross_trust_domain_matrix() {
    let world = World::new();
    let below_b = world.b.intermediate();
    let below_a = world.a.intermediate();
    let cases = [
        ("right domain", world.a.leaf(A), Ok(())),
        ("right domain, through an intermediate", below_a.leaf(A).through(&below_a), Ok(())),
        ("right domain, with its root", world.a.leaf(A).through(&world.a), Ok(())),
        ("forged by B", world.b.leaf(A), Err("unknown_issuer")),
        ("forged by B, with B's root", world.b.leaf(A).through(&world.b), Err("unknown_issuer")),
        ("forged by B, with A's root", world.b.leaf(A).through(&world.a), Err("unknown_issuer")),
        ("forged through an intermediate of B", below_b.leaf(A).through(&below_b), Err("unknown_issuer")),
        (
            "forged through an intermediate of B, with both roots",
            below_b.leaf(A).through(&below_b).through(&world.b).through(&world.a),
            Err("unknown_issuer"),
        ),
        ("of a domain that nobody knows", TestAuthority::root("c").leaf("spiffe://c/x"), Err("unknown_td")),
    ];
    let peer = world.b.leaf(B);
    for (says, leaf, expected) in &cases {
        let claimed = leaf.svid().id().to_string();
        assert_eq!(reason(&world.client(leaf, B), &world.server(&peer)), *expected, "client {says}");
        assert_eq!(reason(&world.client(&peer, &claimed), &world.server(leaf)), *expected, "server {says}");
    }
}

#[test]
fn x15_pooled_roots_would_accept_the_forgery() {
    // What our verifier is for: rustls' own, given the roots of both, lets B speak for A (P1).
    let world = World::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.a.der.clone()).unwrap();
    roots.add(world.b.der.clone()).unwrap();
    let pooled = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
        .build()
        .unwrap();
    assert!(pooled.verify_client_cert(world.b.leaf(A).der(), &[], now()).is_ok());
}

#[test]
fn v20_second_handshake_is_a_full_one() {
    let world = World::new();
    let (client, server) = (world.client(&world.a.leaf(A), B), world.server(&world.b.leaf(B)));
    for _ in 0..3 {
        let (client, server) = handshake(&client, &server).unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
    assert_eq!(server.send_tls13_tickets, 0);
    assert_eq!(server.max_early_data_size, 0);
    assert!(!client.enable_early_data);
}

#[test]
fn v20_server_ignores_a_client_that_would_resume() {
    let world = World::new();
    let server = world.server(&world.b.leaf(B));
    let mut client = ClientConfig::clone(&world.client(&world.a.leaf(A), B));
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    for _ in 0..2 {
        let (_, server) = handshake(&client, &server).unwrap();
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn v20_client_does_not_resume_where_it_could() {
    let world = World::new();
    let mut server = ServerConfig::clone(&world.server(&world.b.leaf(B)));
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    server.send_tls13_tickets = 2;
    let (client, server) = (world.client(&world.a.leaf(A), B), Arc::new(server));
    for _ in 0..2 {
        let (client, _) = handshake(&client, &server).unwrap();
        assert_eq!(client.tls13_tickets_received(), 2);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn removed_domain_is_refused_with_the_same_configurations() {
    let world = World::new();
    let (client, server) = (world.client(&world.a.leaf(A), B), world.server(&world.b.leaf(B)));
    let (here, there) = handshake(&client, &server).unwrap();
    assert!(authenticate(&world.trust, &there, PeerSide::Client, now()).is_ok());
    assert!(world.trust.remove(&td("a")));
    assert_eq!(reason(&client, &server), Err("unknown_td"));
    // V21: a handshake that was under way meanwhile gives no identity either.
    let late = authenticate(&world.trust, &there, PeerSide::Client, now());
    assert_eq!(late, Err(Rejection::UnknownTrustDomain(td("a"))));
    assert!(authenticate(&world.trust, &here, PeerSide::Server, now()).is_ok());
    assert!(world.trust.remove(&td("b")));
    assert!(authenticate(&world.trust, &here, PeerSide::Server, now()).is_err());
}

#[test]
fn revoked_root_is_refused_with_the_same_configurations() {
    let world = World::new();
    let (client, server) = (world.client(&world.a.leaf(A), B), world.server(&world.b.leaf(B)));
    assert_eq!(reason(&client, &server), Ok(()));
    world.trust.put(TestAuthority::root("a").bundle("a", 2)).unwrap();
    assert_eq!(reason(&client, &server), Err("unknown_issuer"));
    let empty = Bundle::parse(td("b"), br#"{"keys":[],"spiffe_sequence":2}"#, now()).unwrap().bundle;
    world.trust.put(empty).unwrap();
    assert_eq!(reason(&client, &server), Err("unknown_issuer"));
}

#[test]
fn v1_identity_says_who_by_whom_and_until_when() {
    let world = World::new();
    let leaf = world.a.leaf(A);
    let (_, server) = handshake(&world.client(&leaf, B), &world.server(&world.b.leaf(B))).unwrap();
    let peer = authenticate(&world.trust, &server, PeerSide::Client, now()).unwrap();
    assert_eq!((peer.id(), peer.trust_domain()), (&id(A), &td("a")));
    assert_eq!(peer.authority(), world.a.bundle("a", 1).authorities()[0].id());
    assert_eq!(peer.not_after(), leaf.svid().not_after());
    assert_eq!(peer.trust_generation(), 2);
    assert!(world.trust.load().vouches_for(&peer));
    world.trust.put(TestAuthority::root("a").bundle("a", 2)).unwrap();
    assert!(!world.trust.load().vouches_for(&peer));
    let expired = authenticate(&world.trust, &server, PeerSide::Client, later(now(), 3700));
    assert!(expired.is_err());
}

#[test]
fn v2_client_believes_only_whom_it_expects() {
    let world = World::new();
    let server = world.server(&world.b.leaf(B));
    let any_of = |ids: &[&str]| {
        let ids: BTreeSet<_> = ids.iter().map(|text| id(text)).collect();
        let handle = world.a.leaf(A).handle();
        client_config(&world.trust, &handle, ExpectedPeer::AnyOf(ids), &[b"h2"])
    };
    assert_eq!(reason(&any_of(&[A, B]), &server), Ok(()));
    assert_eq!(reason(&any_of(&[A]), &server), Err("policy"));
    assert_eq!(reason(&any_of(&[]), &server), Err("policy"));
    let leaf = world.a.leaf(A);
    assert_eq!(reason(&world.client(&leaf, "spiffe://b/federation"), &server), Err("policy"));
    assert_eq!(reason(&world.client(&leaf, "spiffe://b/gateway/x"), &server), Err("policy"));
}

/// A client that shows what it is told to, and remembers the hints that it got.
#[derive(Debug, Default)]
struct Shows {
    certificate: Option<Arc<CertifiedKey>>,
    hints: Mutex<Option<usize>>,
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.hints.lock() = Some(hints.len());
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn showing(client: &ClientConfig, shows: Arc<Shows>) -> Arc<ClientConfig> {
    let mut client = client.clone();
    client.client_auth_cert_resolver = shows;
    Arc::new(client)
}

#[test]
fn client_without_certificate_is_let_in_only_where_optional() {
    let world = World::new();
    let leaf = world.b.leaf(B);
    let nothing = showing(&world.client(&world.a.leaf(A), B), Arc::default());
    assert_eq!(reason(&nothing, &world.server(&leaf)), Err("no_certificate"));
    let optional = server_config(&world.trust, &leaf.handle(), ClientAuth::Optional, &[b"h2"]);
    let (_, server) = handshake(&nothing, &optional).unwrap();
    let identity = authenticate(&world.trust, &server, PeerSide::Client, now());
    assert_eq!(identity, Err(Rejection::NoCertificate));
    assert_eq!(reason(&world.client(&world.b.leaf(A), B), &optional), Err("unknown_issuer"));
    let (_, server) = handshake(&world.client(&world.a.leaf(A), B), &optional).unwrap();
    assert!(authenticate(&world.trust, &server, PeerSide::Client, now()).is_ok());
}

#[test]
fn v3_server_does_not_say_whom_it_trusts() {
    let world = World::new();
    let certificate = Some(world.a.leaf(A).svid().certified_key());
    let shows = Arc::new(Shows { certificate, ..Shows::default() });
    let client = showing(&world.client(&world.a.leaf(A), B), shows.clone());
    assert_eq!(reason(&client, &world.server(&world.b.leaf(B))), Ok(()));
    assert_eq!(*shows.hints.lock(), Some(0));
}

#[test]
fn certificate_without_its_key_is_refused() {
    let world = World::new();
    let (stolen, own) = (world.a.leaf(A).svid(), world.b.leaf(B).svid());
    let mixed = CertifiedKey::new(stolen.chain().to_vec(), own.certified_key().key.clone());
    let shows = Arc::new(Shows { certificate: Some(Arc::new(mixed)), ..Shows::default() });
    let client = showing(&world.client(&world.a.leaf(A), B), shows);
    assert!(handshake(&client, &world.server(&world.b.leaf(B))).is_err());
}

#[test]
fn v4_tls_1_2_is_refused() {
    let world = World::new();
    let roots = rustls::RootCertStore::empty();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let refused = handshake(&Arc::new(client), &world.server(&world.b.leaf(B))).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::PeerIncompatible(_)), "{refused}");
}

#[test]
fn protocols_that_do_not_meet_are_refused() {
    let world = World::new();
    let server = server_config(&world.trust, &world.b.leaf(B).handle(), ClientAuth::Required, &[b"other"]);
    let refused = handshake(&world.client(&world.a.leaf(A), B), &server).map(|_| ()).unwrap_err();
    assert_eq!(refused, Error::NoApplicationProtocol);
    let (client, server) =
        handshake(&world.client(&world.a.leaf(A), B), &world.server(&world.b.leaf(B))).unwrap();
    assert_eq!(client.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
}

#[test]
fn v31_renewed_svid_is_shown_without_a_new_configuration() {
    let world = World::new();
    let (mine, theirs) = (world.a.leaf(A).handle(), world.b.leaf(B).handle());
    let server = server_config(&world.trust, &theirs, ClientAuth::Required, &[]);
    let client = client_config(&world.trust, &mine, ExpectedPeer::Exact(id(B)), &[]);
    let shown = |client: &Arc<ClientConfig>| {
        let (client, server) = handshake(client, &server).unwrap();
        let leaf = |chain: Option<&[rustls::pki_types::CertificateDer<'static>]>| chain.unwrap()[0].clone();
        (leaf(server.peer_certificates()), leaf(client.peer_certificates()))
    };
    let leaf = |handle: &SvidHandle| handle.current().chain()[0].clone();
    let before = (leaf(&mine), leaf(&theirs));
    assert_eq!(shown(&client), before);
    mine.replace(world.a.leaf(A).svid());
    theirs.replace(world.b.leaf(B).svid());
    let after = (leaf(&mine), leaf(&theirs));
    assert_ne!(before, after);
    assert_eq!(shown(&client), after);
}

#[test]
fn rejections_are_found_in_what_tokio_rustls_returns() {
    let rejection = Rejection::UnknownTrustDomain(td("a"));
    let io = std::io::Error::new(std::io::ErrorKind::InvalidData, Error::from(rejection.clone()));
    assert_eq!(Rejection::in_io(&io), Some(&rejection));
    assert_eq!(Rejection::in_io(&std::io::ErrorKind::BrokenPipe.into()), None);
    assert_eq!(Rejection::in_tls(&Error::HandshakeNotComplete), None);
}
