//! What commands do to the tables. Refusals change nothing, so a group can go on after them.

use std::time::Duration;

use redb::{Error, ReadableTable, WriteTransaction};
use rustls::pki_types::UnixTime;

use super::super::change::{LeaseId, Revision};
use super::super::contract::{CommitError, LeaseError};
use super::super::key::Key;
use super::super::transaction::{Operation, Transaction};
use super::ChangeLog;
use super::tables::{self, CHANGES, ENTRIES, LEASE_KEYS, LEASES, counter};

/// Applies a transaction, or says why not; the outer error is the file's.
pub(super) fn commit(
    txn: &WriteTransaction,
    transaction: &Transaction,
) -> Result<Result<Revision, CommitError>, Error> {
    if let Some(refusal) = refusal(txn, transaction)? {
        return Ok(Err(refusal));
    }
    let mut batch = Batch::begin(txn)?;
    for operation in transaction.operations() {
        batch.apply(operation)?;
    }
    batch.finish().map(Ok)
}

fn refusal(txn: &WriteTransaction, transaction: &Transaction) -> Result<Option<CommitError>, Error> {
    let entries = txn.open_table(ENTRIES)?;
    for compare in transaction.compares() {
        let found = entries.get(compare.key.as_str())?.map_or(0, |row| row.value().0);
        if found != compare.revision.0 {
            let (key, expected) = (compare.key.clone(), compare.revision);
            return Ok(Some(CommitError::Conflict { key, expected, found: Revision(found) }));
        }
    }
    let leases = txn.open_table(LEASES)?;
    for operation in transaction.operations() {
        if let Operation::Put { lease: Some(lease), .. } = operation
            && leases.get(lease.0)?.is_none()
        {
            return Ok(Some(CommitError::NoSuchLease(*lease)));
        }
    }
    Ok(None)
}

pub(super) fn grant(txn: &WriteTransaction, ttl: Duration, now: UnixTime) -> Result<LeaseId, Error> {
    let id = tables::count(txn, counter::LEASE)? + 1;
    tables::set(txn, counter::LEASE, id)?;
    let seconds = whole_seconds(ttl);
    txn.open_table(LEASES)?.insert(id, (seconds, now.as_secs().saturating_add(seconds)))?;
    Ok(LeaseId(id))
}

fn whole_seconds(ttl: Duration) -> u64 {
    ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).max(1)
}

pub(super) fn keep_alive(
    txn: &WriteTransaction,
    lease: LeaseId,
    now: UnixTime,
) -> Result<Result<(), LeaseError>, Error> {
    let mut leases = txn.open_table(LEASES)?;
    let Some(ttl) = leases.get(lease.0)?.map(|row| row.value().0) else {
        return Ok(Err(LeaseError::NoSuchLease(lease)));
    };
    leases.insert(lease.0, (ttl, now.as_secs().saturating_add(ttl)))?;
    Ok(Ok(()))
}

pub(super) fn revoke(txn: &WriteTransaction, lease: LeaseId) -> Result<Result<(), LeaseError>, Error> {
    if txn.open_table(LEASES)?.remove(lease.0)?.is_none() {
        return Ok(Err(LeaseError::NoSuchLease(lease)));
    }
    let mut batch = Batch::begin(txn)?;
    for key in leased_keys(txn, lease)? {
        batch.delete(&key)?;
    }
    batch.finish()?;
    Ok(Ok(()))
}

pub(super) fn expire(txn: &WriteTransaction, now: UnixTime) -> Result<Vec<LeaseId>, Error> {
    let over = leases_over(txn, now)?;
    for lease in &over {
        // It was in the table a moment ago, in this same transaction.
        drop(revoke(txn, *lease)?);
    }
    Ok(over)
}

fn leases_over(txn: &WriteTransaction, now: UnixTime) -> Result<Vec<LeaseId>, Error> {
    let leases = txn.open_table(LEASES)?;
    let mut over = Vec::new();
    for row in leases.iter()? {
        let (id, lease) = row?;
        if lease.value().1 <= now.as_secs() {
            over.push(LeaseId(id.value()));
        }
    }
    Ok(over)
}

fn leased_keys(txn: &WriteTransaction, lease: LeaseId) -> Result<Vec<String>, Error> {
    let keys = txn.open_table(LEASE_KEYS)?;
    let rows = keys.range((lease.0, "")..(lease.0 + 1, ""))?;
    rows.map(|row| Ok(row?.0.value().1.to_owned())).collect()
}

/// Forgets the log up to a revision, which is never beyond the newest.
pub(super) fn compact(txn: &WriteTransaction, up_to: Revision) -> Result<(), Error> {
    let up_to = up_to.min(tables::revision(txn)?);
    while let Some(oldest) = oldest(txn)?
        && oldest <= up_to.0
    {
        forget(txn, oldest)?;
    }
    let compacted = tables::count(txn, counter::COMPACTED)?.max(up_to.0);
    tables::set(txn, counter::COMPACTED, compacted)
}

/// Keeps the log within its bounds, whole revisions at a time.
pub(super) fn trim(txn: &WriteTransaction, log: ChangeLog) -> Result<(), Error> {
    while (tables::count(txn, counter::LOG_ENTRIES)? > log.entries_max
        || tables::count(txn, counter::LOG_BYTES)? > log.bytes_max)
        && let Some(oldest) = oldest(txn)?
    {
        forget(txn, oldest)?;
    }
    Ok(())
}

fn oldest(txn: &WriteTransaction) -> Result<Option<u64>, Error> {
    let changes = txn.open_table(CHANGES)?;
    Ok(changes.first()?.map(|(at, _change)| at.value().0))
}

fn forget(txn: &WriteTransaction, revision: u64) -> Result<(), Error> {
    let (mut entries, mut bytes) = (0, 0);
    let mut changes = txn.open_table(CHANGES)?;
    changes.retain_in((revision, 0)..(revision + 1, 0), |_at, (key, content)| {
        entries += 1;
        bytes += weight(key, content.map_or(0, |(_lease, value)| value.len()));
        false
    })?;
    drop(changes);
    add(txn, counter::LOG_ENTRIES, |sum| sum.saturating_sub(entries))?;
    add(txn, counter::LOG_BYTES, |sum| sum.saturating_sub(bytes))?;
    tables::set(txn, counter::COMPACTED, revision)
}

fn weight(key: &str, value_bytes: usize) -> u64 {
    (key.len() + value_bytes) as u64
}

fn add(txn: &WriteTransaction, name: &str, sum: impl FnOnce(u64) -> u64) -> Result<(), Error> {
    let value = sum(tables::count(txn, name)?);
    tables::set(txn, name, value)
}

/// The changes of one revision, which is taken only if there are any.
struct Batch<'txn> {
    txn: &'txn WriteTransaction,
    revision: Revision,
    changes: u32,
    bytes: u64,
}

impl<'txn> Batch<'txn> {
    fn begin(txn: &'txn WriteTransaction) -> Result<Self, Error> {
        Ok(Self { txn, revision: tables::revision(txn)?.next(), changes: 0, bytes: 0 })
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), Error> {
        match operation {
            Operation::Put { key, value, lease } => self.put(key, value, *lease),
            Operation::Delete(key) => self.delete(key.as_str()),
            Operation::DeletePrefix(prefix) => {
                for key in self.keys(prefix.as_str(), &prefix.end())? {
                    self.delete(&key)?;
                }
                Ok(())
            }
        }
    }

    fn put(&mut self, key: &Key, value: &[u8], lease: Option<LeaseId>) -> Result<(), Error> {
        let lease = lease.map_or(0, |lease| lease.0);
        let mut entries = self.txn.open_table(ENTRIES)?;
        let held = entries.insert(key.as_str(), (self.revision.0, lease, value))?.map(|row| row.value().1);
        self.move_lease(key.as_str(), held.unwrap_or(0), lease)?;
        self.log(key.as_str(), Some((lease, value)))
    }

    fn delete(&mut self, key: &str) -> Result<(), Error> {
        let mut entries = self.txn.open_table(ENTRIES)?;
        let Some(held) = entries.remove(key)?.map(|row| row.value().1) else { return Ok(()) };
        self.move_lease(key, held, 0)?;
        self.log(key, None)
    }

    fn keys(&self, start: &str, end: &str) -> Result<Vec<String>, Error> {
        let entries = self.txn.open_table(ENTRIES)?;
        entries.range(start..end)?.map(|row| Ok(row?.0.value().to_owned())).collect()
    }

    fn move_lease(&self, key: &str, from: u64, to: u64) -> Result<(), Error> {
        let mut keys = self.txn.open_table(LEASE_KEYS)?;
        if from != 0 {
            keys.remove((from, key))?;
        }
        if to != 0 {
            keys.insert((to, key), ())?;
        }
        Ok(())
    }

    fn log(&mut self, key: &str, content: Option<(u64, &[u8])>) -> Result<(), Error> {
        self.txn.open_table(CHANGES)?.insert((self.revision.0, self.changes), (key, content))?;
        self.changes += 1;
        self.bytes += weight(key, content.map_or(0, |(_lease, value)| value.len()));
        Ok(())
    }

    fn finish(self) -> Result<Revision, Error> {
        if self.changes == 0 {
            return tables::revision(self.txn);
        }
        add(self.txn, counter::LOG_ENTRIES, |sum| sum + u64::from(self.changes))?;
        add(self.txn, counter::LOG_BYTES, |sum| sum + self.bytes)?;
        tables::set(self.txn, counter::REVISION, self.revision.0)?;
        Ok(self.revision)
    }
}
