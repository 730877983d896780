//! What only the embedded store promises: the file, its lock, its schema, power cuts, backups.

use std::fs;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redb::{BackendError, Database, StorageBackend};
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

use super::super::battery::Subject;
use super::super::{Key, LeaseId, Prefix, Revision, Store, Transaction, WatchEnd};
use super::open::{OpenError, SCHEMA_VERSION, file_in};
use super::tables::{self, counter};
use super::{ChangeLog, Embedded};

/// A store in a directory of its own, with a clock that only moves when told to.
#[derive(Debug)]
struct Fixture {
    directory: TempDir,
    store: Arc<Embedded>,
    now: UnixTime,
}

impl Fixture {
    fn new() -> Self {
        Self::with_log(ChangeLog::default())
    }

    fn with_log(log: ChangeLog) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now = at(1_000_000);
        let store = Arc::new(Embedded::open(directory.path(), log, now).unwrap());
        Self { directory, store, now }
    }

    fn reopen(self) -> Self {
        let Self { directory, store, now } = self;
        drop(store);
        let store = Arc::new(Embedded::open(directory.path(), ChangeLog::default(), now).unwrap());
        Self { directory, store, now }
    }
}

#[async_trait]
impl Subject for Fixture {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn now(&self) -> UnixTime {
        self.now
    }

    async fn advance(&mut self, by: Duration) {
        self.now = at(self.now.as_secs() + by.as_secs());
        self.store.expire(self.now).await.unwrap();
    }

    async fn compact(&self, up_to: Revision) {
        self.store.compact(up_to).await.unwrap();
    }
}

mod battery {
    use super::Fixture;

    crate::store_battery!(async { Fixture::new() });
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn key(path: &str) -> Key {
    Key::new(&format!("/t/{path}")).unwrap()
}

fn all() -> Prefix {
    Prefix::new("/t/").unwrap()
}

async fn put(store: &Embedded, path: &str, value: &str) -> Revision {
    store.commit(Transaction::new().put(key(path), value.to_owned())).await.unwrap()
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let fixture = Fixture::new();
    let identity = fixture.store.identity().clone();
    let first = put(&fixture.store, "a", "1").await;
    put(&fixture.store, "b", "2").await;
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.identity(), &identity);
    let mut watch = fixture.store.watch(&all(), first).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 2);
    assert_eq!(put(&fixture.store, "c", "3").await, Revision(3));
}

#[tokio::test]
async fn leases_begin_anew_after_a_restart() {
    let mut fixture = Fixture::new();
    let lease = fixture.store.grant(Duration::from_secs(10), fixture.now).await.unwrap();
    let leased = Transaction::new().put_leased(key("a"), "1", lease);
    fixture.store.commit(leased).await.unwrap();
    fixture.now = at(fixture.now.as_secs() + 3600);
    let mut fixture = fixture.reopen();
    fixture.advance(Duration::from_secs(9)).await;
    assert!(fixture.store.get(&key("a")).await.unwrap().is_some());
    fixture.advance(Duration::from_secs(1)).await;
    assert!(fixture.store.get(&key("a")).await.unwrap().is_none());
    let next = fixture.store.grant(Duration::from_secs(10), fixture.now).await.unwrap();
    assert_ne!(next, lease, "a lease is never given out twice");
    assert_ne!(next, LeaseId(0));
}

#[tokio::test]
async fn a_second_opener_is_told_who_is_in_the_way() {
    let fixture = Fixture::new();
    let refused = Embedded::open(fixture.directory.path(), ChangeLog::default(), fixture.now).unwrap_err();
    assert!(matches!(&refused, OpenError::Locked(path) if *path == file_in(fixture.directory.path())));
    let shown = refused.to_string();
    assert!(shown.contains(fixture.directory.path().to_str().unwrap()), "{shown}");
    put(&fixture.store, "a", "the first one is not disturbed").await;
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let Fixture { directory, store, now } = Fixture::new();
    drop(store);
    let path = file_in(directory.path());
    let database = Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    tables::set(&txn, counter::SCHEMA, SCHEMA_VERSION + 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    let refused = Embedded::open(directory.path(), ChangeLog::default(), now).unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { found, .. } if found == SCHEMA_VERSION + 1));
    let txn = Database::open(&path).unwrap().begin_write().unwrap();
    assert_eq!(tables::count(&txn, counter::SCHEMA).unwrap(), SCHEMA_VERSION + 1);
}

#[tokio::test]
async fn what_is_no_store_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(file_in(directory.path()), "not a database, but long enough to be looked at ".repeat(200))
        .unwrap();
    let refused = Embedded::open(directory.path(), ChangeLog::default(), at(1)).unwrap_err();
    assert!(refused.to_string().contains("store.redb"), "{refused}");
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let fixture = Fixture::new();
    let mode = fs::metadata(file_in(fixture.directory.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_change_log_is_bounded_by_entries() {
    let fixture = Fixture::with_log(ChangeLog { entries_max: 10, bytes_max: u64::MAX });
    for n in 0..25 {
        put(&fixture.store, "a", &n.to_string()).await;
    }
    let refused = fixture.store.watch(&all(), Revision(15)).await.unwrap_err();
    assert_eq!(refused, WatchEnd::Compacted { oldest: Revision(16) });
    let mut watch = fixture.store.watch(&all(), Revision(16)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 10);
}

#[tokio::test]
async fn the_change_log_is_bounded_by_bytes() {
    let fixture = Fixture::with_log(ChangeLog { entries_max: u64::MAX, bytes_max: 10_000 });
    for _ in 0..25 {
        put(&fixture.store, "a", &"x".repeat(1000)).await;
    }
    assert!(fixture.store.watch(&all(), Revision(16)).await.is_err());
    assert!(fixture.store.watch(&all(), Revision(17)).await.is_ok());
}

#[tokio::test]
async fn a_slow_watch_is_told_that_it_missed_something() {
    let fixture = Fixture::with_log(ChangeLog { entries_max: 10, bytes_max: u64::MAX });
    let mut watch = fixture.store.watch(&all(), Revision(1)).await.unwrap();
    for n in 0..25 {
        put(&fixture.store, "a", &n.to_string()).await;
    }
    assert_eq!(watch.next().await, Err(WatchEnd::Compacted { oldest: Revision(16) }));
}

#[tokio::test]
async fn a_closed_store_ends_its_watches() {
    let Fixture { store, directory, .. } = Fixture::new();
    let mut watch = store.watch(&all(), Revision(1)).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Err(WatchEnd::Fault(_))));
    drop(directory);
}

/// A disk that loses everything that was not synced when the power goes.
#[derive(Debug, Default)]
struct Disk {
    cached: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct VolatileDisk(Arc<Mutex<Disk>>);

impl VolatileDisk {
    fn durable(&self) -> Self {
        let durable = self.0.lock().durable.clone();
        Self(Arc::new(Mutex::new(Disk { cached: durable.clone(), durable })))
    }

    fn open(&self) -> Embedded {
        let database = Database::builder().create_with_backend(self.clone()).unwrap();
        Embedded::start(database, Path::new("volatile"), ChangeLog::default(), at(1)).unwrap()
    }
}

impl StorageBackend for VolatileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().cached[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().cached.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.durable = disk.cached.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.0.lock().cached[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }
}

#[tokio::test]
async fn acknowledged_commits_survive_a_power_cut() {
    let disk = VolatileDisk::default();
    let store = disk.open();
    for n in 0..30 {
        let revision = put(&store, "a", &n.to_string()).await;
        let after_the_cut = disk.durable().open();
        let entry = after_the_cut.get(&key("a")).await.unwrap().unwrap();
        assert_eq!((entry.value, entry.revision), (n.to_string().into(), revision));
    }
}
