//! Fixtures: authorities with any fault one likes, and handshakes in memory.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use time::OffsetDateTime;

use crate::bundle::{Bundle, REFRESH_HINT_DEFAULT};
use crate::source::SvidHandle;
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::svid::{SvidKey, X509Svid};

/// rustls reads the real clock during a handshake, so certificates are made around it.
pub(crate) fn now() -> UnixTime {
    UnixTime::now()
}

pub(crate) fn later(time: UnixTime, seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs() + seconds))
}

pub(crate) fn date(time: UnixTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_secs() as i64).unwrap()
}

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::try_from(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::try_from(text).unwrap()
}

/// A root or an intermediate that signs whatever it is told to.
pub(crate) struct TestAuthority {
    params: CertificateParams,
    key: rcgen::KeyPair,
    pub(crate) der: CertificateDer<'static>,
}

impl TestAuthority {
    pub(crate) fn root(trust_domain: &str) -> Self {
        Self::root_with(trust_domain, |_| ())
    }

    pub(crate) fn root_with(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority_params(trust_domain);
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { params, key, der }
    }

    pub(crate) fn intermediate(&self) -> Self {
        self.intermediate_with(|_| ())
    }

    pub(crate) fn intermediate_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = authority_params("intermediate");
        params.subject_alt_names.clear();
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer()).unwrap().der().clone();
        Self { params, key, der }
    }

    pub(crate) fn leaf(&self, uri: &str) -> TestLeaf {
        self.leaf_with(&[uri], |_| ())
    }

    pub(crate) fn leaf_with(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> TestLeaf {
        let mut params = leaf_params(uris);
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer()).unwrap().der().clone();
        TestLeaf { chain: vec![der], key }
    }

    /// The bundle of a trust domain with only this authority in it.
    pub(crate) fn bundle(&self, trust_domain: &str, sequence: u64) -> Bundle {
        let roots = [self.der.clone()];
        Bundle::publish(td(trust_domain), &roots, sequence, REFRESH_HINT_DEFAULT, now()).unwrap()
    }

    fn issuer(&self) -> Issuer<'_, &rcgen::KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

/// A leaf with its key, whatever may be wrong with it.
pub(crate) struct TestLeaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: rcgen::KeyPair,
}

impl TestLeaf {
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    pub(crate) fn through(mut self, intermediate: &TestAuthority) -> Self {
        self.chain.push(intermediate.der.clone());
        self
    }

    pub(crate) fn svid(&self) -> X509Svid {
        let key = SvidKey::from_pkcs8(self.key.serialized_der()).unwrap();
        X509Svid::from_parts(self.chain.clone(), key).unwrap()
    }

    pub(crate) fn handle(&self) -> SvidHandle {
        SvidHandle::new(self.svid())
    }
}

/// Runs a handshake in memory; the error is the one of the side that refused.
pub(crate) fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = "gateway.cloud.isthmus.internal".try_into().unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &bytes[..];
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &bytes[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn authority_params(trust_domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now()) - time::Duration::hours(1);
    params.not_after = date(now()) + time::Duration::days(1);
    params
}

fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date(now()) - time::Duration::minutes(1);
    params.not_after = date(now()) + time::Duration::hours(1);
    params
}
