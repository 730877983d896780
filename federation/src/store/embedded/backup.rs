//! A copy of the store in a file, and a store from such a copy.
//!
//! A backup is taken from one snapshot while the store goes on. It is itself a store file, so that it
//! can be looked at. A restored store keeps its id, since it still is this cluster's store, but counts
//! `restored` one up: who remembers a revision, a sequence or an epoch of the store as it was can see
//! that time went back (E18, RT5), and peers are told by the instance epoch of the peering stream.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, Value, WriteTransaction,
};

use super::super::change::StoreIdentity;
use super::open::{self, OpenError};
use super::tables::{self, counter, text};
use super::{Embedded, File};

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{0} exists already; hint: choose another file, a backup never replaces one")]
    Exists(PathBuf),
    #[error("cannot write the backup {path}: {reason}")]
    Failed { path: PathBuf, reason: String },
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0} has a store already; hint: move it away first, a restore never replaces one")]
    Exists(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0} is not a backup of a store")]
    NotABackup(PathBuf),
    #[error("cannot restore into {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot restore into {path}: {source}")]
    Write { path: PathBuf, source: Box<redb::Error> },
}

impl Embedded {
    /// Writes everything as of now into a new file, while the store goes on.
    pub async fn backup(&self, to: &Path) -> Result<(), BackupError> {
        let (file, path) = (self.reader.file().clone(), to.to_owned());
        let failed = |reason: String| BackupError::Failed { path: to.to_owned(), reason };
        let copied = tokio::task::spawn_blocking(move || back_up(&file, &path)).await;
        copied.map_err(|stopped| failed(stopped.to_string()))?
    }

    /// Makes a store in an empty directory from a backup.
    pub fn restore(from: &Path, directory: &Path) -> Result<StoreIdentity, RestoreError> {
        let path = open::file_in(directory);
        if path.exists() {
            return Err(RestoreError::Exists(path));
        }
        let io_error = |source| RestoreError::Io { path: path.clone(), source };
        let unfinished = unfinished(&path);
        fs::create_dir_all(directory).map_err(io_error)?;
        fs::copy(from, &unfinished).map_err(io_error)?;
        restrict(&unfinished).map_err(io_error)?;
        let identity = mark_restored(&unfinished, from)?;
        publish(&unfinished, &path).map_err(io_error)?;
        Ok(identity)
    }
}

fn back_up(file: &File, to: &Path) -> Result<(), BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let failed = |reason: String| BackupError::Failed { path: to.to_owned(), reason };
    let unfinished = unfinished(to);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error.to_string())),
        _ => {}
    }
    copy(file, &unfinished).map_err(|error| failed(error.to_string()))?;
    restrict(&unfinished).and_then(|()| publish(&unfinished, to)).map_err(|error| failed(error.to_string()))
}

fn copy(file: &File, to: &Path) -> Result<(), redb::Error> {
    let read = file.begin_read()?;
    let backup = Database::create(to)?;
    let write = backup.begin_write()?;
    copy_table(&read, &write, tables::COUNTERS)?;
    copy_table(&read, &write, tables::TEXTS)?;
    copy_table(&read, &write, tables::ENTRIES)?;
    copy_table(&read, &write, tables::CHANGES)?;
    copy_table(&read, &write, tables::LEASES)?;
    copy_table(&read, &write, tables::LEASE_KEYS)?;
    write.commit()?;
    Ok(())
}

fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<(), redb::Error> {
    let mut copy = to.open_table(table)?;
    for row in from.open_table(table)?.iter()? {
        let (key, value) = row?;
        copy.insert(key.value(), value.value())?;
    }
    Ok(())
}

fn mark_restored(path: &Path, from: &Path) -> Result<StoreIdentity, RestoreError> {
    let database = open::open_database(path)?;
    open::check_schema(&database, from)?;
    let failed =
        |source: redb::Error| RestoreError::Write { path: path.to_owned(), source: Box::new(source) };
    let identity = count_up(&database).map_err(failed)?;
    identity.ok_or_else(|| RestoreError::NotABackup(from.to_owned()))
}

fn count_up(database: &Database) -> Result<Option<StoreIdentity>, redb::Error> {
    let txn = database.begin_write()?;
    let id = txn.open_table(tables::TEXTS)?.get(text::ID)?.map(|id| id.value().to_owned());
    let restored = tables::count(&txn, counter::RESTORED)? + 1;
    tables::set(&txn, counter::RESTORED, restored)?;
    txn.commit()?;
    Ok(id.map(|id| StoreIdentity { id, restored }))
}

/// A name beside the file, so that a crash leaves no half one under the right name.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

fn restrict(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}

fn publish(unfinished: &Path, path: &Path) -> io::Result<()> {
    fs::File::open(unfinished)?.sync_all()?;
    fs::rename(unfinished, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
