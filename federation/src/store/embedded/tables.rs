//! What is in the file: the tables, and the numbers that hold them together.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::super::change::Revision;
use super::super::contract::Fault;

/// Numbers by name: `counter::*`. Its shape never changes, since the schema version is in it.
pub(super) const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// Texts by name: `text::*`.
pub(super) const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");
/// Key to the revision that changed it last, its lease (0 for none), and its value.
pub(super) const ENTRIES: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("entries");
/// Revision and place in its transaction to a key and, unless deleted, its lease and value.
pub(super) const CHANGES: TableDefinition<'_, (u64, u32), ChangeRow<'static>> =
    TableDefinition::new("changes");
/// Lease to its length and end, in seconds.
pub(super) const LEASES: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("leases");
pub(super) const LEASE_KEYS: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("lease-keys");

pub(super) type ChangeRow<'a> = (&'a str, Option<(u64, &'a [u8])>);

pub(super) mod counter {
    pub(crate) const SCHEMA: &str = "schema";
    pub(crate) const REVISION: &str = "revision";
    /// The newest revision that the change log no longer has.
    pub(crate) const COMPACTED: &str = "compacted";
    pub(crate) const LOG_ENTRIES: &str = "log-entries";
    pub(crate) const LOG_BYTES: &str = "log-bytes";
    pub(crate) const LEASE: &str = "lease";
}

pub(super) mod text {
    pub(crate) const ID: &str = "id";
}

/// Reads a counter within a write; what was never written is 0.
pub(super) fn count(txn: &WriteTransaction, name: &str) -> Result<u64, redb::Error> {
    Ok(txn.open_table(COUNTERS)?.get(name)?.map_or(0, |value| value.value()))
}

pub(super) fn set(txn: &WriteTransaction, name: &str, value: u64) -> Result<(), redb::Error> {
    txn.open_table(COUNTERS)?.insert(name, value)?;
    Ok(())
}

pub(super) fn revision(txn: &WriteTransaction) -> Result<Revision, redb::Error> {
    count(txn, counter::REVISION).map(Revision)
}

/// Sorts what redb says into what a caller can do about it.
pub(super) fn fault(error: impl Into<redb::Error>) -> Fault {
    let error = error.into();
    match &error {
        redb::Error::Corrupted(_) => Fault::Corrupt(error.to_string()),
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Fault::NoSpace(error.to_string())
        }
        _ => Fault::Unavailable(error.to_string()),
    }
}
