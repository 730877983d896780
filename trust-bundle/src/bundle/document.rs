//! The bundle document, a JWK set with two more members: read leniently, written strictly.
//!
//! Read: a key that we do not understand is left out, as the specification wants, so that a peer may
//! publish new kinds of keys (B4, B9, B10). Written: only what the strictest reader in the field takes,
//! `x509-svid` keys with one certificate and no `kid` (B5, 1.7).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::authority::{Authority, AuthorityId, InvalidAuthority, JwkKey};
use super::{BUNDLE_AUTHORITIES_MAX, BUNDLE_BYTES_MAX, BUNDLE_DEPTH_MAX, BUNDLE_KEYS_MAX};

pub(super) struct Parsed {
    pub(super) sequence: Option<u64>,
    pub(super) refresh_hint: Option<Duration>,
    pub(super) authorities: Vec<Authority>,
    pub(super) skipped: Vec<SkippedKey>,
}

/// An entry of a document that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its place in the document's `keys`, if it was one of several.
    pub index: Option<usize>,
    /// The authority that it would have been, where that can be said.
    pub authority: Option<AuthorityId>,
    /// Why it is not used.
    pub reason: SkipReason,
}

impl SkippedKey {
    pub(super) fn expired(authority: &Authority) -> Self {
        Self { index: None, authority: Some(authority.id()), reason: SkipReason::Expired }
    }
}

/// Why an entry is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// It is for another use than X.509-SVIDs; nothing is wrong with it (B4, B9).
    #[error("not an x509-svid key")]
    OtherUse,
    /// Its key type is unknown (B4).
    #[error("unknown key type")]
    UnknownKeyType,
    /// It is not a JWK.
    #[error("not a JSON Web Key")]
    NotAKey,
    /// It has no certificate (B6).
    #[error("no certificate in x5c")]
    NoCertificate,
    /// Its certificate is not standard base64 (B7).
    #[error("x5c is not standard base64")]
    Encoding,
    /// Its certificate cannot be an authority (B16).
    #[error(transparent)]
    Authority(#[from] InvalidAuthority),
    /// Its JWK parameters describe another key than its certificate; worth an alarm (B8).
    #[error("the JWK describes another key than its certificate")]
    KeyMismatch,
    /// Its certificate has expired.
    #[error("the certificate has expired")]
    Expired,
}

/// Why a document is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBundle {
    /// It is larger than we read (B15).
    #[error("{0} bytes, at most {BUNDLE_BYTES_MAX} are accepted")]
    TooLarge(usize),
    /// It nests deeper than we read (B15).
    #[error("nested deeper than {BUNDLE_DEPTH_MAX} levels")]
    TooDeep,
    /// It is not a JSON object with the members of a bundle.
    #[error("not a bundle document: {0}")]
    Json(String),
    /// It has no `keys`, which is not the same as none (B1).
    #[error("\"keys\" is missing or not an array")]
    NoKeys,
    /// It has more keys than we read (B15).
    #[error("{0} keys, at most {BUNDLE_KEYS_MAX} are accepted")]
    TooManyKeys(usize),
    /// It has more usable authorities than a verifier should try (B15).
    #[error("{0} usable authorities, at most {BUNDLE_AUTHORITIES_MAX} are accepted")]
    TooManyAuthorities(usize),
    /// Its sequence number is not a whole number of 64 bits (B2).
    #[error("\"spiffe_sequence\" is not a whole number between 0 and 2^64-1")]
    Sequence,
    /// A root that its owner wants to publish cannot be an authority.
    #[error(transparent)]
    Authority(#[from] InvalidAuthority),
}

// Members that we do not know are ignored (B10); one that we know and that comes twice is an error.
#[derive(Deserialize)]
struct Document {
    #[serde(default, deserialize_with = "present")]
    keys: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    spiffe_sequence: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    spiffe_refresh_hint: Option<Value>,
}

#[derive(Serialize)]
struct Published<'a> {
    keys: Vec<PublishedKey<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: u64,
}

#[derive(Serialize)]
struct PublishedKey<'a> {
    kty: &'a str,
    r#use: &'a str,
    #[serde(flatten)]
    parameters: BTreeMap<&'a str, String>,
    x5c: [String; 1],
}

pub(super) fn parse(document: &[u8]) -> Result<Parsed, InvalidBundle> {
    if document.len() > BUNDLE_BYTES_MAX {
        return Err(InvalidBundle::TooLarge(document.len()));
    }
    if depth(document) > BUNDLE_DEPTH_MAX {
        return Err(InvalidBundle::TooDeep);
    }
    // serde would also take an array for a struct, member by member.
    if !document.trim_ascii_start().starts_with(b"{") {
        return Err(InvalidBundle::Json("not an object".to_owned()));
    }
    let document: Document =
        serde_json::from_slice(document).map_err(|e| InvalidBundle::Json(e.to_string()))?;
    let Some(Value::Array(keys)) = document.keys else {
        return Err(InvalidBundle::NoKeys);
    };
    if keys.len() > BUNDLE_KEYS_MAX {
        return Err(InvalidBundle::TooManyKeys(keys.len()));
    }
    let sequence = document.spiffe_sequence.map(|number| number.as_u64().ok_or(InvalidBundle::Sequence));
    // Zero and what is no number at all count as no hint (B3).
    let hint = document.spiffe_refresh_hint.and_then(|hint| hint.as_u64()).filter(|seconds| *seconds > 0);
    let (authorities, skipped) = admit_all(&keys);
    Ok(Parsed {
        sequence: sequence.transpose()?,
        refresh_hint: hint.map(Duration::from_secs),
        authorities,
        skipped,
    })
}

pub(super) fn write<'a>(
    sequence: Option<u64>,
    refresh_hint: Duration,
    authorities: impl Iterator<Item = &'a Authority>,
) -> Vec<u8> {
    let published = Published {
        keys: authorities.map(publish).collect(),
        spiffe_sequence: sequence,
        spiffe_refresh_hint: refresh_hint.as_secs(),
    };
    serde_json::to_vec(&published).expect("strings and numbers always serialise")
}

fn admit_all(keys: &[Value]) -> (Vec<Authority>, Vec<SkippedKey>) {
    let (mut authorities, mut skipped) = (Vec::new(), Vec::new());
    for (index, key) in keys.iter().enumerate() {
        match admit(key) {
            Ok(authority) => authorities.push(authority),
            Err(reason) => skipped.push(SkippedKey { index: Some(index), authority: None, reason }),
        }
    }
    (authorities, skipped)
}

fn admit(key: &Value) -> Result<Authority, SkipReason> {
    let key = key.as_object().ok_or(SkipReason::NotAKey)?;
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    if text("use") != Some("x509-svid") {
        return Err(SkipReason::OtherUse);
    }
    let kty =
        text("kty").filter(|kty| ["EC", "RSA", "OKP"].contains(kty)).ok_or(SkipReason::UnknownKeyType)?;
    // Only the first certificate counts (B6).
    let certificate = key.get("x5c").and_then(Value::as_array).and_then(|chain| chain.first());
    let certificate = certificate.and_then(Value::as_str).ok_or(SkipReason::NoCertificate)?;
    let certificate = STANDARD.decode(certificate).map_err(|_bad_base64| SkipReason::Encoding)?;
    let authority = Authority::admit(CertificateDer::from(certificate))?;
    // The certificate is what counts; parameters that contradict it are somebody's mistake or trick (B8).
    let (own_kty, parameters) = jwk(authority.key());
    let agrees = parameters.iter().all(|(name, value)| key.get(*name).is_none_or(|given| given == value));
    if kty != own_kty || !agrees {
        return Err(SkipReason::KeyMismatch);
    }
    Ok(authority)
}

fn publish(authority: &Authority) -> PublishedKey<'_> {
    let (kty, parameters) = jwk(authority.key());
    let x5c = [STANDARD.encode(authority.certificate())];
    PublishedKey { kty, r#use: "x509-svid", parameters, x5c }
}

fn jwk(key: &JwkKey) -> (&'static str, BTreeMap<&'static str, String>) {
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match key {
        JwkKey::Ec { curve, x, y } => {
            ("EC", BTreeMap::from([("crv", (*curve).to_owned()), ("x", number(x)), ("y", number(y))]))
        }
        JwkKey::Rsa { modulus, exponent } => {
            ("RSA", BTreeMap::from([("n", number(modulus)), ("e", number(exponent))]))
        }
        JwkKey::Ed25519 { x } => ("OKP", BTreeMap::from([("crv", "Ed25519".to_owned()), ("x", number(x))])),
    }
}

/// How deep the brackets of a text nest, strings left out; the text need not be JSON.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

// A member that is null is there, and of the wrong type.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
