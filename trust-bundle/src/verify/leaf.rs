//! What makes a certificate an X.509-SVID leaf: the checks that webpki does not do (X1-X7, ID*).
//!
//! webpki builds the path and checks signatures, dates and extended key usage. It accepts a leaf with
//! two URIs, without a path, with keyCertSign or without any key usage; all that is decided here,
//! before a signature is even looked at. Nothing here depends on who signed.

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, Oid};
use x509_parser::prelude::FromDer;

use crate::spiffe_id::{InvalidSpiffeId, SpiffeId};

/// More certificates than this are no SPIFFE chain: leaf, root and four between (X17).
pub const CHAIN_CERTIFICATES_MAX: usize = 6;

/// The largest certificate that is parsed (X17).
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// The largest chain, all certificates together (X17).
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;

/// What is read from the leaf of an X.509-SVID.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    id: SpiffeId,
    public_key: Vec<u8>,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Leaf {
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, NotSvid> {
        let certificate = parse_certificate(der)?;
        check_basic_constraints(&certificate)?;
        check_key_usage(&certificate)?;
        check_extended_key_usage(&certificate)?;
        let uri = only_uri(&certificate)?;
        let public_key = &certificate.public_key().subject_public_key.data;
        check_second_reader(der, uri, public_key)?;
        let id = SpiffeId::try_from(uri).map_err(NotSvid::Id)?;
        if id.path().is_empty() {
            return Err(NotSvid::NoPath);
        }
        let validity = certificate.validity();
        Ok(Self {
            id,
            public_key: public_key.to_vec(),
            not_before: unix_time(validity.not_before.timestamp()),
            not_after: unix_time(validity.not_after.timestamp()),
        })
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The bits of the subject's public key, without the algorithm.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    pub(crate) fn not_before(&self) -> UnixTime {
        self.not_before
    }

    pub(crate) fn not_after(&self) -> UnixTime {
        self.not_after
    }
}

/// Why a certificate is not the leaf of an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSvid {
    /// It is larger than we parse (X17).
    #[error("the certificate is larger than {CERTIFICATE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not a certificate, or an extension is malformed or doubled.
    #[error("the certificate is malformed")]
    Malformed,
    /// Bytes follow the certificate (X18).
    #[error("bytes follow the certificate")]
    TrailingBytes,
    /// It is a CA (X5, X13).
    #[error("a CA certificate is not an identity")]
    Ca,
    /// It has no key usage extension, or one that is not critical (X6).
    #[error("key usage is missing or not critical")]
    KeyUsageMissing,
    /// Its key may not sign a handshake (X6).
    #[error("key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// Its key may sign certificates or revocation lists (X6).
    #[error("key usage has keyCertSign or cRLSign, which only a CA may have")]
    SignsCertificates,
    /// Its extended key usage lacks one of the two roles (X7).
    #[error("extended key usage needs both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// It has no URI name (X1).
    #[error("the certificate has no URI name, so it is no SPIFFE identity")]
    NoUri,
    /// It has more than one URI name (X1).
    #[error("the certificate has more than one URI name")]
    ManyUris,
    /// Its URI name is not a SPIFFE ID.
    #[error("its URI name is not a SPIFFE ID: {0}")]
    Id(InvalidSpiffeId),
    /// Its SPIFFE ID names a trust domain, not a workload (X3).
    #[error("its SPIFFE ID has no path")]
    NoPath,
}

/// How a chain is larger than any that we look at (X17).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainBounds {
    /// It has too many certificates.
    #[error("{0} certificates in the chain, at most {CHAIN_CERTIFICATES_MAX} are accepted")]
    Certificates(usize),
    /// One certificate is too large.
    #[error("a certificate of {0} bytes in the chain, at most {CERTIFICATE_BYTES_MAX} are accepted")]
    Certificate(usize),
    /// All together are too large.
    #[error("a chain of {0} bytes, at most {CHAIN_BYTES_MAX} are accepted")]
    Bytes(usize),
}

pub(crate) fn check_chain_bounds(chain: &[CertificateDer<'_>]) -> Result<(), ChainBounds> {
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(ChainBounds::Certificates(chain.len()));
    }
    if let Some(large) = chain.iter().find(|c| c.len() > CERTIFICATE_BYTES_MAX) {
        return Err(ChainBounds::Certificate(large.len()));
    }
    let bytes: usize = chain.iter().map(|c| c.len()).sum();
    if bytes > CHAIN_BYTES_MAX {
        return Err(ChainBounds::Bytes(bytes));
    }
    Ok(())
}

/// Parses a bounded certificate and insists that nothing follows it (X18).
pub(crate) fn parse_certificate<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, NotSvid> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(NotSvid::TooLarge);
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_malformed| NotSvid::Malformed)?;
    if !rest.is_empty() {
        return Err(NotSvid::TrailingBytes);
    }
    Ok(certificate)
}

/// Whether basicConstraints says cA, and the path length that it allows; absent means no CA.
pub(crate) fn ca_constraints(certificate: &X509Certificate<'_>) -> Result<Option<Option<u32>>, NotSvid> {
    // The parser's own accessor reports a malformed extension as an absent one.
    let Some(extension) = unique_extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)? else {
        return Ok(None);
    };
    match extension {
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            Ok(Some(constraints.path_len_constraint))
        }
        ParsedExtension::BasicConstraints(_) => Ok(None),
        _ => Err(NotSvid::Malformed),
    }
}

/// Whether the key of this certificate may sign certificates, by key usage (X9).
pub(crate) fn signs_certificates(certificate: &X509Certificate<'_>) -> bool {
    matches!(certificate.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign())
}

/// Whether a URI name is the SPIFFE ID of a workload, or cannot be read.
pub(crate) fn names_workload(certificate: &X509Certificate<'_>) -> bool {
    let Ok(names) = certificate.subject_alternative_name() else { return true };
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let workload = |uri: &str| SpiffeId::try_from(uri).is_ok_and(|id| !id.path().is_empty());
    names.into_iter().any(|name| matches!(name, GeneralName::URI(uri) if workload(uri)))
}

/// A time in a certificate; before 1970 is the same as 1970 to us.
pub(crate) fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn unique_extension<'a, 'b>(
    certificate: &'a X509Certificate<'b>,
    oid: &Oid<'_>,
) -> Result<Option<&'a ParsedExtension<'b>>, NotSvid> {
    let mut found = certificate.iter_extensions().filter(|extension| extension.oid == *oid);
    let first = found.next();
    if found.next().is_some() {
        return Err(NotSvid::Malformed);
    }
    Ok(first.map(|extension| extension.parsed_extension()))
}

// An absent extension means cA=false in DER; external CAs do leave it out (X5).
fn check_basic_constraints(certificate: &X509Certificate<'_>) -> Result<(), NotSvid> {
    match ca_constraints(certificate)? {
        Some(_) => Err(NotSvid::Ca),
        None => Ok(()),
    }
}

fn check_key_usage(certificate: &X509Certificate<'_>) -> Result<(), NotSvid> {
    let usage = certificate.key_usage().map_err(|_malformed| NotSvid::Malformed)?;
    let usage = usage.filter(|usage| usage.critical).ok_or(NotSvid::KeyUsageMissing)?.value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(NotSvid::SignsCertificates);
    }
    if !usage.digital_signature() {
        return Err(NotSvid::NoDigitalSignature);
    }
    Ok(())
}

fn check_extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), NotSvid> {
    match certificate.extended_key_usage().map_err(|_malformed| NotSvid::Malformed)? {
        Some(usage) if !(usage.value.server_auth && usage.value.client_auth) => {
            Err(NotSvid::ExtendedKeyUsage)
        }
        _ => Ok(()),
    }
}

// webpki, which verifies the rest of the certificate, must find the same name and key in it. The parser
// above takes encodings that DER does not allow, in which other readers see nothing, or something else.
fn check_second_reader(der: &CertificateDer<'_>, uri: &str, public_key: &[u8]) -> Result<(), NotSvid> {
    // What webpki cannot read it refuses itself, and says why.
    let Ok(second) = EndEntityCert::try_from(der) else { return Ok(()) };
    let same = second.valid_uri_names().eq([uri]) && second.subject_public_key_info().ends_with(public_key);
    if same { Ok(()) } else { Err(NotSvid::Malformed) }
}

fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, NotSvid> {
    let names = certificate.subject_alternative_name().map_err(|_malformed| NotSvid::Malformed)?;
    let names = names.ok_or(NotSvid::NoUri)?.value;
    // A name that does not decode might be a second URI to a reader that is more lenient than we are.
    if names.general_names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(NotSvid::Malformed);
    }
    let mut uris = names.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(NotSvid::NoUri)?;
    if uris.next().is_some() {
        return Err(NotSvid::ManyUris);
    }
    Ok(uri)
}
