//! Opening the file: create or check, name what is in the way, start the writer.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableError};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use trust_bundle::Hex;

use super::super::change::{Revision, StoreId};
use super::tables::{self, counter, text};
use super::{ChangeLog, Embedded, File, read, writer};

/// The shape of the tables and values that this program writes.
pub const SCHEMA_VERSION: u64 = 1;
/// The file within the data directory.
const FILE_NAME: &str = "store.redb";
/// redb's cache; its default of 1 GiB is for databases, not for a few thousand keys.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "another process has the store {0} open; hint: one embedded store serves one process, stop the other one or use etcd"
    )]
    Locked(PathBuf),
    #[error(
        "the store {path} has schema {found}, this program knows up to {SCHEMA_VERSION}; hint: it was written by a newer isthmus, run that one"
    )]
    NewerSchema { path: PathBuf, found: u64 },
    #[error("cannot use {path} as a store: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot open the store {path}: {reason}")]
    Unusable { path: PathBuf, reason: String },
}

impl Embedded {
    /// Opens the store in a directory, or creates it.
    ///
    /// Leases begin anew at `now`, as they do when etcd restarts (E28): their holders were not able to
    /// keep them while the store was closed.
    pub fn open(directory: &Path, log: ChangeLog, now: UnixTime) -> Result<Self, OpenError> {
        let path = file_in(directory);
        let file = open_file(directory, &path)?;
        Self::start(file, &path, log, now)
    }

    /// Starts on a database that is already open.
    pub(super) fn start(
        database: Database,
        path: &Path,
        log: ChangeLog,
        now: UnixTime,
    ) -> Result<Self, OpenError> {
        let unusable = |reason: String| OpenError::Unusable { path: path.to_owned(), reason };
        check_schema(&database, path)?;
        let (identity, revision) = initialise(&database, now).map_err(|error| unusable(error.to_string()))?;
        let file: File = Arc::new(database);
        let (published, revisions) = watch::channel(revision);
        let writer = writer::Writer::start(file.clone(), log, published)
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        Ok(Self { identity, reader: read::Reader::new(file, revisions), writer })
    }
}

pub(super) fn file_in(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

fn open_file(directory: &Path, path: &Path) -> Result<Database, OpenError> {
    let io_error = |source| OpenError::Io { path: path.to_owned(), source };
    fs::create_dir_all(directory).map_err(io_error)?;
    create_private(path).map_err(io_error)?;
    let database = open_database(path)?;
    // The name of a new file is durable only when its directory is.
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error)?;
    Ok(database)
}

/// Creates the file for its owner alone; what is in it shows who trusts whom.
fn create_private(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

pub(super) fn open_database(path: &Path) -> Result<Database, OpenError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => OpenError::Locked(path.to_owned()),
        other => OpenError::Unusable { path: path.to_owned(), reason: other.to_string() },
    })
}

/// Looks before anything is written: a newer program may have other tables.
pub(super) fn check_schema(database: &Database, path: &Path) -> Result<(), OpenError> {
    let found = schema(database)
        .map_err(|error| OpenError::Unusable { path: path.to_owned(), reason: error.to_string() })?;
    match found {
        Some(found) if found > SCHEMA_VERSION => Err(OpenError::NewerSchema { path: path.to_owned(), found }),
        _ => Ok(()),
    }
}

fn schema(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(tables::COUNTERS) {
        Ok(counters) => Ok(counters.get(counter::SCHEMA)?.map(|schema| schema.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// Completes a new store, and renews leases in an old one; all in one transaction.
fn initialise(database: &Database, now: UnixTime) -> Result<(StoreId, Revision), redb::Error> {
    let txn = database.begin_write()?;
    tables::set(&txn, counter::SCHEMA, SCHEMA_VERSION)?;
    txn.open_table(tables::ENTRIES)?;
    txn.open_table(tables::CHANGES)?;
    txn.open_table(tables::LEASE_KEYS)?;
    renew_leases(&txn, now)?;
    let identity = StoreId(identify(&txn)?);
    let revision = tables::revision(&txn)?;
    txn.commit()?;
    Ok((identity, revision))
}

fn identify(txn: &redb::WriteTransaction) -> Result<String, redb::Error> {
    let mut texts = txn.open_table(tables::TEXTS)?;
    if let Some(id) = texts.get(text::ID)? {
        return Ok(id.value().to_owned());
    }
    let id = draw_id()?;
    texts.insert(text::ID, id.as_str())?;
    Ok(id)
}

fn draw_id() -> Result<String, redb::Error> {
    let mut bytes = [0; 16];
    let unable = |_unspecified| redb::Error::Io(io::Error::other("the system gives no random bytes"));
    SystemRandom::new().fill(&mut bytes).map_err(unable)?;
    Ok(Hex(&bytes).to_string())
}

fn renew_leases(txn: &redb::WriteTransaction, now: UnixTime) -> Result<(), redb::Error> {
    let mut leases = txn.open_table(tables::LEASES)?;
    let lengths: Vec<(u64, u64)> = leases
        .iter()?
        .map(|row| row.map(|(id, lease)| (id.value(), lease.value().0)))
        .collect::<Result<_, _>>()?;
    for (id, ttl) in lengths {
        leases.insert(id, (ttl, now.as_secs().saturating_add(ttl)))?;
    }
    Ok(())
}
