//! The store of a cluster that has one federation process: a redb file in the data directory.
//!
//! ```text
//! commit, lease ──► bounded queue ──► writer thread ──► redb (fsync) ──► reply, revision published
//! get, list, watch ───────────────► blocking pool ───► redb snapshot
//! ```
//!
//! redb takes one writer at a time and waits for the disk. A thread of its own keeps that wait out of
//! the async runtime, never piles blocked writers up in the blocking pool, and lets everything that
//! queued up during one fsync share the next (group commit). Reads are snapshots that no writer blocks;
//! they may touch the disk, so they run on the blocking pool.
//!
//! A watch keeps a position in the change log instead of a queue: a slow reader costs nothing, and one
//! that is too slow is told `Compacted`, as etcd does.

mod open;
mod read;
mod tables;
mod watch;
mod write;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::UnixTime;

use super::change::{Entry, LeaseId, Revision, StoreId};
use super::contract::{CommitError, Fault, LeaseError, Pages, Store, Watch, WatchEnd};
use super::key::{Key, Prefix};
use super::transaction::Transaction;
use read::Reader;
use writer::Writer;

pub use open::{OpenError, SCHEMA_VERSION};

/// How much history a watch can be behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeLog {
    pub entries_max: u64,
    pub bytes_max: u64,
}

impl Default for ChangeLog {
    /// Minutes of heavy churn; a restart of a reader takes seconds.
    fn default() -> Self {
        Self { entries_max: 20_000, bytes_max: 64 * 1024 * 1024 }
    }
}

/// A store in one file, for one process.
#[derive(Debug)]
pub struct Embedded {
    identity: StoreId,
    reader: Reader,
    writer: Writer,
}

impl Embedded {
    /// Forgets the change log up to a revision; watches from before are told `Compacted`.
    pub async fn compact(&self, up_to: Revision) -> Result<(), Fault> {
        self.writer.compact(up_to).await
    }

    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        *self.reader.revisions().borrow()
    }
}

#[async_trait]
impl Store for Embedded {
    fn identity(&self) -> &StoreId {
        &self.identity
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Fault> {
        self.reader.get(key.clone()).await
    }

    async fn list(&self, prefix: &Prefix, page_entries: usize) -> Result<Box<dyn Pages>, Fault> {
        Ok(Box::new(self.reader.list(prefix.clone(), page_entries).await?))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        transaction.check()?;
        self.writer.commit(transaction).await
    }

    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Box<dyn Watch>, WatchEnd> {
        Ok(Box::new(watch::LogWatch::start(self.reader.clone(), prefix.clone(), from).await?))
    }

    async fn grant(&self, ttl: Duration, now: UnixTime) -> Result<LeaseId, Fault> {
        self.writer.grant(ttl, now).await
    }

    async fn keep_alive(&self, lease: LeaseId, now: UnixTime) -> Result<(), LeaseError> {
        self.writer.keep_alive(lease, now).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.writer.revoke(lease).await
    }

    async fn expire(&self, now: UnixTime) -> Result<Vec<LeaseId>, Fault> {
        // Asked every second, and hardly ever is there anything to write.
        match self.reader.has_lease_over(now).await? {
            true => self.writer.expire(now).await,
            false => Ok(Vec::new()),
        }
    }
}

/// The shared handle of the file; the last one to go gives up the lock.
type File = Arc<redb::Database>;
