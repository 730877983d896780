//! Single chains, each with one fault, judged without a handshake.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::bundle::{Authority, Bundle, InvalidAuthority};
use crate::testing::{TestAuthority, TestLeaf, date, later, now, td};
use crate::verify::leaf::Leaf;
use crate::verify::path::verify;
use crate::verify::{CERTIFICATE_BYTES_MAX, PeerSide, Rejection, TrustStore, verify_offered};

const ID: &str = "spiffe://a/workload";

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
const ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];

/// One fault, and the reason for which the leaf is refused; none means that it is accepted.
type Case = (&'static str, fn(&mut CertificateParams), Result<(), &'static str>);

/// In a tag: made of parts. A text in DER never is.
const CONSTRUCTED: u8 = 0x20;

const NOT_SVID: Result<(), &str> = Err("not_svid");

const LEAVES: &[Case] = &[
    ("plain", |_| (), Ok(())),
    ("X1 no name at all", |p| p.subject_alt_names.clear(), NOT_SVID),
    ("X1 only a DNS name", |p| p.subject_alt_names = vec![dns("a.example")], NOT_SVID),
    ("X1 two SPIFFE IDs", |p| p.subject_alt_names.push(uri("spiffe://a/other")), NOT_SVID),
    ("X1 the same ID twice", |p| p.subject_alt_names.push(uri(ID)), NOT_SVID),
    ("X1 another URI too", |p| p.subject_alt_names.push(uri("https://a/workload")), NOT_SVID),
    ("X1 another URI first", |p| p.subject_alt_names.insert(0, uri("https://a/workload")), NOT_SVID),
    ("X1 a second URI that is no text", |p| raw_names(p, &[(6, ID.as_bytes()), (6, b"\xff\xfe")]), NOT_SVID),
    (
        "X18 a URI that is marked as constructed",
        |p| raw_names(p, &[(6 | CONSTRUCTED, ID.as_bytes())]),
        NOT_SVID,
    ),
    ("X2 DNS names", |p| p.subject_alt_names.extend(["x", "y", "z"].map(dns)), Ok(())),
    ("X2 DNS name of another domain", |p| p.subject_alt_names.insert(0, dns("b")), Ok(())),
    ("X2 address and mail", |p| p.subject_alt_names.extend([address(), mail()]), Ok(())),
    ("X3 no path", |p| p.subject_alt_names = vec![uri("spiffe://a")], NOT_SVID),
    ("X3 empty path", |p| p.subject_alt_names = vec![uri("spiffe://a/")], NOT_SVID),
    ("X4 names not critical, subject empty", |p| raw_names(p, &[(6, ID.as_bytes())]), Ok(())),
    ("X4 names not critical, with subject", |p| p.distinguished_name.push(DnType::CommonName, "w"), Ok(())),
    ("X5 cA", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), NOT_SVID),
    ("X5 no basicConstraints", |p| p.is_ca = IsCa::NoCa, Ok(())),
    ("X5 malformed basicConstraints", |p| basic_constraints(p, &[&[0x01, 0x01, 0xff]]), NOT_SVID),
    ("X5 basicConstraints twice", |p| basic_constraints(p, &[&[0x30, 0], &[0x30, 0]]), NOT_SVID),
    ("X6 no keyUsage", |p| p.key_usages.clear(), NOT_SVID),
    ("X6 no digitalSignature", |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement], NOT_SVID),
    ("X6 keyCertSign", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), NOT_SVID),
    ("X6 cRLSign", |p| p.key_usages.push(KeyUsagePurpose::CrlSign), NOT_SVID),
    ("X6 keyUsage not critical", |p| key_usage(p, false), NOT_SVID),
    ("X6 keyUsage by hand", |p| key_usage(p, true), Ok(())),
    ("X6 more uses", |p| p.key_usages.push(KeyUsagePurpose::KeyAgreement), Ok(())),
    ("X7 no extended key usage", |p| p.extended_key_usages.clear(), Ok(())),
    ("X7 serverAuth only", |p| only_usage(p, ExtendedKeyUsagePurpose::ServerAuth), NOT_SVID),
    ("X7 clientAuth only", |p| only_usage(p, ExtendedKeyUsagePurpose::ClientAuth), NOT_SVID),
    ("X7 any usage only", |p| only_usage(p, ExtendedKeyUsagePurpose::Any), NOT_SVID),
    ("X7 further usages", |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning), Ok(())),
    ("X8 expired", |p| p.not_after = date(now()) - time::Duration::minutes(1), Err("expired")),
    ("X19 not valid yet", |p| p.not_before = date(now()) + time::Duration::hours(1), Err("not_yet_valid")),
    ("ID1 another scheme", |p| p.subject_alt_names = vec![uri("https://a/workload")], NOT_SVID),
    ("ID1 scheme in capitals", |p| p.subject_alt_names = vec![uri("SPIFFE://a/workload")], NOT_SVID),
    ("ID2 query", |p| p.subject_alt_names = vec![uri("spiffe://a/workload?x")], NOT_SVID),
    ("ID3 port", |p| p.subject_alt_names = vec![uri("spiffe://a:1/workload")], NOT_SVID),
    ("ID7 percent", |p| p.subject_alt_names = vec![uri("spiffe://a/work%6coad")], NOT_SVID),
    ("ID7 dot segment", |p| p.subject_alt_names = vec![uri("spiffe://a/x/../workload")], NOT_SVID),
    ("ID8 2048 bytes", |p| p.subject_alt_names = vec![uri(&long_id(2048))], Ok(())),
    ("ID8 2049 bytes", |p| p.subject_alt_names = vec![uri(&long_id(2049))], NOT_SVID),
    ("ID9 capitals", |p| p.subject_alt_names = vec![uri("spiffe://A/workload")], NOT_SVID),
    ("unknown domain", |p| p.subject_alt_names = vec![uri("spiffe://c/workload")], Err("unknown_td")),
];

#[test]
fn leaves_are_judged_by_the_table() {
    let root = TestAuthority::root("a");
    for (says, change, expected) in LEAVES {
        let leaf = root.leaf_with(&[ID], change);
        assert_eq!(judge(&[&root], &leaf.chain), *expected, "{says}");
    }
}

#[test]
fn x2_identity_is_the_uri_whatever_else_is_named() {
    let root = TestAuthority::root("a");
    let leaf = root.leaf_with(&[ID], |p| p.subject_alt_names.insert(0, dns("b.example")));
    assert_eq!(Leaf::parse(leaf.der()).unwrap().id().as_str(), ID);
}

#[test]
fn x13_authority_is_no_identity() {
    let root = TestAuthority::root_with("a", |p| p.subject_alt_names = vec![uri(ID)]);
    assert_eq!(judge(&[&root], std::slice::from_ref(&root.der)), NOT_SVID);
}

#[test]
fn x18_trailing_bytes_are_refused() {
    let root = TestAuthority::root("a");
    let mut der = root.leaf(ID).der().to_vec();
    assert_eq!(judge(&[&root], &[der.clone().into()]), Ok(()));
    der.push(0);
    assert_eq!(judge(&[&root], &[der.into()]), NOT_SVID);
    let mut der = root.der.to_vec();
    der.extend_from_slice(b"more");
    assert!(Authority::admit(der.into()).is_err());
}

#[test]
fn x8_altered_certificates_are_refused() {
    let root = TestAuthority::root("a");
    let mut der = root.leaf(ID).der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    assert_eq!(judge(&[&root], &[der.into()]), Err("unknown_issuer"));
}

/// What may stand between a leaf and its root.
#[test]
fn x9_intermediates_are_judged_by_the_table() {
    let cases: &[Case] = &[
        ("plain", |_| (), Ok(())),
        (
            "X9 no keyCertSign",
            |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            Err("unknown_issuer"),
        ),
        ("X9 no keyUsage", |p| p.key_usages.clear(), Err("unknown_issuer")),
        ("X9 cA=false", |p| p.is_ca = IsCa::ExplicitNoCa, Err("unknown_issuer")),
        ("X9 no basicConstraints", |p| p.is_ca = IsCa::NoCa, Err("unknown_issuer")),
        ("X13 ID of its domain", |p| p.subject_alt_names = vec![uri("spiffe://a")], Ok(())),
        ("X13 ID of a workload", |p| p.subject_alt_names = vec![uri(ID)], Err("unknown_issuer")),
        ("X14 ID with a slash", |p| p.subject_alt_names = vec![uri("spiffe://a/")], Ok(())),
        ("X8 expired", |p| p.not_after = date(now()) - time::Duration::minutes(1), Err("expired")),
        ("X12 URI constraint", |p| name_constraint(p, 6, b"a"), Err("invalid_path")),
    ];
    let root = TestAuthority::root("a");
    for (says, change, expected) in cases {
        let intermediate = root.intermediate_with(change);
        let leaf = intermediate.leaf(ID).through(&intermediate);
        assert_eq!(judge(&[&root], &leaf.chain), *expected, "{says}");
    }
}

#[test]
fn x8_workload_cannot_sign_another() {
    let root = TestAuthority::root("a");
    let workload = root.intermediate_with(|p| {
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.subject_alt_names = vec![uri("spiffe://a/thief")];
    });
    assert_eq!(judge(&[&root], &workload.leaf(ID).through(&workload).chain), Err("unknown_issuer"));
}

#[test]
fn x10_roots_outside_their_validity_vouch_for_nobody() {
    let hour = time::Duration::hours(1);
    let over = TestAuthority::root_with("a", |p| p.not_after = date(now()) - hour);
    let early = TestAuthority::root_with("a", |p| p.not_before = date(now()) + hour);
    let good = TestAuthority::root("a");
    assert_eq!(judge(&[&early], &early.leaf(ID).chain), Err("authority_expired"));
    assert_eq!(judge(&[&over], &over.leaf(ID).chain), Err("authority_expired"));
    assert_eq!(judge(&[&over, &early, &good], &over.leaf(ID).chain), Err("unknown_issuer"));
    assert_eq!(judge(&[&over, &early, &good], &good.leaf(ID).chain), Ok(()));
}

#[test]
fn x10_root_that_expires_while_it_is_held_is_refused() {
    let root = TestAuthority::root_with("a", |p| p.not_after = date(now()) + time::Duration::minutes(10));
    let store = TrustStore::new();
    store.put(root.bundle("a", 1)).unwrap();
    let leaf = root.leaf(ID);
    let reason = |time: UnixTime| {
        verify(&store.load(), &leaf.chain, PeerSide::Client, time).map(|_| ()).map_err(|e| e.reason())
    };
    assert_eq!(reason(later(now(), 599)), Ok(()));
    assert_eq!(reason(later(now(), 660)), Err("authority_expired"));
}

#[test]
fn roots_are_admitted_by_the_table() {
    type Root = (&'static str, fn(&mut CertificateParams), Option<InvalidAuthority>);
    let cases: &[Root] = &[
        ("plain", |_| (), None),
        ("X10 cA=false", |p| p.is_ca = IsCa::ExplicitNoCa, Some(InvalidAuthority::NotCa)),
        ("X10 no basicConstraints", |p| p.is_ca = IsCa::NoCa, Some(InvalidAuthority::NotCa)),
        ("X13 no keyUsage", |p| p.key_usages.clear(), Some(InvalidAuthority::NoKeyCertSign)),
        (
            "X13 no keyCertSign",
            |p| p.key_usages = vec![KeyUsagePurpose::CrlSign],
            Some(InvalidAuthority::NoKeyCertSign),
        ),
        (
            "B16 no subject",
            |p| p.distinguished_name = Default::default(),
            Some(InvalidAuthority::EmptySubject),
        ),
        ("X12 URI constraint", |p| name_constraint(p, 6, b"a"), Some(InvalidAuthority::UriConstraints)),
        ("X12 DNS constraint", |p| p.name_constraints = Some(dns_constraint()), None),
        ("X14 trailing slash", |p| p.subject_alt_names = vec![uri("spiffe://a/")], None),
        ("X14 path", |p| p.subject_alt_names = vec![uri(ID)], None),
        ("X14 no name", |p| p.subject_alt_names.clear(), None),
    ];
    for (says, change, expected) in cases {
        let root = TestAuthority::root_with("a", change);
        assert_eq!(Authority::admit(root.der.clone()).err(), *expected, "{says}");
        if expected.is_none() {
            assert_eq!(judge(&[&root], &root.leaf(ID).chain), Ok(()), "{says}");
        }
    }
}

#[test]
fn x11_path_length_of_the_root_is_kept() {
    let short =
        |length| TestAuthority::root_with("a", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(length)));
    for (length, intermediates, expected) in [
        (0, 0, Ok(())),
        (0, 1, Err("invalid_path")),
        (1, 1, Ok(())),
        (1, 2, Err("invalid_path")),
        (2, 2, Ok(())),
    ] {
        let root = short(length);
        let chain = chain_through(&root, intermediates).chain;
        assert_eq!(judge(&[&root], &chain), expected, "pathLen {length}, {intermediates} intermediates");
    }
}

#[test]
fn x16_empty_bundle_revokes_everybody() {
    let store = TrustStore::new();
    let empty = Bundle::parse(td("a"), br#"{"keys":[],"spiffe_sequence":2}"#, now()).unwrap().bundle;
    store.put(empty).unwrap();
    let root = TestAuthority::root("a");
    let rejection = verify(&store.load(), &root.leaf(ID).chain, PeerSide::Client, now()).unwrap_err();
    assert_eq!(rejection, Rejection::UnknownIssuer(td("a")));
}

#[test]
fn x17_chains_are_bounded() {
    let root = TestAuthority::root("a");
    assert_eq!(judge(&[&root], &chain_through(&root, 5).chain), Ok(()));
    assert_eq!(judge(&[&root], &chain_through(&root, 6).chain), Err("chain_too_large"));
    assert_eq!(judge(&[&root], &chain_through(&root, 20).chain), Err("chain_too_large"));
    let leaf = root.leaf(ID);
    let padded = |sizes: &[usize]| {
        let padding = sizes.iter().map(|size| CertificateDer::from(vec![0; *size]));
        leaf.chain.iter().cloned().chain(padding).collect::<Vec<_>>()
    };
    let most = CERTIFICATE_BYTES_MAX;
    assert_eq!(judge(&[&root], &padded(&[most, most, most])), Ok(()));
    assert_eq!(judge(&[&root], &padded(&[most + 1])), Err("chain_too_large"));
    assert_eq!(judge(&[&root], &padded(&[most; 4])), Err("chain_too_large"));
    let large = root.leaf_with(&[ID], |p| {
        p.subject_alt_names.extend((0..2000).map(|i| dns(&format!("{i}.example"))));
    });
    assert_eq!(judge(&[&root], &large.chain), Err("chain_too_large"));
    assert_eq!(judge(&[&root], &[]), Err("no_certificate"));
}

#[test]
fn v9_roots_of_one_name_are_told_apart() {
    let roots = [TestAuthority::root("a"), TestAuthority::root("a")];
    for root in &roots {
        assert_eq!(judge(&roots.each_ref(), &root.leaf(ID).chain), Ok(()));
    }
}

#[test]
fn v6_reasons_are_few_and_each_its_own() {
    let id = || ID.try_into().unwrap();
    let all = [
        Rejection::NoCertificate,
        Rejection::Bounds(crate::verify::ChainBounds::Bytes(1)),
        Rejection::NotSvid(crate::verify::NotSvid::NoUri),
        Rejection::UnknownTrustDomain(td("a")),
        Rejection::UnknownIssuer(td("a")),
        Rejection::Expired(id()),
        Rejection::NotYetValid(id()),
        Rejection::AuthorityExpired(td("a")),
        Rejection::Path { id: id(), reason: String::new() },
        Rejection::Unexpected(id()),
        Rejection::NotPinned,
    ];
    let mut reasons: Vec<_> = all.iter().map(Rejection::reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), all.len());
    assert!(reasons.iter().all(|reason| reason.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')));
}

#[test]
fn offered_bundle_must_be_of_the_leafs_domain() {
    let (a, b) = (TestAuthority::root("a"), TestAuthority::root("b"));
    let leaf = a.leaf(ID);
    assert!(verify_offered(&leaf.chain, &a.bundle("a", 1), now()).is_ok());
    let wrong = verify_offered(&leaf.chain, &b.bundle("b", 1), now());
    assert_eq!(wrong, Err(Rejection::UnknownTrustDomain(td("a"))));
    assert_eq!(verify_offered(&[], &a.bundle("a", 1), now()), Err(Rejection::NoCertificate));
}

fn arbitrary_mutation(
    der: &CertificateDer<'_>,
    changes: &[(prop::sample::Index, u8)],
    cut: usize,
) -> Vec<u8> {
    let mut der = der.to_vec();
    for (place, byte) in changes {
        let place = place.index(der.len());
        der[place] = *byte;
    }
    der.truncate(der.len() - cut.min(der.len()));
    der
}

proptest! {
    #[test]
    fn v7_random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let der = CertificateDer::from(bytes);
        prop_assert!(Leaf::parse(&der).is_err());
        prop_assert!(Authority::admit(der).is_err());
    }

    #[test]
    fn v7_altered_certificates_never_panic_and_never_pass(
        changes in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 0..6),
        cut in 0usize..4,
    ) {
        let root = TestAuthority::root("a");
        let leaf = root.leaf(ID);
        let altered = CertificateDer::from(arbitrary_mutation(leaf.der(), &changes, cut));
        let store = TrustStore::new();
        store.put(root.bundle("a", 1)).unwrap();
        for side in [PeerSide::Client, PeerSide::Server] {
            let passes = |chain: &[_]| verify(&store.load(), chain, side, now()).is_ok();
            prop_assert_eq!(passes(std::slice::from_ref(&altered)), altered == *leaf.der());
            prop_assert!(passes(&[leaf.der().clone(), altered.clone()]));
        }
        let _ = Authority::admit(arbitrary_mutation(&root.der, &changes, cut).into());
    }
}

/// Both sides must come to the same verdict.
#[track_caller]
fn judge(roots: &[&TestAuthority], chain: &[CertificateDer<'_>]) -> Result<(), &'static str> {
    let roots: Vec<_> = roots.iter().map(|root| root.der.clone()).collect();
    let store = TrustStore::new();
    store
        .put(Bundle::publish(td("a"), &roots, 1, std::time::Duration::from_secs(60), now()).unwrap())
        .unwrap();
    let [client, server] = [PeerSide::Client, PeerSide::Server].map(|side| {
        verify(&store.load(), chain, side, now()).map(|_| ()).map_err(|rejection| rejection.reason())
    });
    assert_eq!(client, server);
    client
}

fn chain_through(root: &TestAuthority, intermediates: usize) -> TestLeaf {
    let mut authorities: Vec<TestAuthority> = Vec::new();
    for i in 0..intermediates {
        let above = authorities.last().unwrap_or(root);
        let name = format!("intermediate {i}");
        let below = above.intermediate_with(|p| p.distinguished_name.push(DnType::CommonName, name));
        authorities.push(below);
    }
    let leaf = authorities.last().unwrap_or(root).leaf(ID);
    authorities.iter().rev().fold(leaf, |leaf, authority| leaf.through(authority))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn address() -> SanType {
    SanType::IpAddress(Ipv4Addr::LOCALHOST.into())
}

fn mail() -> SanType {
    SanType::Rfc822Name("a@example.org".try_into().unwrap())
}

fn long_id(length: usize) -> String {
    format!("spiffe://a/{}", "x".repeat(length - "spiffe://a/".len()))
}

fn only_usage(params: &mut CertificateParams, usage: ExtendedKeyUsagePurpose) {
    params.extended_key_usages = vec![usage];
}

/// BIT STRING { digitalSignature }.
fn key_usage(params: &mut CertificateParams, critical: bool) {
    params.key_usages.clear();
    extend(params, KEY_USAGE, critical, vec![0x03, 0x02, 0x07, 0x80]);
}

fn basic_constraints(params: &mut CertificateParams, values: &[&[u8]]) {
    params.is_ca = IsCa::NoCa;
    for value in values {
        extend(params, BASIC_CONSTRAINTS, true, value.to_vec());
    }
}

/// subjectAltName with names of any kind and content, not critical.
fn raw_names(params: &mut CertificateParams, names: &[(u8, &[u8])]) {
    params.subject_alt_names.clear();
    let names: Vec<u8> = names.iter().flat_map(|(tag, value)| tlv(0x80 | tag, value)).collect();
    extend(params, ALTERNATIVE_NAME, false, tlv(0x30, &names));
}

/// NameConstraints { permittedSubtrees [0] { GeneralSubtree { base } } }.
fn name_constraint(params: &mut CertificateParams, tag: u8, base: &[u8]) {
    let subtree = tlv(0x30, &tlv(0x80 | tag, base));
    extend(params, NAME_CONSTRAINTS, true, tlv(0x30, &tlv(0xa0, &subtree)));
}

fn dns_constraint() -> NameConstraints {
    let permitted_subtrees = vec![GeneralSubtree::DnsName("example.org".to_owned())];
    NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() }
}

fn extend(params: &mut CertificateParams, oid: &[u64], critical: bool, value: Vec<u8>) {
    let mut extension = CustomExtension::from_oid_content(oid, value);
    extension.set_criticality(critical);
    params.custom_extensions.push(extension);
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 0x80).expect("short form");
    [&[tag, length], value].concat()
}
