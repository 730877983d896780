//! The built-in CA: a key in a file, a root, and SVIDs on request.
//!
//! A directory holds `ca.key` (0600), `ca.crt` and `ca.json`, the journal. They come into being in the
//! order key, journal, certificate, so the certificate says that creation was finished. Nothing is ever
//! made anew beside what is left of an old CA: a lost key is for the operator to know about.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;

use super::journal::{InvalidJournal, Journal, Publishing};
use super::request::{self, InvalidRequest};
use super::signer::Signer;
use super::template::{self, NoValidity, Validity};
use crate::bundle::{Authority, AuthorityId, Bundle, InvalidBundle, REFRESH_HINT_DEFAULT};
use crate::digest::Hex;
use crate::file::{self, Access, ReadError};
use crate::key::{InvalidKey, KeyPair};
use crate::pem;
use crate::random::random;
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::verify::parse_certificate;

const KEY_FILE: &str = "ca.key";
const ROOT_FILE: &str = "ca.crt";
const JOURNAL_FILE: &str = "ca.json";

/// What an operator may choose about the built-in CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaSettings {
    /// How long a new root lives; an existing one keeps its own end.
    pub root_ttl: Duration,
    /// How often others are asked to fetch our bundle.
    pub refresh_hint: Duration,
}

impl Default for CaSettings {
    fn default() -> Self {
        Self { root_ttl: Duration::from_secs(365 * 24 * 60 * 60), refresh_hint: REFRESH_HINT_DEFAULT }
    }
}

/// A CA whose key is in a file of this machine.
#[derive(Debug)]
pub struct BuiltinCa {
    directory: PathBuf,
    trust_domain: TrustDomain,
    signer: Box<dyn Signer>,
    root: CertificateDer<'static>,
    authority: AuthorityId,
    validity: Validity,
    bundle: Bundle,
    journal: Mutex<Journal>,
}

impl BuiltinCa {
    /// Opens the CA in a directory, or makes one if there is none.
    pub fn open(
        directory: &Path,
        trust_domain: TrustDomain,
        settings: CaSettings,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        let path = directory.join(ROOT_FILE);
        match file::read(&path).map_err(|source| CaError::File { path: path.clone(), source })? {
            Some(root) => Self::load(directory, trust_domain, settings, &root, now),
            None => Self::create(directory, trust_domain, settings, now),
        }
    }

    /// The trust domain that this CA signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authority whose key signs.
    pub fn authority(&self) -> AuthorityId {
        self.authority
    }

    /// The bundle that others need to believe our SVIDs.
    pub fn bundle(&self) -> Bundle {
        self.bundle.clone()
    }

    /// Issues an SVID for the key of this request; nothing else of the request is looked at.
    ///
    /// May write and sync one small file, so it is not for a thread that must not wait.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        if id.trust_domain() != self.trust_domain {
            return Err(IssueError::TrustDomain { id: id.clone(), ours: self.trust_domain.clone() });
        }
        if id.path().is_empty() {
            return Err(IssueError::NoPath);
        }
        let subject = request::public_key(csr_der)?;
        let validity = template::svid_validity(self.validity, ttl, now)?;
        self.record(validity.not_after, ttl)?;
        let serial = random();
        let leaf = template::svid(&*self.signer, &self.root, id, &subject, validity, serial)?;
        tracing::info!(%id, serial = %Hex(&serial), not_after = validity.not_after.as_secs(), "SVID issued");
        Ok(vec![leaf])
    }

    /// The chain with the root at its end, as the join listener shows it (4.2).
    pub fn chain_with_root(&self, mut chain: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
        chain.push(self.root.clone());
        chain
    }

    /// No SVID of this authority lives longer; none means that it has issued nothing.
    pub fn latest_not_after(&self, authority: &AuthorityId) -> Option<UnixTime> {
        self.journal.lock().latest_not_after(authority)
    }

    // Durable before the signature: an SVID that is out and not in the journal would be forgotten.
    fn record(&self, not_after: UnixTime, ttl: Duration) -> Result<(), IssueError> {
        let mut journal = self.journal.lock();
        if let Some(next) = journal.with(self.authority, not_after, ttl) {
            write_journal(&self.directory, &next).map_err(IssueError::Journal)?;
            *journal = next;
        }
        Ok(())
    }

    fn create(
        directory: &Path,
        trust_domain: TrustDomain,
        settings: CaSettings,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        file::make_directory(directory).map_err(at(directory))?;
        // An unused journal is what an interrupted creation leaves; beside any other a root is lost.
        if read_journal(directory)?.is_some_and(|journal| journal.is_in_use()) {
            return Err(CaError::Missing { path: directory.join(ROOT_FILE) });
        }
        let key = match read_key(directory)? {
            Some(key) => key,
            None => create_key(directory)?,
        };
        let validity = template::root_validity(settings.root_ttl, now)?;
        let root = template::root(&key, &trust_domain, validity, random())?;
        let journal = Journal::new(trust_domain.clone());
        write_journal(directory, &journal).map_err(at(&directory.join(JOURNAL_FILE)))?;
        let path = directory.join(ROOT_FILE);
        let content = pem::encode("CERTIFICATE", &root);
        file::write_atomically(&path, content.as_bytes(), Access::Everybody).map_err(at(&path))?;
        tracing::info!(%trust_domain, directory = %directory.display(), "CA created");
        Self::load(directory, trust_domain, settings, content.as_bytes(), now)
    }

    fn load(
        directory: &Path,
        trust_domain: TrustDomain,
        settings: CaSettings,
        root_pem: &[u8],
        now: UnixTime,
    ) -> Result<Self, CaError> {
        let path = directory.join(ROOT_FILE);
        let bad = |reason: String| CaError::Root { path: path.clone(), reason };
        let root = CertificateDer::from_pem_slice(root_pem).map_err(|e| bad(e.to_string()))?;
        let authority = Authority::admit(root.clone()).map_err(|e| bad(e.to_string()))?;
        let facts = RootFacts::of(&root).ok_or_else(|| bad("it names no trust domain".to_owned()))?;
        if facts.trust_domain != trust_domain {
            return Err(CaError::TrustDomain { path, found: facts.trust_domain, configured: trust_domain });
        }
        let missing = |name: &str| CaError::Missing { path: directory.join(name) };
        let key = read_key(directory)?.ok_or_else(|| missing(KEY_FILE))?;
        if key.public_key() != facts.public_key {
            return Err(CaError::KeyMismatch { path });
        }
        let journal = read_journal(directory)?.ok_or_else(|| missing(JOURNAL_FILE))?;
        let publish = |sequence| {
            let roots = std::slice::from_ref(&root);
            Bundle::publish(trust_domain.clone(), roots, sequence, settings.refresh_hint, now)
        };
        let (bundle, journal) = number(directory, journal, publish)?;
        Ok(Self {
            directory: directory.to_owned(),
            trust_domain,
            signer: Box::new(key),
            root,
            authority: authority.id(),
            validity: Validity { not_before: authority.not_before(), not_after: authority.not_after() },
            bundle,
            journal: Mutex::new(journal),
        })
    }
}

/// What a root says beyond what makes it an authority.
struct RootFacts {
    trust_domain: TrustDomain,
    public_key: Vec<u8>,
}

impl RootFacts {
    fn of(root: &CertificateDer<'_>) -> Option<Self> {
        let parsed = parse_certificate(root).ok()?;
        let names = parsed.subject_alternative_name().ok()??.value;
        let uri = names.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })?;
        let trust_domain = SpiffeId::try_from(uri).ok()?.trust_domain();
        Some(Self { trust_domain, public_key: parsed.public_key().subject_public_key.data.to_vec() })
    }
}

/// Why the CA cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file or the directory cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may have read the CA key.
    #[error(
        "{path}: others than its owner have access to the CA key (mode {mode:03o}); hint: chmod 600 {path}",
        path = path.display()
    )]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The key file does not hold a key that we can use.
    #[error("{}: {source}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidKey,
    },
    /// A file of an existing CA is gone.
    #[error(
        "{path} is missing beside the rest of the CA; hint: restore it from a backup, or move the whole \
         directory away to begin with a new root that every peer must learn",
        path = path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate cannot be the root of a CA.
    #[error("{}: {reason}", path.display())]
    Root {
        /// The certificate file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate and the key do not belong together.
    #[error("{}: the certificate does not belong to the key beside it", path.display())]
    KeyMismatch {
        /// The certificate file.
        path: PathBuf,
    },
    /// It is the CA of another trust domain.
    #[error(
        "{}: this CA signs for trust domain {found}, but {configured} is configured; \
         a cluster keeps its trust domain for ever",
        path.display()
    )]
    TrustDomain {
        /// The certificate file.
        path: PathBuf,
        /// Whom the certificate is for.
        found: TrustDomain,
        /// Whom it should be for.
        configured: TrustDomain,
    },
    /// The journal cannot be read.
    #[error("{}: {source}", path.display())]
    Journal {
        /// The journal file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidJournal,
    },
    /// The lifetime of the root makes no sense.
    #[error(transparent)]
    Lifetime(#[from] NoValidity),
    /// The root cannot be published.
    #[error(transparent)]
    Bundle(#[from] InvalidBundle),
    /// The root certificate could not be made.
    #[error("cannot make a root certificate: {0}")]
    Encode(#[from] rcgen::Error),
}

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The identity is in another trust domain.
    #[error("{id} is not in trust domain {ours}, and this CA signs for no other")]
    TrustDomain {
        /// What was asked for.
        id: SpiffeId,
        /// What this CA signs for.
        ours: TrustDomain,
    },
    /// The identity is a trust domain, not a workload (X3).
    #[error("an SVID needs a SPIFFE ID with a path")]
    NoPath,
    /// The signing request is not honoured.
    #[error("signing request: {0}")]
    Request(#[from] InvalidRequest),
    /// There is no time for which it could be valid.
    #[error(transparent)]
    Validity(#[from] NoValidity),
    /// The journal could not be written.
    #[error("the CA journal cannot be written, so nothing is signed: {0}")]
    Journal(io::Error),
    /// The signer failed.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
}

fn read_key(directory: &Path) -> Result<Option<KeyPair>, CaError> {
    let path = directory.join(KEY_FILE);
    let content = match file::read_secret(&path) {
        Ok(content) => content,
        Err(ReadError::Exposed(mode)) => return Err(CaError::KeyExposed { path, mode }),
        Err(ReadError::Io(source)) => return Err(CaError::File { path, source }),
    };
    let key = content.map(|pem| KeyPair::from_pem(&pem)).transpose();
    key.map_err(|source| CaError::Key { path, source })
}

fn create_key(directory: &Path) -> Result<KeyPair, CaError> {
    let (path, key) = (directory.join(KEY_FILE), KeyPair::generate());
    file::write_atomically(&path, key.to_pem().as_bytes(), Access::Owner).map_err(at(&path))?;
    Ok(key)
}

fn read_journal(directory: &Path) -> Result<Option<Journal>, CaError> {
    let path = directory.join(JOURNAL_FILE);
    let content = file::read(&path).map_err(at(&path))?;
    let journal = content.map(|content| Journal::parse(&content)).transpose();
    journal.map_err(|source| CaError::Journal { path, source })
}

/// The bundle under a number that it shares with no other content; durable before anybody sees it (B2).
fn number(
    directory: &Path,
    journal: Journal,
    publish: impl Fn(u64) -> Result<Bundle, InvalidBundle>,
) -> Result<(Bundle, Journal), CaError> {
    let bundle = publish(journal.sequence())?;
    match journal.publishing(&bundle.digest()) {
        Publishing::Known => Ok((bundle, journal)),
        Publishing::First(journal) => {
            write_journal(directory, &journal).map_err(at(&directory.join(JOURNAL_FILE)))?;
            Ok((bundle, journal))
        }
        Publishing::NeedsNumber(journal) => number(directory, journal, publish),
    }
}

fn write_journal(directory: &Path, journal: &Journal) -> io::Result<()> {
    file::write_atomically(&directory.join(JOURNAL_FILE), &journal.to_json(), Access::Everybody)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    |source| CaError::File { path, source }
}
