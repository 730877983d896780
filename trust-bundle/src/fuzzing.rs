//! What libFuzzer calls in this crate (`tests/fuzz/run`); in no ordinary build.
//!
//! Each target is given bytes of a stranger. It must not panic, and what it says of them must hold:
//! what is read is written back the same, and a second reader sees the same identity.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::PublicKeyData as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use webpki::EndEntityCert;

use crate::bundle::{Authority, BUNDLE_AUTHORITIES_MAX, Bundle};
use crate::ca::public_key;
use crate::spiffe_id::{SPIFFE_ID_LENGTH_MAX, SpiffeId, TRUST_DOMAIN_LENGTH_MAX, TrustDomain};
use crate::token::{JoinToken, TOKEN_LENGTH_MAX};
use crate::verify::{Leaf, PeerSide, verify_under};

/// A name, as of its folder in the corpus, and what takes its inputs.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("spiffe_id", spiffe_id),
    ("certificates", certificates),
    ("bundle", bundle),
    ("csr", csr),
    ("token", token),
];

/// The certificates of the corpus are valid then: 2026-11-22.
const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_795_350_000));

fn spiffe_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = SpiffeId::try_from(text);
    assert_eq!(read.is_ok(), is_spiffe_id(text), "{text:?}: {read:?}");
    let Ok(id) = read else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()).as_ref(), Ok(&id));
    assert_eq!(TrustDomain::try_from(id.trust_domain().as_str()), Ok(id.trust_domain()));
}

/// The grammar of the specification, read byte by byte.
fn is_spiffe_id(text: &str) -> bool {
    let Some(rest) = text.as_bytes().strip_prefix(b"spiffe://") else { return false };
    let mut parts = rest.split(|byte| *byte == b'/');
    let domain = parts.next().unwrap_or_default();
    let in_domain = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let in_path = |b: &u8| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    text.len() <= SPIFFE_ID_LENGTH_MAX
        && (1..=TRUST_DOMAIN_LENGTH_MAX).contains(&domain.len())
        && domain.iter().all(in_domain)
        && parts.all(|part| !matches!(part, b"" | b"." | b"..") && part.iter().all(in_path))
}

/// A chain, leaf first, whose last certificate is the only authority; each behind its length.
fn certificates(bytes: &[u8]) {
    let mut chain = Vec::new();
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        chain.push(CertificateDer::from(&behind[..length]));
        rest = &behind[length..];
    }
    let Some(root) = chain.pop().map(CertificateDer::into_owned) else { return };
    let authority = Authority::admit(root);
    let leaf = chain.first().map(Leaf::parse);
    if let (Some(Ok(leaf)), Some(first)) = (&leaf, chain.first()) {
        is_read_alike(leaf, first);
    }
    let Ok(authority) = authority else { return };
    for side in [PeerSide::Client, PeerSide::Server] {
        let Ok(verified) = verify_under(std::slice::from_ref(&authority), &chain, side, NOW) else {
            continue;
        };
        let leaf =
            leaf.as_ref().and_then(|leaf| leaf.as_ref().ok()).expect("who is verified has an identity");
        assert_eq!((&verified.id, verified.authority), (leaf.id(), authority.id()));
        assert!(leaf.not_before() <= NOW && NOW <= leaf.not_after() && authority.is_valid_at(NOW));
    }
}

/// Two readers of one certificate see one identity, or the second one none (X1, X18).
fn is_read_alike(leaf: &Leaf, der: &CertificateDer<'_>) {
    let Ok(second) = EndEntityCert::try_from(der) else { return };
    let uris: Vec<_> = second.valid_uri_names().collect();
    assert_eq!(uris, [leaf.id().as_str()]);
    let key = second.subject_public_key_info();
    assert!(key.ends_with(leaf.public_key()), "two keys in one certificate");
}

fn bundle(bytes: &[u8]) {
    let domain = || TrustDomain::try_from("cloud.example").expect("a trust domain");
    let Ok(parsed) = Bundle::parse(domain(), bytes, NOW) else { return };
    let bundle = parsed.bundle;
    assert!(bundle.authorities().len() <= BUNDLE_AUTHORITIES_MAX);
    assert!(bundle.authorities().iter().all(|authority| bundle.knows(&authority.id())));
    let written = bundle.to_json();
    let again = Bundle::parse(domain(), &written, NOW).expect("what we write is a bundle").bundle;
    assert_eq!((again.digest(), again.to_json()), (bundle.digest(), written));
    assert_eq!((again.sequence(), again.refresh_hint()), (bundle.sequence(), bundle.refresh_hint()));
}

/// rcgen reads the same key in a request whose sender has proven to have it.
fn csr(bytes: &[u8]) {
    let Ok(key) = public_key(bytes) else { return };
    let second = rcgen::CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(bytes));
    // It refuses a request for what it cannot put into a certificate, which we do not read.
    if let Ok(second) = second {
        assert_eq!(second.public_key.der_bytes(), key.der_bytes());
    }
}

/// A text as it was pasted, or the JSON within one: nobody finds his way through base64.
fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let wrapped = format!("isthmus1.{}", URL_SAFE_NO_PAD.encode(bytes));
    let text = if bytes.starts_with(b"{") { wrapped.as_str() } else { text };
    match JoinToken::open(text) {
        Ok(token) => {
            let written = token.text();
            assert!(written.len() <= TOKEN_LENGTH_MAX, "{} characters", written.len());
            let again = JoinToken::open(&written).expect("what we write is a token");
            assert_eq!(*again.text(), *written);
            assert_eq!(
                (again.id(), again.join_id(), again.pins()),
                (token.id(), token.join_id(), token.pins())
            );
            assert!(token.join_id().trust_domain() == *token.trust_domain());
        }
        // J4: it may be nearly a secret.
        Err(error) => {
            let said = error.to_string();
            let secret = text.trim().strip_prefix("isthmus1.").unwrap_or_default();
            assert!(
                secret.len() < 16 || !said.contains(&secret.chars().take(8).collect::<String>()),
                "{said}"
            );
        }
    }
}

#[cfg(test)]
#[path = "../../tests/fuzz/replay.rs"]
mod replay;

#[test]
fn what_was_found_once_stays_mended() {
    replay::corpus(TARGETS);
}
