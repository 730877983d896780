//! What a gateway keeps on its disk, so that it starts with everything else down.
//!
//! ```text
//!   <data>/gateway/state   one head line, then the parts of the state, a line each
//!                  svid    chain and key in PEM, mode 0600
//!                  pending the key of an SVID that is still being asked for, with the request
//!                  redeemed the id of the token that made this node one
//! ```
//! Files are replaced whole: a crash leaves the old content or the new one. A state that cannot be read
//! is set aside as `state.bad` and is never a reason not to start; a key that others could have read is
//! not used.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateSigningRequestDer, UnixTime};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use trust_bundle::{InvalidSvid, SvidHandle, SvidKey, TokenId, TrustStore, X509Svid, pem};
use zeroize::Zeroizing;

use super::state::{Delta, Digest, Held, InvalidState, Parts, STATE_BYTES_MAX, State};
use crate::snapshot::{Generation, Snapshot};

const STATE: &str = "state";
const SVID: &str = "svid";
const PENDING: &str = "pending";
const REDEEMED: &str = "redeemed";
/// Where a file goes that cannot be read, for whoever wants to know why.
const BAD: &str = "bad";
/// The first word and the version of a state's head line.
const MAGIC: &str = "isthmus-state 1";
/// A head line is a word, two numbers and a digest.
const HEAD_BYTES_MAX: u64 = 256;
/// Chain and key: a few kilobytes.
const SECRET_BYTES_MAX: u64 = 256 * 1024;

/// Changes within this time are saved as one.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
/// Of the time at most one part in so many is spent on saving.
const SAVE_SHARE: u32 = 20;

/// The directory of a gateway.
#[derive(Debug, Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// What the file holds, so that the next state costs only what changed.
    saved: Mutex<Option<Parts>>,
}

/// A key that has no certificate yet.
#[derive(Debug)]
pub struct Pending {
    pub key: SvidKey,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
}

/// Why something was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{path}: {cause}", path = path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("{path}: others than its owner have access to it (mode {mode:03o}); hint: chmod 600", path = path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path}: {cause}", path = path.display())]
    Svid { path: PathBuf, cause: InvalidSvid },
}

/// Why a file is no state.
#[derive(Debug, thiserror::Error)]
enum BadState {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it does not begin with \"{MAGIC}\", a generation and a digest")]
    Head,
    #[error("it is larger than {STATE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    State(#[from] InvalidState),
}

impl Disk {
    /// Makes the directory, for its owner alone, unless it is there.
    pub fn open(directory: &Path) -> Result<Self, DiskError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|cause| DiskError::Io { path: directory.to_owned(), cause })?;
        let inner = Inner { directory: directory.to_owned(), saved: Mutex::new(None) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The state that was saved last. One that is damaged counts as none, once it is out of the way.
    pub fn load(&self, now: UnixTime) -> Result<Option<State>, DiskError> {
        let path = self.path(STATE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(DiskError::Io { path, cause }),
        };
        match read_state(file, now) {
            Ok(state) => Ok(Some(state)),
            Err(BadState::Io(cause)) => Err(DiskError::Io { path, cause }),
            Err(bad) => {
                let aside = path.with_extension(BAD);
                warn!(path = %path.display(), set_aside = %aside.display(), reason = %bad, "the saved state cannot be used");
                fs::rename(&path, &aside).map_err(|cause| DiskError::Io { path, cause })?;
                Ok(None)
            }
        }
    }

    /// Replaces the saved state, unless it is the same. Blocks.
    pub fn save(&self, state: &State) -> Result<(), DiskError> {
        let mut saved = self.inner.saved.lock();
        let parts = Parts::encode(state.clone(), saved.as_ref());
        let name = |parts: &Parts| (parts.generation(), parts.digest());
        let held = saved.as_ref().map(name).or_else(|| self.held());
        if held == Some(name(&parts)) {
            // The file keeps its age, which is how old its state is.
            *saved = Some(parts);
            return Ok(());
        }
        let head = format!("{MAGIC} {} {}\n", parts.generation(), parts.digest());
        self.replace(STATE, &[head.as_bytes(), &parts.full().to_bytes()])?;
        *saved = Some(parts);
        Ok(())
    }

    /// What the head line of the file says.
    fn held(&self) -> Option<(Generation, Digest)> {
        let mut head = Vec::new();
        let file = BufReader::new(File::open(self.path(STATE)).ok()?);
        file.take(HEAD_BYTES_MAX).read_until(b'\n', &mut head).ok()?;
        read_head(&head)
    }

    /// The SVID that was saved last, whether it is still valid or not.
    pub fn load_svid(&self) -> Result<Option<X509Svid>, DiskError> {
        let Some(pem) = self.read_secret(SVID)? else { return Ok(None) };
        let svid = X509Svid::from_pem(&pem, &pem);
        svid.map(Some).map_err(|cause| DiskError::Svid { path: self.path(SVID), cause })
    }

    /// Replaces chain and key as one.
    pub fn save_svid(&self, svid: &X509Svid) -> Result<(), DiskError> {
        self.replace(SVID, &[svid.chain_pem().as_bytes(), svid.key().to_pem().as_bytes()])
    }

    /// The key of an SVID that is not there yet, with the request for it: the same after a crash.
    pub fn pending(&self) -> Result<Pending, DiskError> {
        let path = self.path(PENDING);
        if let Some(pem) = self.read_secret(PENDING)? {
            let svid = |cause| DiskError::Svid { path: path.clone(), cause };
            let key = SvidKey::from_pem(&pem).map_err(InvalidSvid::Key).map_err(svid)?;
            let csr = CertificateSigningRequestDer::from_pem_slice(&pem);
            let csr = csr.map_err(|_malformed| InvalidSvid::NotPem).map_err(svid)?;
            return Ok(Pending { key, csr: csr.to_vec() });
        }
        let key = SvidKey::generate();
        let csr = key.csr();
        let request = pem::encode("CERTIFICATE REQUEST", &csr);
        self.replace(PENDING, &[key.to_pem().as_bytes(), request.as_bytes()])?;
        Ok(Pending { key, csr })
    }

    /// Has this token made this node one, with nothing asked for since.
    pub fn has_redeemed(&self, token: TokenId) -> Result<bool, DiskError> {
        let redeemed = self.read_secret(REDEEMED)?;
        let same = redeemed.is_some_and(|id| id.as_slice() == token.to_string().as_bytes());
        Ok(same && self.read_secret(PENDING)?.is_none())
    }

    /// Once there is an SVID.
    pub fn redeemed(&self, token: TokenId) -> Result<(), DiskError> {
        self.replace(REDEEMED, &[token.to_string().as_bytes()])?;
        let path = self.path(PENDING);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(DiskError::Io { path, cause }),
            _ => Ok(()),
        }
    }

    /// A file that only its owner could have read; none if it is not there.
    fn read_secret(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
        let path = self.path(name);
        let failed = |cause| DiskError::Io { path: path.clone(), cause };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(failed(cause)),
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(DiskError::Exposed { path, mode });
        }
        // Room for all of it at once: growing would leave copies of the key behind.
        let mut content = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize));
        file.take(SECRET_BYTES_MAX).read_to_end(&mut content).map_err(failed)?;
        Ok(Some(content))
    }

    /// Saves whatever changes, until told to stop; what changed last is saved before the end.
    ///
    /// What cannot be written is tried again with the next change and after a while: the gateway goes on.
    pub async fn keep(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        trust: TrustStore,
        svid: SvidHandle,
        shutdown: CancellationToken,
    ) {
        let (mut trusted, mut renewed) = (trust.subscribe(), svid.subscribe());
        let mut failing = false;
        loop {
            let began = now();
            let stopping = shutdown.is_cancelled();
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            trusted.borrow_and_update();
            renewed.borrow_and_update();
            let saved = self.clone().save_all(snapshot, &trust, svid.current()).await;
            if let Err(error) = &saved
                && !failing
            {
                warn!(%error, "the state is not saved; a restart without the control plane would use an older one");
            }
            failing = saved.is_err();
            if stopping {
                return;
            }
            let pause = SAVE_PAUSE.max(began.elapsed() * SAVE_SHARE);
            shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                Ok(()) = snapshots.changed() => {}
                Ok(()) = trusted.changed() => {}
                Ok(()) = renewed.changed() => {}
                () = tokio::time::sleep(SAVE_PAUSE * SAVE_SHARE), if failing => {}
            }
        }
    }

    async fn save_all(
        self,
        snapshot: Arc<Snapshot>,
        trust: &TrustStore,
        svid: Arc<X509Svid>,
    ) -> Result<(), DiskError> {
        let state = State::new(snapshot, trust);
        let saving = spawn_blocking(move || {
            // Before its sources have spoken a process knows less than the file.
            if state.generation() > Generation::default() {
                self.save(&state)?;
            }
            if self.load_svid().ok().flatten().is_none_or(|held| held.chain() != svid.chain()) {
                self.save_svid(&svid)?;
            }
            Ok(())
        });
        saving.await.unwrap_or_else(|ended| {
            let cause = io::Error::other(ended.to_string());
            Err(DiskError::Io { path: PathBuf::from(STATE), cause })
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.directory.join(name)
    }

    /// Readers, and a crash, see the old content or the new one.
    fn replace(&self, name: &str, content: &[&[u8]]) -> Result<(), DiskError> {
        let path = self.path(name);
        let unfinished = path.with_extension("unfinished");
        let replaced = write(&unfinished, content)
            .and_then(|()| fs::rename(&unfinished, &path))
            // The rename is only durable once the directory is.
            .and_then(|()| File::open(&self.inner.directory)?.sync_all());
        replaced.map_err(|cause| DiskError::Io { path, cause })
    }
}

#[expect(clippy::disallowed_methods, reason = "this loop is the rim; it measures what saving costs")]
fn now() -> Instant {
    Instant::now()
}

fn write(path: &Path, content: &[&[u8]]) -> io::Result<()> {
    // One process owns the directory, so what is left is of a crash.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    content.iter().try_for_each(|piece| file.write_all(piece))?;
    file.sync_all()
}

fn read_state(file: File, now: UnixTime) -> Result<State, BadState> {
    let length = file.metadata()?.len();
    if length > STATE_BYTES_MAX as u64 + HEAD_BYTES_MAX {
        return Err(BadState::TooLarge);
    }
    let mut reader = BufReader::new(file);
    let mut head = Vec::new();
    reader.by_ref().take(HEAD_BYTES_MAX).read_until(b'\n', &mut head)?;
    let (generation, announced) = read_head(&head).ok_or(BadState::Head)?;
    let mut body = Vec::with_capacity(length as usize);
    reader.take(STATE_BYTES_MAX as u64 + 1).read_to_end(&mut body)?;
    let delta = Delta::parse(&body.into()).map_err(InvalidState::from)?;
    Ok(Held::default().apply_announced(&delta, announced, now)?.state(generation)?)
}

fn read_head(head: &[u8]) -> Option<(Generation, Digest)> {
    let words = std::str::from_utf8(head).ok()?.strip_prefix(MAGIC)?.strip_prefix(' ')?.strip_suffix('\n')?;
    let (generation, digest) = words.split_once(' ')?;
    Some((Generation(generation.parse().ok()?), digest.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use trust_bundle::{BuiltinCa, CaSettings, SpiffeId, TrustDomain};

    use super::*;
    use crate::clock;
    use crate::model::Locality;
    use crate::snapshot::LocalCluster;

    /// For a machine that is busy with something else.
    const PATIENCE: Duration = Duration::from_secs(60);

    static DOMAIN: LazyLock<TrustDomain> = LazyLock::new(|| "a.example".try_into().unwrap());

    struct Fixture {
        directory: tempfile::TempDir,
        disk: Disk,
        ca: BuiltinCa,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (path, now) = (directory.path().join("ca"), clock::unix_now());
            let ca = BuiltinCa::open(&path, DOMAIN.clone(), CaSettings::default(), now).unwrap();
            let disk = Disk::open(&directory.path().join("gateway")).unwrap();
            Self { directory, disk, ca }
        }

        fn file(&self, name: &str) -> PathBuf {
            self.directory.path().join("gateway").join(name)
        }

        fn state(&self, generation: u64) -> State {
            let bundles = BTreeMap::from([(DOMAIN.clone(), Arc::new(self.ca.bundle()))]);
            State { snapshot: snapshot(generation), bundles }
        }

        fn svid(&self) -> X509Svid {
            let (key, id) = (SvidKey::generate(), SpiffeId::new(&DOMAIN, "/isthmus/gateway").unwrap());
            let hour = Duration::from_secs(3600);
            X509Svid::from_parts(self.ca.issue(&key.csr(), &id, hour, clock::unix_now()).unwrap(), key)
                .unwrap()
        }
    }

    fn snapshot(generation: u64) -> Arc<Snapshot> {
        let cluster = LocalCluster {
            name: "a".try_into().unwrap(),
            trust_domain: DOMAIN.clone(),
            locality: Locality::default(),
            gateways: None,
        };
        Arc::new(Snapshot { generation: Generation(generation), ..Snapshot::empty(Arc::new(cluster)) })
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_state_survives_a_restart() {
        let fixture = Fixture::new();
        assert!(fixture.disk.load(clock::unix_now()).unwrap().is_none());
        for generation in [7, 8] {
            fixture.disk.save(&fixture.state(generation)).unwrap();
            let again = Disk::open(&fixture.directory.path().join("gateway")).unwrap();
            assert_eq!(again.load(clock::unix_now()).unwrap(), Some(fixture.state(generation)));
        }
        assert_eq!(mode(&fixture.file(STATE)), 0o600);
        assert_eq!(mode(&fixture.directory.path().join("gateway")), 0o700);
    }

    #[test]
    fn a_state_that_is_there_already_keeps_its_age() {
        let fixture = Fixture::new();
        fixture.disk.save(&fixture.state(7)).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::open(fixture.file(STATE)).unwrap().set_modified(long_ago).unwrap();
        let again = Disk::open(&fixture.directory.path().join("gateway")).unwrap();
        let age = || fs::metadata(fixture.file(STATE)).unwrap().modified().unwrap();
        again.save(&fixture.state(7)).unwrap();
        assert_eq!(age(), long_ago);
        again.save(&fixture.state(8)).unwrap();
        assert_ne!(age(), long_ago);
    }

    #[test]
    fn what_is_left_of_a_crash_is_in_nobodys_way() {
        let fixture = Fixture::new();
        fs::write(fixture.file("state.unfinished"), "half of it").unwrap();
        fixture.disk.save(&fixture.state(1)).unwrap();
        assert_eq!(fixture.disk.load(clock::unix_now()).unwrap(), Some(fixture.state(1)));
        assert_eq!(fs::read_dir(fixture.directory.path().join("gateway")).unwrap().count(), 1);
    }

    #[test]
    fn damaged_states_are_set_aside() {
        let fixture = Fixture::new();
        fixture.disk.save(&fixture.state(7)).unwrap();
        let whole = fs::read(fixture.file(STATE)).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let later = String::from_utf8(whole.clone()).unwrap().replacen("state 1", "state 2", 1);
        let half = whole[..whole.len() / 2].to_vec();
        for bad in
            [Vec::new(), half, flipped(10), flipped(whole.len() - 20), later.into_bytes(), vec![0xff; 9000]]
        {
            fs::write(fixture.file(STATE), &bad).unwrap();
            assert_eq!(fixture.disk.load(clock::unix_now()).unwrap(), None);
            assert_eq!(fs::read(fixture.file("state.bad")).unwrap(), bad);
            assert!(!fixture.file(STATE).exists());
        }
        File::create(fixture.file(STATE)).unwrap().set_len(STATE_BYTES_MAX as u64 * 2).unwrap();
        assert_eq!(fixture.disk.load(clock::unix_now()).unwrap(), None);
    }

    #[test]
    fn an_svid_comes_back_with_its_key_and_only_for_its_owner() {
        let fixture = Fixture::new();
        assert!(fixture.disk.load_svid().unwrap().is_none());
        let svid = fixture.svid();
        fixture.disk.save_svid(&fixture.svid()).unwrap();
        fixture.disk.save_svid(&svid).unwrap();
        let read = fixture.disk.load_svid().unwrap().unwrap();
        assert_eq!((read.chain(), read.key().to_pem()), (svid.chain(), svid.key().to_pem()));
        assert_eq!(mode(&fixture.file(SVID)), 0o600);
        fs::set_permissions(fixture.file(SVID), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(fixture.disk.load_svid(), Err(DiskError::Exposed { mode: 0o640, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_changes_is_kept_and_the_last_before_the_end() {
        let fixture = Fixture::new();
        let (snapshots, following) = watch::channel(snapshot(0));
        let (trust, svid) = (TrustStore::new(), SvidHandle::new(fixture.svid()));
        let shutdown = CancellationToken::new();
        let keeping = fixture.disk.clone().keep(following, trust.clone(), svid.clone(), shutdown.clone());
        let changing = async {
            snapshots.send_replace(snapshot(3));
            until(|| loaded(&fixture).is_some_and(|state| state.generation() == Generation(3))).await;
            trust.put(fixture.ca.bundle()).unwrap();
            until(|| loaded(&fixture).is_some_and(|state| state.bundles.contains_key(&*DOMAIN))).await;
            let fresh = fixture.svid();
            let chain = fresh.chain().to_vec();
            svid.replace(fresh);
            until(|| fixture.disk.load_svid().unwrap().is_some_and(|svid| svid.chain() == chain)).await;
            snapshots.send_replace(snapshot(4));
            shutdown.cancel();
        };
        tokio::time::timeout(PATIENCE * 100, async { tokio::join!(keeping, changing) }).await.unwrap();
        assert_eq!(loaded(&fixture).unwrap().generation(), Generation(4));
    }

    fn loaded(fixture: &Fixture) -> Option<State> {
        fixture.disk.load(clock::unix_now()).unwrap()
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
