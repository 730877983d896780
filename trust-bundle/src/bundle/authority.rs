//! One authority of a bundle: a root certificate that passed admission (B16, X10-X13).
//!
//! webpki takes any certificate as a trust anchor, an expired or a cA=false one too, and fails every
//! chain under one with a URI name constraint. What may be an anchor is therefore decided here, once,
//! where the operator can still be told why, and not at each handshake.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::digest::{Hex, from_hex, sha256};
use crate::verify::{NotSvid, ca_constraints, parse_certificate, signs_certificates, unix_time};

/// The weakest RSA key that webpki verifies with.
const RSA_BITS_MIN: usize = 2048;

/// Names an authority by SHA-256 of its public key (SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityId([u8; 32]);

impl AuthorityId {
    /// The ID of the key in this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, NotSvid> {
        Ok(Self(sha256(parse_certificate(certificate)?.public_key().raw)))
    }

    /// The digest itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for AuthorityId {
    fn from(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl FromStr for AuthorityId {
    type Err = InvalidAuthorityId;

    fn from_str(text: &str) -> Result<Self, InvalidAuthorityId> {
        from_hex(text).map(Self).ok_or(InvalidAuthorityId)
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityId({self})")
    }
}

impl Serialize for AuthorityId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AuthorityId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The text is not the hex of a SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an authority is named by 64 hexadecimal digits")]
pub struct InvalidAuthorityId;

/// A certificate that may sign identities of one trust domain.
#[derive(Debug, Clone)]
pub struct Authority {
    id: AuthorityId,
    certificate: CertificateDer<'static>,
    key: JwkKey,
    not_before: UnixTime,
    not_after: UnixTime,
    path_length: Option<u32>,
}

impl Authority {
    /// Checks everything about a root that does not depend on the time.
    pub fn admit(certificate: CertificateDer<'static>) -> Result<Self, InvalidAuthority> {
        // The anchor is taken from the bytes at each use; here we learn that it can be.
        webpki::anchor_from_trusted_cert(&certificate).map_err(|_malformed| InvalidAuthority::Malformed)?;
        let parsed = parse_certificate(&certificate).map_err(InvalidAuthority::from)?;
        let path_length = ca_constraints(&parsed).map_err(InvalidAuthority::from)?;
        let path_length = path_length.ok_or(InvalidAuthority::NotCa)?;
        if !signs_certificates(&parsed) {
            return Err(InvalidAuthority::NoKeyCertSign);
        }
        if parsed.subject().iter().next().is_none() {
            return Err(InvalidAuthority::EmptySubject);
        }
        check_name_constraints(&parsed)?;
        let key = JwkKey::of(parsed.public_key()).ok_or(InvalidAuthority::Algorithm)?;
        let id = AuthorityId(sha256(parsed.public_key().raw));
        let not_before = unix_time(parsed.validity().not_before.timestamp());
        let not_after = unix_time(parsed.validity().not_after.timestamp());
        Ok(Self { id, key, not_before, not_after, path_length, certificate })
    }

    /// SHA-256 of its public key.
    pub fn id(&self) -> AuthorityId {
        self.id
    }

    /// When it begins to be valid.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// When it ceases to be valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The root certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Whether this moment lies within its validity (X10).
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether a path with so many intermediates is short enough for it (X11).
    pub(crate) fn allows_intermediates(&self, count: usize) -> bool {
        self.path_length.is_none_or(|length| count <= length as usize)
    }

    pub(crate) fn anchor(&self) -> Option<TrustAnchor<'_>> {
        webpki::anchor_from_trusted_cert(&self.certificate).ok()
    }

    pub(crate) fn key(&self) -> &JwkKey {
        &self.key
    }

    pub(crate) fn order(&self) -> (AuthorityId, &[u8]) {
        (self.id, &self.certificate)
    }
}

/// Why a certificate cannot be an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    /// It cannot be read as a certificate.
    #[error("the certificate is malformed")]
    Malformed,
    /// It is larger than we parse (X17).
    #[error("the certificate is too large")]
    TooLarge,
    /// Bytes follow the certificate (X18).
    #[error("bytes follow the certificate")]
    TrailingBytes,
    /// It is no CA, so it may sign nothing (X10).
    #[error("the certificate is not a CA (cA=false)")]
    NotCa,
    /// Its key may not sign certificates (X13).
    #[error("key usage lacks keyCertSign")]
    NoKeyCertSign,
    /// Nobody could name it as an issuer (B16).
    #[error("the subject is empty")]
    EmptySubject,
    /// It constrains URIs, which makes every SVID under it unverifiable (X12).
    #[error("it constrains URI names, which no SPIFFE verifier on webpki can check; issue one without")]
    UriConstraints,
    /// Its key is of a kind that we do not verify with (B16).
    #[error("its key is none of P-256, P-384, Ed25519, RSA of at least {RSA_BITS_MIN} bits")]
    Algorithm,
}

impl From<NotSvid> for InvalidAuthority {
    fn from(why: NotSvid) -> Self {
        match why {
            NotSvid::TooLarge => Self::TooLarge,
            NotSvid::TrailingBytes => Self::TrailingBytes,
            _ => Self::Malformed,
        }
    }
}

fn check_name_constraints(certificate: &X509Certificate<'_>) -> Result<(), InvalidAuthority> {
    let constraints = certificate.name_constraints().map_err(|_malformed| InvalidAuthority::Malformed)?;
    let Some(constraints) = constraints else { return Ok(()) };
    let subtrees = [&constraints.value.permitted_subtrees, &constraints.value.excluded_subtrees];
    let about_uris =
        |tree: &GeneralSubtree<'_>| matches!(tree.base, GeneralName::URI(_) | GeneralName::Invalid(..));
    if subtrees.into_iter().flatten().flatten().any(about_uris) {
        return Err(InvalidAuthority::UriConstraints);
    }
    Ok(())
}

/// The public key in the terms of a JWK (RFC 7518, RFC 8037), as raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JwkKey {
    Ec { curve: &'static str, x: Vec<u8>, y: Vec<u8> },
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ed25519 { x: Vec<u8> },
}

impl JwkKey {
    fn of(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let bits: &[u8] = &info.subject_public_key.data;
        if info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            return match curve {
                curve if curve == OID_EC_P256 => Self::point("P-256", 32, bits),
                curve if curve == OID_NIST_EC_P384 => Self::point("P-384", 48, bits),
                _ => None,
            };
        }
        if info.algorithm.algorithm == OID_SIG_ED25519 {
            return (bits.len() == 32).then(|| Self::Ed25519 { x: bits.to_vec() });
        }
        if info.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
            return Self::rsa(info);
        }
        None
    }

    fn point(curve: &'static str, size: usize, bits: &[u8]) -> Option<Self> {
        let coordinates = bits.strip_prefix(&[4]).filter(|rest| rest.len() == 2 * size)?;
        let (x, y) = coordinates.split_at(size);
        Some(Self::Ec { curve, x: x.to_vec(), y: y.to_vec() })
    }

    fn rsa(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let Ok(PublicKey::RSA(key)) = info.parsed() else { return None };
        // DER puts a zero in front of a number whose first bit is set; a JWK does not.
        let strip = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
        let (modulus, exponent) = (strip(key.modulus), strip(key.exponent));
        let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
        (bits >= RSA_BITS_MIN).then_some(Self::Rsa { modulus, exponent })
    }
}
