//! An X.509-SVID with its private key: what this process is, and can prove to be.
//!
//! A value of [`X509Svid`] is always usable: the leaf passed the same checks that a peer will apply,
//! and the key belongs to it. Whether it is *trusted* is not known here, that is the verifier's
//! question, and whether it is still *valid* is a question of time.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::key::{InvalidKey, KeyPair};
use crate::pem;
use crate::spiffe_id::SpiffeId;
use crate::verify::{ChainBounds, Leaf, NotSvid, check_chain_bounds};

/// An X.509-SVID and the key that goes with it.
#[derive(Debug)]
pub struct X509Svid {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    key: SvidKey,
    certified_key: Arc<CertifiedKey>,
}

impl X509Svid {
    /// Takes a chain, leaf first, and its key; checks that they are an SVID and belong together.
    pub fn from_parts(chain: Vec<CertificateDer<'static>>, key: SvidKey) -> Result<Self, InvalidSvid> {
        check_chain_bounds(&chain)?;
        let first = chain.first().ok_or(InvalidSvid::Empty)?;
        let leaf = Leaf::parse(first)?;
        if leaf.public_key() != key.0.public_key() {
            return Err(InvalidSvid::KeyMismatch);
        }
        let signing_key = rustls::crypto::ring::sign::any_ecdsa_type(&key.0.private_key_der())
            .map_err(|e| InvalidSvid::Key(InvalidKey::NotP256 { reason: e.to_string() }))?;
        let certified_key = Arc::new(CertifiedKey::new(chain.clone(), signing_key));
        Ok(Self { leaf, chain, key, certified_key })
    }

    /// Reads a chain and a key that were written with [`Self::chain_pem`] and [`SvidKey::to_pem`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, InvalidSvid> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|_malformed| InvalidSvid::NotPem)?;
        Self::from_parts(chain, SvidKey::from_pem(key).map_err(InvalidSvid::Key)?)
    }

    /// The one SPIFFE ID of the leaf.
    pub fn id(&self) -> &SpiffeId {
        self.leaf.id()
    }

    /// The certificates as they are sent, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The certificates in PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem::encode("CERTIFICATE", certificate)).collect()
    }

    /// The private key of the leaf.
    pub fn key(&self) -> &SvidKey {
        &self.key
    }

    /// When the leaf begins to be valid.
    pub fn not_before(&self) -> UnixTime {
        self.leaf.not_before()
    }

    /// When the leaf ceases to be valid.
    pub fn not_after(&self) -> UnixTime {
        self.leaf.not_after()
    }

    /// Chain and key in the form that rustls takes.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.certified_key.clone()
    }
}

/// The private key of an SVID; wiped on drop, never printed.
pub struct SvidKey(KeyPair);

impl SvidKey {
    /// Makes a new P-256 key.
    pub fn generate() -> Self {
        Self(KeyPair::generate())
    }

    /// Reads a P-256 key in PKCS#8.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidKey> {
        KeyPair::from_pkcs8(der).map(Self)
    }

    /// Reads a P-256 key in PKCS#8 within PEM.
    pub fn from_pem(text: &[u8]) -> Result<Self, InvalidKey> {
        KeyPair::from_pem(text).map(Self)
    }

    /// The key in PKCS#8, for a file with mode 0600.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pem()
    }

    /// A signing request that proves possession of the key, in DER; it asks for nothing else.
    pub fn csr(&self) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0).expect("a P-256 key signs an empty request");
        request.der().to_vec()
    }
}

impl fmt::Debug for SvidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SvidKey(redacted)")
    }
}

/// Why a chain and a key are not an SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSvid {
    /// There is no certificate at all.
    #[error("the certificate chain is empty")]
    Empty,
    /// The chain is larger than any peer accepts (X17).
    #[error(transparent)]
    Bounds(#[from] ChainBounds),
    /// The leaf is not an X.509-SVID.
    #[error("the leaf is not an X.509-SVID: {0}")]
    NotSvid(#[from] NotSvid),
    /// The key is not the leaf's.
    #[error("the private key does not belong to the leaf certificate; were they written at different times?")]
    KeyMismatch,
    /// The key cannot be used.
    #[error(transparent)]
    Key(InvalidKey),
    /// The chain is not PEM.
    #[error("the certificate chain is not PEM")]
    NotPem,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestAuthority;

    const ID: &str = "spiffe://a/gateway";

    fn parts(leaf: crate::testing::TestLeaf) -> (Vec<CertificateDer<'static>>, SvidKey) {
        let key = SvidKey::from_pkcs8(leaf.key.serialized_der()).unwrap();
        (leaf.chain, key)
    }

    #[test]
    fn survives_a_round_trip_through_pem() {
        let root = TestAuthority::root("a");
        let svid = root.leaf(ID).through(&root).svid();
        let again = X509Svid::from_pem(svid.chain_pem().as_bytes(), svid.key().to_pem().as_bytes()).unwrap();
        assert_eq!(again.chain(), svid.chain());
        assert_eq!(again.id().as_str(), ID);
        assert_eq!((again.not_before(), again.not_after()), (svid.not_before(), svid.not_after()));
    }

    #[test]
    fn what_is_no_svid_is_told_apart() {
        let root = TestAuthority::root("a");
        let from = |leaf| {
            let (chain, key) = parts(leaf);
            X509Svid::from_parts(chain, key).map(|_| ()).unwrap_err()
        };
        assert_eq!(from(root.leaf("spiffe://a")), InvalidSvid::NotSvid(NotSvid::NoPath));
        let mut long = root.leaf(ID);
        long.chain.extend(std::iter::repeat_n(root.der.clone(), 6));
        assert_eq!(from(long), InvalidSvid::Bounds(ChainBounds::Certificates(7)));
        let mut empty = root.leaf(ID);
        empty.chain.clear();
        assert_eq!(from(empty), InvalidSvid::Empty);
        let mixed = X509Svid::from_parts(root.leaf(ID).chain, parts(root.leaf(ID)).1);
        assert_eq!(mixed.unwrap_err(), InvalidSvid::KeyMismatch);
        let key = SvidKey::generate().to_pem();
        assert_eq!(X509Svid::from_pem(b"nothing", key.as_bytes()).unwrap_err(), InvalidSvid::Empty);
        assert_eq!(
            X509Svid::from_pem(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", key.as_bytes())
                .unwrap_err(),
            InvalidSvid::NotPem
        );
    }

    #[test]
    fn request_asks_for_nothing() {
        let csr = SvidKey::generate().csr();
        let request = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        assert!(request.params.subject_alt_names.is_empty());
        assert!(request.params.distinguished_name.iter().next().is_none());
        assert!(request.params.key_usages.is_empty());
    }

    #[test]
    fn key_is_never_printed() {
        let svid = TestAuthority::root("a").leaf(ID).svid();
        let pem = svid.key().to_pem();
        let printed = format!("{:?} {svid:?}", svid.key());
        assert!(printed.contains("SvidKey(redacted)"));
        assert!(!printed.contains(pem.lines().nth(1).unwrap()));
    }
}
