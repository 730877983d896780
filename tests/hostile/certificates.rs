//! Certificates that a gateway must not believe, by an authority that it does believe.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use time::{Duration, OffsetDateTime};
use trust_bundle::{Bundle, REFRESH_HINT_DEFAULT, TrustDomain};

/// The peer `cloud`, as far as its certificates go.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

/// A chain and the key of its leaf.
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

pub(crate) const GATEWAY: &str = "spiffe://cloud.isthmus.internal/isthmus/gateway";

impl Authority {
    pub(crate) fn new() -> Self {
        let params = authority_params("cloud.isthmus.internal");
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { params, key, der }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let domain = TrustDomain::try_from("cloud.isthmus.internal").unwrap();
        Bundle::publish(domain, std::slice::from_ref(&self.der), 1, REFRESH_HINT_DEFAULT, UnixTime::now())
            .unwrap()
    }

    pub(crate) fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = leaf_params(uris);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        Shown { chain: vec![params.signed_by(&key, &issuer).unwrap().der().clone()], key }
    }

    /// All that a peer might try, and the word for what is wrong with it; none is a good one.
    pub(crate) fn tries(&self) -> Vec<(&'static str, Option<Shown>, Option<&'static str>)> {
        let good = || self.leaf(&[GATEWAY], |_| ());
        let padded = |certificates: usize, bytes: usize| {
            let mut shown = good();
            for _ in 0..certificates {
                let mut params = authority_params("padding");
                params.distinguished_name.push(DnType::CommonName, "x".repeat(bytes));
                let key = KeyPair::generate().unwrap();
                let issuer = Issuer::from_params(&self.params, &self.key);
                shown.chain.push(params.signed_by(&key, &issuer).unwrap().der().clone());
            }
            Some(shown)
        };
        let now = OffsetDateTime::now_utc();
        let changed = |change: &dyn Fn(&mut CertificateParams)| Some(self.leaf(&[GATEWAY], change));
        vec![
            ("its own certificate", Some(good()), None),
            ("no certificate", None, Some("no_certificate")),
            ("a foreign CA", Some(Self::new().leaf(&[GATEWAY], |_| ())), Some("unknown_issuer")),
            (
                "a trust domain that nobody knows",
                Some(self.leaf(&["spiffe://elsewhere/isthmus/gateway"], |_| ())),
                Some("unknown_td"),
            ),
            ("expired", changed(&|params| params.not_after = now - Duration::minutes(10)), Some("expired")),
            (
                "not yet valid",
                changed(&|params| params.not_before = now + Duration::minutes(30)),
                Some("not_yet_valid"),
            ),
            (
                "two URI SANs",
                Some(self.leaf(&[GATEWAY, "spiffe://cloud.isthmus.internal/other"], |_| ())),
                Some("not_svid"),
            ),
            (
                "a CA flag",
                changed(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
                Some("not_svid"),
            ),
            ("no key usage", changed(&|params| params.key_usages.clear()), Some("not_svid")),
            (
                "the role of a workload",
                Some(self.leaf(&["spiffe://cloud.isthmus.internal/ns/shop"], |_| ())),
                Some("not_a_gateway"),
            ),
            ("20 intermediates", padded(20, 10), Some("chain_too_large")),
            ("a chain of 200 KB", padded(5, 40_000), None),
        ]
    }
}

/// Takes every server, and resumes where it can.
pub(crate) fn client(shown: Option<&Shown>, alpn: &[u8]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(trust_bundle::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(shown.key.serialize_der()));
            builder.with_client_auth_cert(shown.chain.clone(), key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{name}").try_into().unwrap())];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
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
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(1);
    params
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
