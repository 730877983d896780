//! What the CA emits, what it refuses, and what it finds again after a restart.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::*;

use super::*;
use crate::bundle::Succession;
use crate::source::{SvidHandle, renewal};
use crate::svid::{SvidKey, X509Svid};
use crate::testing::{handshake, id, later, now, td};
use crate::verify::{
    ClientAuth, ExpectedPeer, PeerSide, TrustStore, authenticate, client_config, server_config,
    verify_offered,
};

const GATEWAY: &str = "spiffe://onprem/isthmus/gateway";

const HOUR: Duration = Duration::from_secs(3600);

fn open(directory: &Path) -> Result<BuiltinCa, CaError> {
    BuiltinCa::open(directory, td("onprem"), CaSettings::default(), now())
}

fn with_root_ttl(directory: &Path, root_ttl: Duration, now: UnixTime) -> BuiltinCa {
    let settings = CaSettings { root_ttl, ..CaSettings::default() };
    BuiltinCa::open(directory, td("onprem"), settings, now).unwrap()
}

fn issue(ca: &BuiltinCa, ttl: Duration, now: UnixTime) -> Result<X509Svid, IssueError> {
    let key = SvidKey::generate();
    let chain = ca.issue(&key.csr(), &id(GATEWAY), ttl, now)?;
    Ok(X509Svid::from_parts(chain, key).unwrap())
}

fn seconds_from(now: UnixTime, time: UnixTime) -> i64 {
    time.as_secs() as i64 - now.as_secs() as i64
}

#[test]
fn svids_of_two_clusters_meet() {
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        BuiltinCa::open(&directory.path().join(name), td(name), CaSettings::default(), now()).unwrap()
    };
    let svid = |ca: &BuiltinCa| {
        let (key, id) = (SvidKey::generate(), id(&format!("spiffe://{}/isthmus/gateway", ca.trust_domain())));
        let chain = ca.issue(&key.csr(), &id, Duration::from_secs(20), now()).unwrap();
        SvidHandle::new(X509Svid::from_parts(chain, key).unwrap())
    };
    let (onprem, cloud) = (open("onprem"), open("cloud"));
    let trust = TrustStore::new();
    trust.put(onprem.bundle()).unwrap();
    trust.put(cloud.bundle()).unwrap();
    let server_id = id("spiffe://cloud/isthmus/gateway");
    let server = server_config(&trust, &svid(&cloud), ClientAuth::Required, &[b"h2"]);
    let client = client_config(&trust, &svid(&onprem), ExpectedPeer::Exact(server_id.clone()), &[b"h2"]);
    let (client, server) = handshake(&client, &server).unwrap();
    let peer = authenticate(&trust, &server, PeerSide::Client, now()).unwrap();
    assert_eq!(peer.id().as_str(), GATEWAY);
    assert_eq!(peer.authority(), onprem.authority());
    assert_eq!(authenticate(&trust, &client, PeerSide::Server, now()).unwrap().id(), &server_id);
}

/// V33: an SVID has exactly this in it.
#[test]
fn emitted_svid_is_exactly_this() {
    let directory = tempfile::tempdir().unwrap();
    let ca = open(directory.path()).unwrap();
    let root = ca.chain_with_root(Vec::new()).remove(0);
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    let svid = issue(&ca, HOUR, now()).unwrap();
    let [leaf] = svid.chain() else { panic!("{} certificates", svid.chain().len()) };
    let (rest, leaf) = X509Certificate::from_der(leaf).unwrap();
    assert!(rest.is_empty());
    assert_eq!(leaf.version(), X509Version::V3);
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
    assert_eq!(leaf.raw_serial().len(), 16);
    assert!(leaf.raw_serial()[0] & 0x80 == 0 && leaf.raw_serial()[0] != 0);
    assert_eq!(
        described(&leaf),
        [
            format!("authority key {}", key_id(&root)),
            format!("critical names uri={GATEWAY}"),
            "critical usage 1".to_owned(),
            "purposes server client".to_owned(),
            format!("subject key {}", key_id(&leaf)),
            "critical ca=false".to_owned(),
        ]
    );
    let other = issue(&ca, HOUR, now()).unwrap();
    let (_, other) = X509Certificate::from_der(&other.chain()[0]).unwrap();
    assert_ne!(leaf.raw_serial(), other.raw_serial());
}

#[test]
fn emitted_root_is_exactly_this() {
    let directory = tempfile::tempdir().unwrap();
    let ca = open(directory.path()).unwrap();
    let root = ca.chain_with_root(Vec::new()).remove(0);
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    assert_eq!(root.issuer().as_raw(), root.subject().as_raw());
    assert_eq!(
        described(&root),
        [
            "names uri=spiffe://onprem".to_owned(),
            "critical usage 96".to_owned(),
            format!("subject key {}", key_id(&root)),
            "critical ca=true length=0".to_owned(),
        ]
    );
    let name = root.subject().to_string();
    assert!(name.starts_with("O=onprem, serialNumber="), "{name}");
    // V9: another root of the same domain has another name.
    let directory = tempfile::tempdir().unwrap();
    let other = open(directory.path()).unwrap().chain_with_root(Vec::new()).remove(0);
    let (_, other) = X509Certificate::from_der(&other).unwrap();
    assert_ne!(root.subject().as_raw(), other.subject().as_raw());
}

fn described(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for extension in certificate.iter_extensions() {
        let critical = if extension.critical { "critical " } else { "" };
        all.push(match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(aki) => {
                format!("{critical}authority key {:x}", aki.key_identifier.as_ref().unwrap())
            }
            ParsedExtension::SubjectKeyIdentifier(ski) => format!("{critical}subject key {ski:x}"),
            ParsedExtension::SubjectAlternativeName(names) => {
                let each = names.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => format!("uri={uri}"),
                    other => other.to_string(),
                });
                let names: Vec<_> = each.collect();
                format!("{critical}names {}", names.join(","))
            }
            ParsedExtension::KeyUsage(usage) => format!("{critical}usage {}", usage.flags),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let mut purposes = format!("{critical}purposes");
                let known = [(usage.server_auth, " server"), (usage.client_auth, " client")];
                known.iter().filter(|(set, _)| *set).for_each(|(_, name)| purposes.push_str(name));
                assert!(usage.other.is_empty() && !usage.any && !usage.code_signing);
                purposes
            }
            ParsedExtension::BasicConstraints(constraints) => {
                let length = constraints.path_len_constraint.map(|l| format!(" length={l}"));
                format!("{critical}ca={}{}", constraints.ca, length.unwrap_or_default())
            }
            other => panic!("unexpected extension {other:?}"),
        });
    }
    all
}

fn key_id(certificate: &X509Certificate<'_>) -> String {
    certificate
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(ski) => Some(format!("{ski:x}")),
            _ => None,
        })
        .unwrap()
}

#[test]
fn request_decides_nothing_but_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let ca = open(directory.path()).unwrap();
    let mut greedy = CertificateParams::default();
    greedy.subject_alt_names = vec![SanType::URI("spiffe://onprem/admin".try_into().unwrap())];
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = greedy.serialize_request(&key).unwrap();
    let chain = ca.issue(csr.der(), &id(GATEWAY), HOUR, now()).unwrap();
    let svid = X509Svid::from_parts(chain, SvidKey::from_pkcs8(key.serialized_der()).unwrap()).unwrap();
    let (_, greedy) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    let modest = issue(&ca, HOUR, now()).unwrap();
    let (_, modest) = X509Certificate::from_der(&modest.chain()[0]).unwrap();
    let but_key = |c: &X509Certificate<'_>| {
        described(c).into_iter().filter(|line| !line.starts_with("subject key")).collect::<Vec<_>>()
    };
    assert_eq!(but_key(&greedy), but_key(&modest));
    assert_eq!(svid.id(), &id(GATEWAY));
}

#[test]
fn bad_requests_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let ca = open(directory.path()).unwrap();
    let refused = |csr: &[u8]| match ca.issue(csr, &id(GATEWAY), HOUR, now()) {
        Err(IssueError::Request(why)) => why,
        other => panic!("{other:?}"),
    };
    let csr = SvidKey::generate().csr();
    assert_eq!(refused(&[]), InvalidRequest::Malformed);
    assert_eq!(refused(&csr[..csr.len() - 1]), InvalidRequest::Malformed);
    assert_eq!(refused(&[csr.clone(), vec![0]].concat()), InvalidRequest::Malformed);
    assert_eq!(refused(&vec![0; CSR_BYTES_MAX + 1]), InvalidRequest::TooLarge(CSR_BYTES_MAX + 1));
    let mut forged = csr;
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&forged), InvalidRequest::Signature);
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        assert_eq!(refused(csr.der()), InvalidRequest::Algorithm);
    }
}

#[test]
fn only_workloads_of_the_own_domain_get_an_svid() {
    let directory = tempfile::tempdir().unwrap();
    let ca = open(directory.path()).unwrap();
    let csr = SvidKey::generate().csr();
    let issue = |text: &str| ca.issue(&csr, &id(text), HOUR, now()).map(|_| ());
    assert!(matches!(issue("spiffe://cloud/isthmus/gateway"), Err(IssueError::TrustDomain { .. })));
    assert!(matches!(issue("spiffe://onprem"), Err(IssueError::NoPath)));
    assert!(issue("spiffe://onprem/ns/shop/sa/cart").is_ok());
    let long = format!("spiffe://onprem/{}", "x".repeat(2048 - 16));
    assert!(issue(&long).is_ok());
}

#[test]
fn lifetimes_are_decided_by_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let now = now();
    let ca = with_root_ttl(directory.path(), 24 * HOUR, now);
    let cases = [
        // ttl, issued after so many seconds, not_before and not_after relative to that moment
        (HOUR, 600, -60, 3600),
        (HOUR, 0, -60, 3600),
        (Duration::from_secs(20), 600, -2, 20),
        (Duration::from_secs(1), 600, 0, 1),
        (Duration::from_millis(1500), 600, 0, 1),
        // V34: never longer than the root.
        (48 * HOUR, 600, -60, 86_400 - 600),
        (HOUR, 86_400 - 1200, -60, 1200),
    ];
    for (ttl, after, from, to) in cases {
        let now = later(now, after);
        let svid = issue(&ca, ttl, now).unwrap();
        let window = (seconds_from(now, svid.not_before()), seconds_from(now, svid.not_after()));
        assert_eq!(window, (from, to), "{ttl:?} after {after} s");
    }
    let refused = |ttl, now| match issue(&ca, ttl, now) {
        Err(IssueError::Validity(why)) => why,
        other => panic!("{other:?}"),
    };
    let ten_minutes_left = later(now, 86_400 - 599);
    let left = Duration::from_secs(599);
    assert_eq!(refused(HOUR, ten_minutes_left), NoValidity::RootEnds { left });
    assert_eq!(refused(HOUR, later(now, 90_000)), NoValidity::RootEnds { left: Duration::ZERO });
    assert_eq!(refused(Duration::from_millis(999), now), NoValidity::TooShort(Duration::from_millis(999)));
    let before = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - 3600));
    assert_eq!(refused(HOUR, before), NoValidity::RootNotYetValid);
}

#[test]
fn short_lived_roots_issue_until_a_tenth_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let now = now();
    let ca = with_root_ttl(directory.path(), Duration::from_secs(100), now);
    let ttl = Duration::from_secs(20);
    assert_eq!(issue(&ca, ttl, later(now, 85)).unwrap().not_after(), later(now, 100));
    assert!(matches!(issue(&ca, ttl, later(now, 91)), Err(IssueError::Validity(_))));
    let settings = CaSettings { root_ttl: Duration::ZERO, ..CaSettings::default() };
    let empty = tempfile::tempdir().unwrap();
    let refused = BuiltinCa::open(empty.path(), td("onprem"), settings, now);
    assert!(matches!(refused, Err(CaError::Lifetime(_))));
}

#[test]
fn twenty_second_svid_is_due_in_the_middle_of_its_life() {
    let directory = tempfile::tempdir().unwrap();
    let now = now();
    let ca = open(directory.path()).unwrap();
    let svid = issue(&ca, Duration::from_secs(20), now).unwrap();
    for (jitter, due) in [(0.0, 7), (0.5, 9), (1.0, 10)] {
        assert_eq!(seconds_from(now, renewal::due_at(&svid, jitter)), due);
    }
}

#[test]
fn ca_is_the_same_after_a_restart() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("deep/er");
    let (bundle, svid) = {
        let ca = open(&directory).unwrap();
        assert_eq!(ca.latest_not_after(&ca.authority()), None);
        (ca.bundle(), issue(&ca, HOUR, now()).unwrap())
    };
    assert_eq!(bundle.sequence(), Some(1));
    let ca = open(&directory).unwrap();
    assert_eq!(ca.bundle().succeeds(&bundle), Ok(Succession::Same));
    assert_eq!(verify_offered(svid.chain(), &ca.bundle(), now()).as_ref(), Ok(svid.id()));
    // RT4: what was issued before is not forgotten, and never too early.
    assert!(ca.latest_not_after(&ca.authority()).unwrap() >= svid.not_after());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("ca.key")), 0o600);
    assert_eq!(mode(&directory.join("ca.crt")), 0o644);
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["ca.crt", "ca.json", "ca.key"]);
}

#[test]
fn b2_changed_bundle_gets_the_next_number_once() {
    let directory = tempfile::tempdir().unwrap();
    let with_hint = |seconds| {
        let settings = CaSettings { refresh_hint: Duration::from_secs(seconds), ..CaSettings::default() };
        BuiltinCa::open(directory.path(), td("onprem"), settings, now()).unwrap().bundle()
    };
    let first = with_hint(300);
    let second = with_hint(60);
    assert_eq!((first.sequence(), second.sequence()), (Some(1), Some(2)));
    assert_eq!(second.succeeds(&first), Ok(Succession::Newer));
    assert_eq!(with_hint(60).succeeds(&second), Ok(Succession::Same));
    assert_eq!(with_hint(300).sequence(), Some(3));
}

#[test]
fn exposed_key_is_refused_with_its_remedy() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap();
    let key = directory.path().join("ca.key");
    for mode in [0o640, 0o644, 0o604] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let error = open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 {}", key.display())), "{error}");
        assert!(error.contains(&format!("{mode:03o}")), "{error}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    open(directory.path()).unwrap();
}

#[test]
fn interrupted_creation_is_finished() {
    let whole = tempfile::tempdir().unwrap();
    open(whole.path()).unwrap();
    let key = fs::read(whole.path().join("ca.key")).unwrap();
    let journal = journal::Journal::new(td("onprem")).to_json();
    for left in [vec![("ca.key", &key)], vec![("ca.key", &key), ("ca.json", &journal)]] {
        let directory = tempfile::tempdir().unwrap();
        for (file, content) in &left {
            fs::write(directory.path().join(file), content).unwrap();
            fs::set_permissions(directory.path().join(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
        issue(&open(directory.path()).unwrap(), HOUR, now()).unwrap();
        assert_eq!(fs::read(directory.path().join("ca.key")).unwrap(), key, "{left:?}");
    }
}

#[test]
fn nothing_is_made_anew_beside_the_rest_of_a_ca() {
    for lost in ["ca.key", "ca.crt", "ca.json"] {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).unwrap();
        fs::remove_file(directory.path().join(lost)).unwrap();
        match open(directory.path()) {
            Err(CaError::Missing { path }) => assert_eq!(path, directory.path().join(lost)),
            other => panic!("{lost}: {other:?}"),
        }
        assert!(!directory.path().join(lost).exists());
    }
}

#[test]
fn foreign_and_damaged_files_are_named() {
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(mine.path()).unwrap();
    open(other.path()).unwrap();
    let moved = BuiltinCa::open(mine.path(), td("elsewhere"), CaSettings::default(), now());
    assert!(matches!(moved, Err(CaError::TrustDomain { .. })));
    let put = |name: &str, content: &[u8]| fs::write(mine.path().join(name), content).unwrap();
    let before = |name: &str| fs::read(mine.path().join(name)).unwrap();
    let (key, root, journal) = (before("ca.key"), before("ca.crt"), before("ca.json"));

    put("ca.key", &fs::read(other.path().join("ca.key")).unwrap());
    assert!(matches!(open(mine.path()), Err(CaError::KeyMismatch { .. })));
    put("ca.key", b"nonsense");
    assert!(matches!(open(mine.path()), Err(CaError::Key { .. })));
    put("ca.key", &key);
    put("ca.crt", b"nonsense");
    assert!(matches!(open(mine.path()), Err(CaError::Root { .. })));
    put("ca.crt", &root);
    put("ca.json", b"nonsense");
    assert!(matches!(open(mine.path()), Err(CaError::Journal { .. })));
    put("ca.json", &journal);
    open(mine.path()).unwrap();
}

#[test]
fn nothing_is_signed_that_the_journal_cannot_hold() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("ca");
    let ca = open(&directory).unwrap();
    issue(&ca, HOUR, now()).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert!(matches!(issue(&ca, 2 * HOUR, now()), Err(IssueError::Journal(_))));
    // What the journal covers already needs no write.
    issue(&ca, HOUR, now()).unwrap();
}

#[test]
fn trust_domain_of_any_length_gets_a_root() {
    let directory = tempfile::tempdir().unwrap();
    let name = td(&"a".repeat(255));
    let ca = BuiltinCa::open(directory.path(), name.clone(), CaSettings::default(), now()).unwrap();
    assert_eq!(ca.bundle().trust_domain(), &name);
}

#[test]
fn ca_says_nothing_of_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let ca = open(directory.path()).unwrap();
    let key = fs::read_to_string(directory.path().join("ca.key")).unwrap();
    let printed = format!("{ca:?}");
    assert!(printed.contains("KeyPair(redacted)"));
    assert!(!printed.contains(key.lines().nth(1).unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // The envelope around what is signed has some slack in it; what is signed has none.
    #[test]
    fn altered_requests_never_panic_and_never_yield_another_key(
        changes in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..5),
    ) {
        let csr = SvidKey::generate().csr();
        let genuine = request::public_key(&csr).unwrap();
        let mut altered = csr;
        for (place, byte) in changes {
            let place = place.index(altered.len());
            altered[place] = byte;
        }
        if let Ok(key) = request::public_key(&altered) {
            prop_assert_eq!(key, genuine);
        }
    }

    #[test]
    fn random_requests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(request::public_key(&bytes).is_err());
    }
}

#[test]
fn chain_with_root_ends_with_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let ca = open(directory.path()).unwrap();
    let svid = issue(&ca, HOUR, now()).unwrap();
    let chain: Vec<CertificateDer<'_>> = ca.chain_with_root(svid.chain().to_vec());
    assert_eq!(chain.len(), 2);
    assert_eq!(&chain[1], ca.bundle().authorities()[0].certificate());
}
