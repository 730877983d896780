//! Reading: each read is a redb snapshot, taken on the blocking pool.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable};
use rustls::pki_types::UnixTime;
use tokio::sync::watch;

use super::super::change::{Change, Changes, Entry, LeaseId, Revision};
use super::super::contract::{Fault, PageError, Pages, WatchEnd};
use super::super::key::{Key, Prefix};
use super::File;
use super::tables::{self, ChangeRow, counter, fault};

/// Changes told at once; a revision is always told whole, so it may be more.
const CHANGES_AT_ONCE: usize = 1000;
/// Pages are of at least one entry and at most this many.
const PAGE_ENTRIES_MAX: usize = 1000;

/// Reads of the file, and the revision that was last published.
#[derive(Clone)]
pub(super) struct Reader {
    file: File,
    revisions: watch::Receiver<Revision>,
}

impl Reader {
    pub(super) fn new(file: File, revisions: watch::Receiver<Revision>) -> Self {
        Self { file, revisions }
    }

    /// Published after each commit is durable; closed when the writer has ended.
    pub(super) fn revisions(&self) -> &watch::Receiver<Revision> {
        &self.revisions
    }

    pub(super) async fn get(&self, key: Key) -> Result<Option<Entry>, Fault> {
        self.read(move |txn| {
            let entries = txn.open_table(tables::ENTRIES)?;
            let row = entries.get(key.as_str())?;
            Ok(row.map(|row| entry(key, row.value())))
        })
        .await
    }

    pub(super) async fn list(&self, prefix: Prefix, page_entries: usize) -> Result<SnapshotPages, Fault> {
        let file = self.file.clone();
        let begin = move || -> Result<_, redb::Error> {
            let txn = file.begin_read()?;
            let revision = count(&txn, counter::REVISION).map(Revision)?;
            Ok((Arc::new(txn), revision))
        };
        let (snapshot, revision) = blocking(begin).await?;
        let page_entries = page_entries.clamp(1, PAGE_ENTRIES_MAX);
        Ok(SnapshotPages {
            snapshot,
            revision,
            after: Some(prefix.as_str().to_owned()),
            prefix,
            page_entries,
        })
    }

    /// The changes from a revision on under a prefix; `None` where there are none yet.
    pub(super) async fn changes(
        &self,
        prefix: Prefix,
        from: Revision,
    ) -> Result<Result<Changes, WatchEnd>, Fault> {
        self.read(move |txn| changes(txn, &prefix, from)).await
    }

    pub(super) async fn has_lease_over(&self, now: UnixTime) -> Result<bool, Fault> {
        self.read(move |txn| {
            for row in txn.open_table(tables::LEASES)?.iter()? {
                if row?.1.value().1 <= now.as_secs() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, Fault> {
        let file = self.file.clone();
        blocking(move || read(&file.begin_read()?)).await
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("revision", &*self.revisions.borrow()).finish_non_exhaustive()
    }
}

/// A listing over one redb snapshot, which keeps its pages in the file for as long as it is held.
pub(super) struct SnapshotPages {
    snapshot: Arc<ReadTransaction>,
    revision: Revision,
    prefix: Prefix,
    /// The text after which the next page begins; `None` when all is told.
    after: Option<String>,
    page_entries: usize,
}

#[async_trait]
impl Pages for SnapshotPages {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn next(&mut self) -> Result<Option<Vec<Entry>>, PageError> {
        let Some(after) = self.after.clone() else { return Ok(None) };
        let (snapshot, end, limit) = (self.snapshot.clone(), self.prefix.end(), self.page_entries);
        let page = blocking(move || page(&snapshot, &after, &end, limit)).await?;
        let full = page.len() == self.page_entries;
        self.after = page.last().filter(|_last| full).map(|last| last.key.as_str().to_owned());
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}

impl fmt::Debug for SnapshotPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotPages").field("revision", &self.revision).finish_non_exhaustive()
    }
}

fn page(snapshot: &ReadTransaction, after: &str, end: &str, limit: usize) -> Result<Vec<Entry>, redb::Error> {
    let entries = snapshot.open_table(tables::ENTRIES)?;
    let rows = entries.range::<&str>((Bound::Excluded(after), Bound::Excluded(end)))?;
    rows.take(limit)
        .map(|row| {
            let (key, value) = row?;
            Ok(entry(known_key(key.value())?, value.value()))
        })
        .collect()
}

fn changes(
    txn: &ReadTransaction,
    prefix: &Prefix,
    from: Revision,
) -> Result<Result<Changes, WatchEnd>, redb::Error> {
    let compacted = count(txn, counter::COMPACTED)?;
    if from.0 <= compacted {
        return Ok(Err(WatchEnd::Compacted { oldest: Revision(compacted).next() }));
    }
    let mut told = Changes { revision: Revision(count(txn, counter::REVISION)?), changes: Vec::new() };
    let log = txn.open_table(tables::CHANGES)?;
    for row in log.range((from.0, 0)..)? {
        let (at, row) = row?;
        let revision = Revision(at.value().0);
        let last = told.changes.last().map_or(revision, Change::revision);
        if told.changes.len() >= CHANGES_AT_ONCE && last != revision {
            told.revision = last;
            break;
        }
        told.changes.extend(change(row.value(), revision, prefix)?);
    }
    Ok(Ok(told))
}

fn change(row: ChangeRow<'_>, revision: Revision, prefix: &Prefix) -> Result<Option<Change>, redb::Error> {
    let (key, content) = row;
    if !key.starts_with(prefix.as_str()) {
        return Ok(None);
    }
    let key = known_key(key)?;
    Ok(Some(match content {
        Some((lease, value)) => Change::Put(entry(key, (revision.0, lease, value))),
        None => Change::Deleted { key, revision },
    }))
}

fn entry(key: Key, (revision, lease, value): (u64, u64, &[u8])) -> Entry {
    let lease = (lease != 0).then_some(LeaseId(lease));
    Entry { key, value: Bytes::copy_from_slice(value), revision: Revision(revision), lease }
}

fn known_key(text: &str) -> Result<Key, redb::Error> {
    Key::new(text).map_err(|invalid| redb::Error::Corrupted(invalid.to_string()))
}

fn count(txn: &ReadTransaction, name: &str) -> Result<u64, redb::Error> {
    Ok(txn.open_table(tables::COUNTERS)?.get(name)?.map_or(0, |value| value.value()))
}

/// Runs something that may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(fault),
        Err(stopped) => Err(Fault::Unavailable(format!("a read did not finish: {stopped}"))),
    }
}
