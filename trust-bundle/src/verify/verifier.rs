//! One rustls verifier for every handshake of ours; what differs is the judge inside.
//!
//! rustls wants some methods that say the same in each of our cases: TLS 1.2 is off (V4), no hint
//! about whom we trust (V3), and the peer's signature over the handshake is always checked, whatever
//! the judge thinks of the certificate. They are written once, here.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::provider;
use super::rejection::Rejection;

/// Whether a client must show an SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without an SVID is refused.
    Required,
    /// A client without any certificate is let in without an identity; one with a bad one is refused.
    Optional,
}

/// Decides on the chain of a peer, leaf first.
pub(crate) trait Judge: fmt::Debug + Send + Sync + 'static {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Rejection>;
}

/// A judge in the form that rustls takes, for either side.
#[derive(Debug)]
pub(crate) struct PeerVerifier<J> {
    judge: J,
    client_auth: ClientAuth,
}

impl<J: Judge> PeerVerifier<J> {
    pub(crate) fn of_clients(judge: J, client_auth: ClientAuth) -> Self {
        Self { judge, client_auth }
    }

    /// A server always shows a certificate.
    pub(crate) fn of_servers(judge: J) -> Self {
        Self { judge, client_auth: ClientAuth::Required }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Rejection> {
        // rustls hands out the chain in two parts.
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        self.judge.judge(&chain, now)
    }
}

impl<J: Judge> ClientCertVerifier for PeerVerifier<J> {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl<J: Judge> ServerCertVerifier for PeerVerifier<J> {
    // The name only says what to ask for in SNI; an identity is no DNS name.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Checks that the peer has the key of the certificate that it shows.
fn tls13_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
}

fn tls12_is_off() -> Error {
    Error::General("TLS 1.2 is off".to_owned())
}
