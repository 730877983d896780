//! A signing request, of which only the public key is believed.
//!
//! A request may ask for names, usages, even to be a CA. None of it is read, so none of it can slip
//! through; what the request does prove is that the sender has the private key.

use rcgen::SubjectPublicKeyInfo;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use x509_parser::x509;

/// The largest request that is parsed; one with a P-256 key and a few names has less than 1 KiB.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// Why a signing request is not honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// It is larger than we parse.
    #[error("{0} bytes, at most {CSR_BYTES_MAX} are accepted")]
    TooLarge(usize),
    /// It is not PKCS#10 in DER.
    #[error("not a PKCS#10 signing request in DER")]
    Malformed,
    /// Its key is not of the curve P-256, or not signed with SHA-256.
    #[error("its key is not an ECDSA key of the curve P-256 with SHA-256")]
    Algorithm,
    /// The sender does not have the private key.
    #[error("its signature is wrong, so its sender may not have the private key")]
    Signature,
}

/// The public key of a request whose sender has proven to have the private one.
pub(crate) fn public_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, InvalidRequest> {
    if csr.len() > CSR_BYTES_MAX {
        return Err(InvalidRequest::TooLarge(csr.len()));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(csr).map_err(|_malformed| InvalidRequest::Malformed)?;
    if !rest.is_empty() || request.signature_value.unused_bits != 0 {
        return Err(InvalidRequest::Malformed);
    }
    let info = &request.certification_request_info.subject_pki;
    if !is_p256(info) || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(InvalidRequest::Algorithm);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info.subject_public_key.data)
        .verify(request.certification_request_info.raw, &request.signature_value.data)
        .map_err(|_unspecified| InvalidRequest::Signature)?;
    SubjectPublicKeyInfo::from_der(info.raw).map_err(|_unsupported| InvalidRequest::Algorithm)
}

fn is_p256(info: &x509::SubjectPublicKeyInfo<'_>) -> bool {
    let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve.is_some_and(|curve| curve == OID_EC_P256)
}
