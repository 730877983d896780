//! A trust domain with a CA of its own.

use std::time::Duration;

use tempfile::TempDir;
use trust_bundle::{BuiltinCa, Bundle, CaSettings, SpiffeId, SvidHandle, SvidKey, TrustDomain, X509Svid};

use crate::clock;

/// The CA of `<name>.example.org`.
pub(super) struct Domain {
    ca: BuiltinCa,
    _directory: TempDir,
}

impl Domain {
    pub(super) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let trust_domain = TrustDomain::try_from(format!("{name}.example.org").as_str()).unwrap();
        let ca =
            BuiltinCa::open(directory.path(), trust_domain, CaSettings::default(), clock::unix()).unwrap();
        Self { ca, _directory: directory }
    }

    pub(super) fn bundle(&self) -> Bundle {
        self.ca.bundle()
    }

    pub(super) fn name(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    pub(super) fn handle(&self, path: &str) -> SvidHandle {
        SvidHandle::new(self.svid(path, Duration::from_secs(3600)))
    }

    pub(super) fn svid(&self, path: &str, life: Duration) -> X509Svid {
        let key = SvidKey::generate();
        let id = SpiffeId::new(self.ca.trust_domain(), path).unwrap();
        let chain = self.ca.issue(&key.csr(), &id, life, clock::unix()).unwrap();
        X509Svid::from_parts(chain, key).unwrap()
    }
}
