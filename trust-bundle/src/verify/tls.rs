//! The TLS configurations of everything that has an identity.
//!
//! TLS 1.3 only (V4) and no resumption of any kind (V20), because a resumed session skips the verifier.
//! Trust and our own SVID are read at each handshake, so that a configuration outlives every renewal
//! and every change of bundles (V31).

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use super::path::{PeerSide, verify};
use super::provider;
use super::rejection::Rejection;
use super::trust_store::TrustStore;
use super::verifier::{ClientAuth, Judge, PeerVerifier};
use crate::source::SvidHandle;
use crate::spiffe_id::SpiffeId;

/// Whom a client wants to reach; there is deliberately no "anyone" (V2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// Exactly this identity.
    Exact(SpiffeId),
    /// One of these; an empty set matches nobody.
    AnyOf(BTreeSet<SpiffeId>),
}

impl ExpectedPeer {
    /// Whether this identity is expected.
    pub fn includes(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(expected) => expected == id,
            Self::AnyOf(expected) => expected.contains(id),
        }
    }
}

/// A server that shows our SVID and verifies clients under the trust store.
pub fn server_config(
    trust: &TrustStore,
    svid: &SvidHandle,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let judge = Trusted { store: trust.clone(), side: PeerSide::Client, expected: None };
    server_with(PeerVerifier::of_clients(judge, client_auth), svid, alpn)
}

/// A client that shows our SVID and believes only the expected peer.
///
/// The server name of a connection only says what to ask for in SNI; it plays no part in the verdict.
pub fn client_config(
    trust: &TrustStore,
    svid: &SvidHandle,
    expected: ExpectedPeer,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let judge = Trusted { store: trust.clone(), side: PeerSide::Server, expected: Some(expected) };
    client_with(PeerVerifier::of_servers(judge), svid, alpn)
}

/// What all our servers have in common, whatever they verify.
pub(crate) fn server_with(
    verifier: PeerVerifier<impl Judge>,
    svid: &SvidHandle,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(CurrentSvid(svid.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// What all our clients have in common, whatever they verify.
pub(crate) fn client_with(
    verifier: PeerVerifier<impl Judge>,
    svid: &SvidHandle,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    client_showing(verifier, Arc::new(CurrentSvid(svid.clone())), alpn)
}

/// A client that has no SVID to show.
pub(crate) fn anonymous_client_with(verifier: PeerVerifier<impl Judge>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    client_showing(verifier, Arc::new(NoSvid), alpn)
}

fn client_showing(
    verifier: PeerVerifier<impl Judge>,
    shown: Arc<dyn ResolvesClientCert>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(shown);
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Believes what the trust store vouches for, and of servers only the expected one.
#[derive(Debug)]
struct Trusted {
    store: TrustStore,
    side: PeerSide,
    /// None on the server side, where authorization follows later and by request.
    expected: Option<ExpectedPeer>,
}

impl Judge for Trusted {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Rejection> {
        let peer = verify(&self.store.load(), chain, self.side, now)?;
        match &self.expected {
            Some(expected) if !expected.includes(&peer.id) => Err(Rejection::Unexpected(peer.id)),
            _ => Ok(()),
        }
    }
}

/// Shows whatever SVID is the current one.
#[derive(Debug)]
struct CurrentSvid(SvidHandle);

/// Shows nothing: a node that is about to get its first SVID.
#[derive(Debug)]
struct NoSvid;

impl ResolvesClientCert for NoSvid {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().certified_key())
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current().certified_key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
