//! The rules of bundle documents (B*), and of what may stand in them (X10-X13).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;
use crate::testing::{TestAuthority, date, later, now, td};

/// A root that stays the same, so that output can be compared byte by byte. Made with openssl, valid
/// until 2126, as are the others below.
const P256: &[u8] = include_bytes!("testdata/p256.pem");

fn certificate(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

fn parse(document: &Value) -> Result<ParsedBundle, InvalidBundle> {
    Bundle::parse(td("example.org"), document.to_string().as_bytes(), now())
}

fn key(root: &CertificateDer<'_>) -> Value {
    json!({"use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(root)]})
}

fn root() -> CertificateDer<'static> {
    TestAuthority::root("example.org").der
}

/// A document with this one key in place of a good one.
fn skipped(key: Value) -> SkipReason {
    let parsed = parse(&json!({"keys": [self::key(&root()), key]})).unwrap();
    assert_eq!(parsed.bundle.authorities().len(), 1, "{:?}", parsed.skipped);
    let [skipped] = &parsed.skipped[..] else { panic!("{:?}", parsed.skipped) };
    assert_eq!(skipped.index, Some(1));
    skipped.reason.clone()
}

fn with(mut key: Value, member: &str, value: Value) -> Value {
    key[member] = value;
    key
}

fn without(mut key: Value, member: &str) -> Value {
    key.as_object_mut().unwrap().remove(member);
    key
}

#[test]
fn b1_keys_may_be_empty_but_not_missing() {
    for document in [json!({}), json!({"keys": null}), json!({"keys": {}}), json!({"keys": "x"})] {
        assert_eq!(parse(&document).unwrap_err(), InvalidBundle::NoKeys, "{document}");
    }
    let revoked = parse(&json!({"keys": []})).unwrap();
    assert!(revoked.bundle.authorities().is_empty() && revoked.skipped.is_empty());
}

#[test]
fn b2_sequence_is_a_whole_number_of_64_bits() {
    let parse_sequence = |text: &str| {
        let document = format!(r#"{{"keys":[],"spiffe_sequence":{text}}}"#);
        Bundle::parse(td("a"), document.as_bytes(), now()).map(|parsed| parsed.bundle.sequence())
    };
    for (text, number) in [("0", 0), ("1", 1), ("18446744073709551615", u64::MAX)] {
        assert_eq!(parse_sequence(text).unwrap(), Some(number), "{text}");
    }
    for text in ["1.0", "1.5", "-1", "\"1\"", "null", "18446744073709551616", "1e3", "[]", "true"] {
        assert_eq!(parse_sequence(text).unwrap_err(), InvalidBundle::Sequence, "{text}");
    }
    assert_eq!(parse(&json!({"keys": []})).unwrap().bundle.sequence(), None);
}

#[test]
fn b2_successors_are_judged_by_the_table() {
    let (one, other) = (root(), root());
    let bundle = |root: &CertificateDer<'_>, sequence: Option<u64>| {
        let mut document = json!({"keys": [key(root)]});
        if let Some(sequence) = sequence {
            document["spiffe_sequence"] = sequence.into();
        }
        parse(&document).unwrap().bundle
    };
    type Verdict = Result<Succession, &'static str>;
    let cases: [(Option<u64>, Option<u64>, bool, Verdict); 9] = [
        (Some(1), Some(2), true, Ok(Succession::Newer)),
        (Some(1), Some(2), false, Ok(Succession::Newer)),
        (Some(1), Some(1), true, Ok(Succession::Same)),
        (Some(1), Some(1), false, Err("equivocation")),
        (Some(2), Some(1), true, Err("rollback")),
        (Some(2), None, false, Err("rollback")),
        (None, None, true, Ok(Succession::Same)),
        (None, None, false, Ok(Succession::Newer)),
        (None, Some(1), false, Ok(Succession::Newer)),
    ];
    for (held, offered, same, expected) in cases {
        let (held, offered) = (bundle(&one, held), bundle(if same { &one } else { &other }, offered));
        let verdict = offered.succeeds(&held).map_err(|conflict| match conflict {
            BundleConflict::Rollback { .. } => "rollback",
            BundleConflict::Equivocation { .. } => "equivocation",
            BundleConflict::TrustDomain { .. } => "trust domain",
        });
        assert_eq!(verdict, expected, "{:?} after {:?}", offered.sequence(), held.sequence());
    }
}

#[test]
fn b2_expiry_is_no_change_of_content() {
    let hour = time::Duration::hours(1);
    let short = TestAuthority::root_with("example.org", |p| p.not_after = date(now()) + hour).der;
    let document = json!({"keys": [key(&short), key(&root())], "spiffe_sequence": 1}).to_string();
    let at = |time| Bundle::parse(td("example.org"), document.as_bytes(), time).unwrap();
    let (before, after) = (at(now()), at(later(now(), 2 * 3600)));
    assert_eq!((before.bundle.authorities().len(), before.skipped.len()), (2, 0));
    assert_eq!((after.bundle.authorities().len(), after.skipped.len()), (1, 1));
    assert_eq!(after.skipped[0].reason, SkipReason::Expired);
    assert_eq!(after.bundle.succeeds(&before.bundle), Ok(Succession::Same));
    // Also when what was read is written down and read again.
    let reread = Bundle::parse(td("example.org"), &after.bundle.to_json(), now()).unwrap().bundle;
    assert_eq!(reread.succeeds(&before.bundle), Ok(Succession::Same));
    assert_eq!(reread.authorities().len(), 2);
}

#[test]
fn b3_refresh_hint_is_clamped() {
    let hint = |value: Value| {
        let parsed = parse(&json!({"keys": [], "spiffe_refresh_hint": value})).unwrap();
        parsed.bundle.refresh_hint().as_secs()
    };
    let cases = [
        (json!(60), 60),
        (json!(1), 15),
        (json!(1_000_000), 86_400),
        (json!(0), 300),
        (json!(-5), 300),
        (json!("60"), 300),
        (json!(null), 300),
        (json!(1.5), 300),
    ];
    for (value, seconds) in cases {
        assert_eq!(hint(value.clone()), seconds, "{value}");
    }
    assert_eq!(parse(&json!({"keys": []})).unwrap().bundle.refresh_hint(), REFRESH_HINT_DEFAULT);
}

#[test]
fn b4_unknown_keys_are_left_out() {
    assert_eq!(skipped(with(key(&root()), "use", json!("something"))), SkipReason::OtherUse);
    assert_eq!(skipped(with(key(&root()), "use", json!(7))), SkipReason::OtherUse);
    assert_eq!(skipped(without(key(&root()), "use")), SkipReason::OtherUse);
    assert_eq!(skipped(with(key(&root()), "kty", json!("PQ"))), SkipReason::UnknownKeyType);
    assert_eq!(skipped(without(key(&root()), "kty")), SkipReason::UnknownKeyType);
    assert_eq!(skipped(json!("not an object")), SkipReason::NotAKey);
    assert_eq!(skipped(json!(null)), SkipReason::NotAKey);
}

#[test]
fn b6_first_certificate_counts() {
    let root = root();
    assert_eq!(skipped(without(key(&root), "x5c")), SkipReason::NoCertificate);
    for none in [json!([]), json!("x"), json!([7]), json!(null)] {
        assert_eq!(skipped(with(key(&root), "x5c", none.clone())), SkipReason::NoCertificate, "{none}");
    }
    let two = with(key(&root), "x5c", json!([STANDARD.encode(&root), "not even base64"]));
    let parsed = parse(&json!({"keys": [two]})).unwrap();
    assert_eq!(parsed.bundle.authorities()[0].certificate(), &root);
}

#[test]
fn b7_certificates_are_in_standard_base64() {
    // A certificate whose two encodings differ.
    let root = std::iter::repeat_with(root).find(|root| STANDARD.encode(root).contains(['+', '/'])).unwrap();
    assert_eq!(
        skipped(with(key(&root), "x5c", json!([URL_SAFE_NO_PAD.encode(&root)]))),
        SkipReason::Encoding
    );
}

#[test]
fn b8_parameters_that_contradict_the_certificate_are_refused() {
    let published = |root: &CertificateDer<'static>| {
        let bundle =
            Bundle::publish(td("a"), std::slice::from_ref(root), 1, REFRESH_HINT_DEFAULT, now()).unwrap();
        let document: Value = serde_json::from_slice(&bundle.to_json()).unwrap();
        document["keys"][0].clone()
    };
    let (mine, other) = (published(&root()), published(&root()));
    assert_eq!(skipped(with(mine.clone(), "x", other["x"].clone())), SkipReason::KeyMismatch);
    assert_eq!(skipped(with(mine.clone(), "crv", json!("P-384"))), SkipReason::KeyMismatch);
    assert_eq!(skipped(with(mine.clone(), "kty", json!("RSA"))), SkipReason::KeyMismatch);
    assert_eq!(skipped(with(mine, "y", json!(7))), SkipReason::KeyMismatch);
}

#[test]
fn b9_keys_for_other_uses_do_not_disturb() {
    let jwt = json!({"use": "jwt-svid", "kty": "EC", "kid": "1", "crv": "P-256", "x": "AA", "y": "AA"});
    let wit = with(jwt.clone(), "use", json!("wit-svid"));
    let parsed = parse(&json!({"keys": [jwt, key(&root()), wit]})).unwrap();
    assert_eq!(parsed.bundle.authorities().len(), 1);
    assert!(parsed.skipped.iter().all(|skipped| skipped.reason == SkipReason::OtherUse));
}

#[test]
fn b10_further_members_are_ignored() {
    let document = json!({"keys": [key(&root())], "x_vendor": {"a": [1, 2]}, "spiffe_sequence": 3});
    assert_eq!(parse(&document).unwrap().bundle.sequence(), Some(3));
}

#[test]
fn b11_bundles_of_two_domains_have_no_order() {
    let bundle = |name: &str| Bundle::parse(td(name), br#"{"keys":[]}"#, now()).unwrap().bundle;
    let conflict = bundle("b").succeeds(&bundle("a"));
    assert_eq!(conflict, Err(BundleConflict::TrustDomain { held: td("a"), offered: td("b") }));
}

#[test]
fn b15_documents_are_bounded() {
    let large = vec![b' '; BUNDLE_BYTES_MAX + 1];
    let error = |document: &[u8]| Bundle::parse(td("a"), document, now()).map(|_| ()).unwrap_err();
    assert_eq!(error(&large), InvalidBundle::TooLarge(BUNDLE_BYTES_MAX + 1));
    let other = json!({"use": "jwt-svid", "kty": "EC"});
    assert!(parse(&json!({"keys": vec![other.clone(); 16]})).is_ok());
    assert_eq!(parse(&json!({"keys": vec![other; 17]})).unwrap_err(), InvalidBundle::TooManyKeys(17));
    let roots = |count| (0..count).map(|_| key(&root())).collect::<Vec<_>>();
    assert_eq!(parse(&json!({"keys": roots(8)})).unwrap().bundle.authorities().len(), 8);
    assert_eq!(parse(&json!({"keys": roots(9)})).unwrap_err(), InvalidBundle::TooManyAuthorities(9));
    let nested = |depth| format!(r#"{{"keys":[],"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(Bundle::parse(td("a"), nested(7).as_bytes(), now()).is_ok());
    assert_eq!(error(nested(8).as_bytes()), InvalidBundle::TooDeep);
    assert_eq!(error("[".repeat(200_000).as_bytes()), InvalidBundle::TooDeep);
    // Brackets in a string are no depth, not even after an escaped quote.
    let quoted = format!(r#"{{"keys":[],"x":"\"{}"}}"#, "[".repeat(50));
    assert!(Bundle::parse(td("a"), quoted.as_bytes(), now()).is_ok());
}

#[test]
fn malformed_documents_are_refused() {
    for document in
        ["", "x", "[]", "[[]]", "7", "{\"keys\":[]", r#"{"keys":[],"keys":[]}"#, "{\"keys\":[]} more"]
    {
        let parsed = Bundle::parse(td("a"), document.as_bytes(), now());
        assert!(matches!(parsed, Err(InvalidBundle::Json(_))), "{document}");
    }
}

#[test]
fn b16_algorithms_are_judged_by_the_table() {
    let cases: [(&[u8], bool); 6] = [
        (P256, true),
        (include_bytes!("testdata/p384.pem"), true),
        (include_bytes!("testdata/p521.pem"), false),
        (include_bytes!("testdata/ed25519.pem"), true),
        (include_bytes!("testdata/rsa2048.pem"), true),
        (include_bytes!("testdata/rsa1024.pem"), false),
    ];
    for (pem, admitted) in cases {
        let admission = Authority::admit(certificate(pem));
        assert_eq!(admission.is_ok(), admitted, "{}", String::from_utf8_lossy(pem));
        if !admitted {
            assert_eq!(admission.unwrap_err(), InvalidAuthority::Algorithm);
            continue;
        }
        // What we publish for it reads back as the same content.
        let roots = [certificate(pem)];
        let bundle = Bundle::publish(td("a"), &roots, 1, REFRESH_HINT_DEFAULT, now()).unwrap();
        let again = Bundle::parse(td("a"), &bundle.to_json(), now()).unwrap();
        assert_eq!((again.bundle.digest(), again.skipped.len()), (bundle.digest(), 0));
    }
}

#[test]
fn b16_good_roots_stay_beside_bad_ones() {
    let hour = time::Duration::hours(1);
    let expired = TestAuthority::root_with("example.org", |p| p.not_after = date(now()) - hour).der;
    let no_ca = TestAuthority::root_with("example.org", |p| p.is_ca = rcgen::IsCa::ExplicitNoCa).der;
    let parsed = parse(&json!({"keys": [key(&expired), key(&root()), key(&no_ca), key(&root())]})).unwrap();
    assert_eq!(parsed.bundle.authorities().len(), 2);
    let reasons: Vec<_> = parsed.skipped.iter().map(|skipped| skipped.reason.clone()).collect();
    assert_eq!(reasons, [SkipReason::Authority(InvalidAuthority::NotCa), SkipReason::Expired]);
}

#[test]
fn own_bundle_with_an_unusable_root_is_not_published() {
    let no_ca = TestAuthority::root_with("a", |p| p.is_ca = rcgen::IsCa::ExplicitNoCa).der;
    let published = Bundle::publish(td("a"), &[root(), no_ca], 1, REFRESH_HINT_DEFAULT, now());
    assert_eq!(published.unwrap_err(), InvalidBundle::Authority(InvalidAuthority::NotCa));
}

/// B5: no kid, one certificate. B7: standard base64 in x5c, base64url in the parameters.
#[test]
fn published_document_is_exactly_this() {
    let root = certificate(P256);
    let bundle =
        Bundle::publish(td("a"), std::slice::from_ref(&root), 7, Duration::from_secs(60), now()).unwrap();
    let x5c = STANDARD.encode(&root);
    let expected = concat!(
        r#"{"keys":[{"kty":"EC","use":"x509-svid","crv":"P-256","#,
        r#""x":"@X","y":"@Y","x5c":["@CERTIFICATE"]}],"#,
        r#""spiffe_sequence":7,"spiffe_refresh_hint":60}"#
    );
    let expected = expected.replace("@CERTIFICATE", &x5c).replace("@X", P256_X).replace("@Y", P256_Y);
    assert_eq!(String::from_utf8(bundle.to_json()).unwrap(), expected);
    assert_eq!(bundle.authorities()[0].id().to_string(), P256_ID);
}

// As `openssl x509 -pubkey` and `openssl dgst -sha256` print them.
const P256_X: &str = "9TDKAoR9i9JVy_MlEMKqmQZLh3ii3dw6aaftH2rQars";
const P256_Y: &str = "iI-ekw7v5PB7cNW5xgnpinIN-Zv1cVVSwPJXVlKq-pc";
const P256_ID: &str = "da56d114b5c5625cb8f6398da1bf12fae78fc55080996273bbc024e5224df500";

#[test]
fn b17_equal_content_gives_equal_bytes() {
    let roots = [root(), root(), root()];
    let publish = |order: [usize; 3]| {
        let roots = order.map(|i| roots[i].clone());
        Bundle::publish(td("a"), &roots, 1, REFRESH_HINT_DEFAULT, now()).unwrap()
    };
    let first = publish([0, 1, 2]);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(publish(order).to_json(), first.to_json());
        assert_eq!(publish(order).digest(), first.digest());
    }
    assert_eq!(first.digest(), crate::digest::sha256(&first.to_json()));
    let doubled = [roots[0].clone(), roots[0].clone()];
    let doubled = Bundle::publish(td("a"), &doubled, 1, REFRESH_HINT_DEFAULT, now()).unwrap();
    assert_eq!(doubled.authorities().len(), 1);
    let next = Bundle::publish(td("a"), &roots, 2, REFRESH_HINT_DEFAULT, now()).unwrap();
    assert_ne!(next.digest(), first.digest());
}

#[test]
fn authority_id_is_hex_and_reads_back() {
    let id = AuthorityId::of(&root()).unwrap();
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!(serde_json::from_str::<AuthorityId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    assert_eq!("abc".parse::<AuthorityId>(), Err(InvalidAuthorityId));
    assert!(AuthorityId::of(&CertificateDer::from(vec![1, 2, 3])).is_err());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Bundle::parse(td("a"), &bytes, now());
    }

    #[test]
    fn random_json_never_panics(text in r#"\{("keys"|"spiffe_sequence"|"spiffe_refresh_hint"|"x"|[\[\]{}:,0-9.eE"-]){0,40}\}"#) {
        let _ = Bundle::parse(td("a"), text.as_bytes(), now());
    }

    #[test]
    fn random_keys_never_panic(
        kty in "(EC|RSA|OKP|oct)",
        x5c in proptest::collection::vec(any::<u8>(), 0..200),
        x in "\\PC{0,10}",
    ) {
        let key = json!({"use": "x509-svid", "kty": kty, "x": x, "x5c": [STANDARD.encode(&x5c)]});
        let parsed = parse(&json!({"keys": [key]})).unwrap();
        prop_assert!(parsed.bundle.authorities().is_empty());
    }
}
