//! A trust domain with a CA of its own.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use tempfile::TempDir;
use trust_bundle::{BuiltinCa, Bundle, CaSettings, SpiffeId, SvidHandle, SvidKey, TrustDomain, X509Svid};

/// The CA of `<name>.isthmus.internal`, in a directory that goes with it.
#[derive(Debug)]
pub struct TestTrustDomain {
    ca: BuiltinCa,
    _directory: TempDir,
}

impl TestTrustDomain {
    pub fn new(cluster: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name =
            TrustDomain::try_from(format!("{cluster}.isthmus.internal").as_str()).expect("a trust domain");
        let ca = BuiltinCa::open(directory.path(), name, CaSettings::default(), now()).expect("a new CA");
        Self { ca, _directory: directory }
    }

    pub fn name(&self) -> TrustDomain {
        self.ca.trust_domain().clone()
    }

    pub fn bundle(&self) -> Bundle {
        self.ca.bundle()
    }

    pub fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(self.ca.trust_domain(), path).expect("a path")
    }

    /// An SVID of an hour for `spiffe://<domain><path>`.
    pub fn svid(&self, path: &str) -> SvidHandle {
        SvidHandle::new(self.issue(path, Duration::from_secs(3600)))
    }

    /// What a renewal brings.
    pub fn issue(&self, path: &str, life: Duration) -> X509Svid {
        let key = SvidKey::generate();
        let chain = self.ca.issue(&key.csr(), &self.id(path), life, now());
        X509Svid::from_parts(chain.expect("the CA issues"), key).expect("key and chain fit")
    }
}

fn now() -> UnixTime {
    #[expect(clippy::disallowed_methods, reason = "the rim of a test is the test")]
    let now = SystemTime::now();
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
