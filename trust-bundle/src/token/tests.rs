//! The rules of join tokens (J*), and the handshake of a join.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

use super::*;
use crate::bundle::AuthorityId;
use crate::digest::Hex;
use crate::source::SvidHandle;
use crate::svid::{SvidKey, X509Svid};
use crate::testing::{TestAuthority, TestLeaf, handshake, id, later, now, td};
use crate::verify::{Rejection, verify_offered};

const JOIN_ID: &str = "spiffe://onprem/isthmus/join";

fn parts(pins: Vec<AuthorityId>) -> TokenParts {
    TokenParts {
        acceptor_cluster: "onprem".to_owned(),
        trust_domain: td("onprem"),
        join_id: id(JOIN_ID),
        endpoints: vec!["gw1.example.com:15443".to_owned(), "[2001:db8::1]:15443".to_owned()],
        pins,
        expires: later(now(), 900),
        joiner: Some("cloud".to_owned()),
    }
}

fn token_for(root: &TestAuthority) -> JoinToken {
    JoinToken::seal(parts(vec![AuthorityId::of(&root.der).unwrap()])).0
}

fn some_token() -> JoinToken {
    JoinToken::seal(parts(vec![AuthorityId::from([7; 32])])).0
}

/// A join listener whose chain ends with this root.
fn listener(leaf: TestLeaf, root: &TestAuthority) -> Arc<rustls::ServerConfig> {
    join_server_config(&leaf.through(root).handle())
}

fn joiner(root: &TestAuthority) -> SvidHandle {
    root.leaf("spiffe://cloud/isthmus/federation").handle()
}

#[track_caller]
fn refused(client: &Arc<ClientConfig>, server: &Arc<rustls::ServerConfig>) -> &'static str {
    let error = handshake(client, server).map(|_| ()).unwrap_err();
    Rejection::in_tls(&error).unwrap_or_else(|| panic!("{error}")).reason()
}

#[test]
fn text_survives_a_round_trip() {
    let token = some_token();
    let again = JoinToken::open(&format!("  {}\n", *token.text())).unwrap();
    assert_eq!(again.parts, token.parts);
    assert_eq!(again.id(), token.id());
    assert_eq!(again.seed, token.seed);
    assert!(token.text().starts_with("isthmus1."));
    assert!(token.text().len() < 700, "{}", token.text().len());
    assert!(!token.text().contains(char::is_whitespace));
}

#[test]
fn full_token_is_within_the_bound() {
    let mut parts = parts(vec![AuthorityId::from([7; 32]); 9]);
    parts.endpoints = vec![format!("{}:65535", "a".repeat(253)); 20];
    parts.acceptor_cluster = "a".repeat(63);
    let token = JoinToken::seal(parts).0;
    let again = JoinToken::open(&token.text()).unwrap();
    assert_eq!((again.endpoints().len(), again.pins().len()), (TOKEN_ENDPOINTS_MAX, TOKEN_PINS_MAX));
}

#[test]
fn damaged_texts_are_told_apart() {
    let text = some_token().text();
    let open = |text: &str| JoinToken::open(text).map(|_| ()).unwrap_err();
    for other in ["", "hello", "isthmus", "isthmus1", "isthmusX.abc", "1.abc", "isthmus-1.abc"] {
        assert_eq!(open(other), InvalidToken::NotAToken, "{other}");
    }
    assert_eq!(open(&text.replace("isthmus1.", "isthmus2.")), InvalidToken::Version(2));
    assert_eq!(open(&text[..text.len() - 10]), InvalidToken::Damaged);
    assert_eq!(open(&text.replacen("isthmus1.", "isthmus1.!", 1)), InvalidToken::Damaged);
    assert_eq!(open(&format!("{}\n{}", *text, *text)), InvalidToken::Damaged);
    assert_eq!(open(&"x".repeat(TOKEN_LENGTH_MAX + 1)), InvalidToken::TooLong(TOKEN_LENGTH_MAX + 1));
}

#[test]
fn senseless_parts_are_named() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    let text = some_token().text();
    let good: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&text["isthmus1.".len()..]).unwrap()).unwrap();
    let cases: Vec<(&str, &str, Value)> = vec![
        ("tid", "/tid", json!("AAAA")),
        ("key", "/key", json!("not base64!")),
        ("acc.td", "/acc/td", json!("ONPREM")),
        ("acc.join_id", "/acc/join_id", json!("spiffe://cloud/isthmus/join")),
        ("acc.join_id", "/acc/join_id", json!("spiffe://onprem")),
        ("acc.join_id", "/acc/join_id", json!("http://onprem/x")),
        ("acc.cluster", "/acc/cluster", json!("On Prem")),
        ("acc.cluster", "/acc/cluster", json!("a".repeat(64))),
        ("joiner.cluster", "/joiner/cluster", json!("")),
        ("ep", "/ep", json!([])),
        ("ep", "/ep", json!(vec!["a:1"; 9])),
        ("ep", "/ep", json!(["no-port"])),
        ("ep", "/ep", json!(["host:0"])),
        ("ep", "/ep", json!([":1"])),
        ("ep", "/ep", json!(["ho st:1"])),
        ("ep", "/ep", json!(["host:1\u{1b}[31m"])),
        ("pin", "/pin", json!([])),
        ("pin", "/pin", json!(vec!["A".repeat(43); 5])),
        ("pin", "/pin", json!(["A"])),
    ];
    for (field, pointer, value) in cases {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value.clone();
        let text = format!("isthmus1.{}", URL_SAFE_NO_PAD.encode(json.to_string()));
        match JoinToken::open(&text) {
            Err(InvalidToken::Field { field: named, .. }) => assert_eq!(named, field, "{value}"),
            other => panic!("{pointer} {value}: {other:?}"),
        }
    }
}

#[test]
fn j3_record_lets_nobody_in() {
    let (token, record) = JoinToken::seal(parts(vec![AuthorityId::from([7; 32])]));
    let stored = serde_json::to_string(&record).unwrap();
    assert!(!stored.contains(&Hex(&*token.seed).to_string()));
    let restored: TokenRecord = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored, record);
    assert_eq!((restored.id(), restored.joiner()), (token.id(), Some("cloud")));
    assert_eq!(restored.expires(), token.expires());
    let proof = token.prove(&[1; 32], b"request");
    assert!(restored.verify(&[1; 32], b"request", &proof));
}

#[test]
fn j4_secret_is_in_no_debug_output_and_no_error() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    let (token, record) = JoinToken::seal(parts(vec![AuthorityId::from([7; 32])]));
    let cut = token.text().len() - 5;
    let damaged = JoinToken::open(&token.text()[..cut]).unwrap_err();
    let printed = format!("{token:?} {record:?} {damaged} {damaged:?}");
    let seed = token.seed.as_slice();
    let forms = [
        Hex(seed).to_string(),
        STANDARD.encode(seed)[..40].to_owned(),
        URL_SAFE_NO_PAD.encode(seed)[..40].to_owned(),
        format!("{:?}", &seed[..4]),
    ];
    for form in forms {
        assert!(!printed.contains(&form), "{printed}");
    }
}

#[test]
fn j5_dummy_record_fits_no_proof() {
    let token = some_token();
    let proof = token.prove(&[1; 32], b"request");
    assert!(!TokenRecord::dummy().verify(&[1; 32], b"request", &proof));
    assert_eq!(TokenRecord::dummy(), TokenRecord::dummy());
}

#[test]
fn proof_holds_for_one_request_only() {
    let (token, record) = JoinToken::seal(parts(vec![AuthorityId::from([7; 32])]));
    let other = some_token();
    let proof = token.prove(&[1; 32], b"request");
    assert!(record.verify(&[1; 32], b"request", &proof));
    assert!(!record.verify(&[1; 32], b"requesT", &proof));
    assert!(!record.verify(&[2; 32], b"request", &proof));
    assert!(!record.verify(&[1; 32], b"request", &other.prove(&[1; 32], b"request")));
    for bad in [&proof[..63], &[0; 64], &[]] {
        assert!(!record.verify(&[1; 32], b"request", bad));
    }
}

#[test]
fn proof_cannot_be_replayed_on_another_connection() {
    let (onprem, cloud) = (TestAuthority::root("onprem"), TestAuthority::root("cloud"));
    let (token, record) = JoinToken::seal(parts(vec![AuthorityId::of(&onprem.der).unwrap()]));
    let server = listener(onprem.leaf(JOIN_ID), &onprem);
    let client = join_client_config(&token, &joiner(&cloud));
    let (here, there) = handshake(&client, &server).unwrap();
    assert_eq!(exporter(&here), exporter(&there));
    let proof = token.prove(&exporter(&here), b"request");
    assert!(record.verify(&exporter(&there), b"request", &proof));
    let (_, elsewhere) = handshake(&client, &server).unwrap();
    assert!(!record.verify(&exporter(&elsewhere), b"request", &proof));
}

#[test]
fn connection_without_keys_gets_an_exporter_that_nothing_fits() {
    let onprem = TestAuthority::root("onprem");
    let config = listener(onprem.leaf(JOIN_ID), &onprem);
    let connection = rustls::ServerConnection::new(config).unwrap();
    assert_ne!(exporter(&connection), exporter(&connection));
    assert_ne!(exporter(&connection), [0; 32]);
}

#[test]
fn joiner_is_judged_against_the_bundle_that_it_offers() {
    let (onprem, cloud) = (TestAuthority::root("onprem"), TestAuthority::root("cloud"));
    let client = join_client_config(&token_for(&onprem), &joiner(&cloud));
    let (_, server) = handshake(&client, &listener(onprem.leaf(JOIN_ID), &onprem)).unwrap();
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    let chain = server.peer_certificates().unwrap();
    let joined = verify_offered(chain, &cloud.bundle("cloud", 1), now());
    assert_eq!(joined, Ok(id("spiffe://cloud/isthmus/federation")));
    let reason = |bundle| verify_offered(chain, &bundle, now()).unwrap_err().reason();
    assert_eq!(reason(TestAuthority::root("cloud").bundle("cloud", 1)), "unknown_issuer");
    assert_eq!(reason(onprem.bundle("onprem", 1)), "unknown_td");
    // The joiner's own root under a foreign name must not turn its leaf into that domain's.
    assert_eq!(reason(cloud.bundle("onprem", 1)), "unknown_td");
}

#[test]
fn joiner_believes_only_the_pinned_root() {
    let (onprem, mitm) = (TestAuthority::root("onprem"), TestAuthority::root("onprem"));
    let client = join_client_config(&token_for(&onprem), &joiner(&TestAuthority::root("cloud")));
    // A root of the same name; its chain with the real root in it; no root at all.
    assert_eq!(refused(&client, &listener(mitm.leaf(JOIN_ID), &mitm)), "not_pinned");
    assert_eq!(refused(&client, &listener(mitm.leaf(JOIN_ID), &onprem)), "unknown_issuer");
    assert_eq!(refused(&client, &join_server_config(&onprem.leaf(JOIN_ID).handle())), "not_pinned");
    // Pinned as a key, but presented as a certificate that is no CA.
    let leaf = onprem.leaf(JOIN_ID);
    let pinned_leaf = JoinToken::seal(parts(vec![AuthorityId::of(leaf.der()).unwrap()])).0;
    let client = join_client_config(&pinned_leaf, &joiner(&TestAuthority::root("cloud")));
    assert_eq!(refused(&client, &listener(leaf, &onprem)), "not_pinned");
}

#[test]
fn joiner_believes_only_the_join_identity() {
    let onprem = TestAuthority::root("onprem");
    let client = join_client_config(&token_for(&onprem), &joiner(&TestAuthority::root("cloud")));
    for other in ["spiffe://onprem/isthmus/gateway", "spiffe://other/isthmus/join"] {
        assert_eq!(refused(&client, &listener(onprem.leaf(other), &onprem)), "policy", "{other}");
    }
}

#[test]
fn j12_pins_hold_the_prepared_root_too() {
    let (current, prepared) = (TestAuthority::root("onprem"), TestAuthority::root("onprem"));
    let pins = [&current, &prepared].map(|root| AuthorityId::of(&root.der).unwrap());
    let token = JoinToken::seal(parts(pins.to_vec())).0;
    let client = join_client_config(&token, &joiner(&TestAuthority::root("cloud")));
    for root in [&current, &prepared] {
        assert!(handshake(&client, &listener(root.leaf(JOIN_ID), root)).is_ok());
    }
}

#[test]
fn acceptor_lets_any_chain_pass_but_not_without_its_key() {
    #[derive(Debug)]
    struct Shows(Option<Arc<CertifiedKey>>);
    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            self.0.clone()
        }
        fn has_certs(&self) -> bool {
            self.0.is_some()
        }
    }
    let (onprem, cloud) = (TestAuthority::root("onprem"), TestAuthority::root("cloud"));
    let server = listener(onprem.leaf(JOIN_ID), &onprem);
    let shows = |shown: Option<CertifiedKey>| {
        let client = join_client_config(&token_for(&onprem), &joiner(&cloud));
        let mut client = ClientConfig::clone(&client);
        client.client_auth_cert_resolver = Arc::new(Shows(shown.map(Arc::new)));
        handshake(&Arc::new(client), &server).map(|_| ())
    };
    let own = cloud.leaf("spiffe://cloud/isthmus/federation").svid();
    let stolen = cloud.leaf("spiffe://cloud/isthmus/federation").chain;
    let own_key = own.certified_key().key.clone();
    // No SVID at all, but a certificate and its key: the judgement comes later.
    let self_signed = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let der = self_signed.cert.der().clone();
    let key = SvidKey::from_pkcs8(self_signed.signing_key.serialized_der()).unwrap();
    assert!(X509Svid::from_parts(vec![der.clone()], key).is_err());
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(self_signed.signing_key.serialized_der().into());
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&key).unwrap();
    assert_eq!(shows(Some(CertifiedKey::new(vec![der], key))), Ok(()));
    assert_eq!(shows(Some(CertifiedKey::new(own.chain().to_vec(), own_key.clone()))), Ok(()));
    assert!(shows(Some(CertifiedKey::new(stolen, own_key.clone()))).is_err());
    assert!(shows(None).is_err());
    let long = vec![own.chain()[0].clone(); 7];
    let error = shows(Some(CertifiedKey::new(long, own_key))).unwrap_err();
    assert_eq!(Rejection::in_tls(&error).unwrap().reason(), "chain_too_large");
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "(isthmus1\\.)?\\PC{0,200}") {
        let _ = JoinToken::open(&text);
    }

    #[test]
    fn random_payload_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        use base64::Engine as _;
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&bytes);
        let text = format!("isthmus1.{payload}");
        prop_assert!(JoinToken::open(&text).is_err());
    }
}
