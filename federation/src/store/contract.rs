//! The trait that etcd and the embedded store implement, with etcd's semantics.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::UnixTime;

use super::change::{Changes, Entry, LeaseId, Revision, StoreId};
use super::key::{Key, Prefix};
use super::transaction::{InvalidTransaction, Transaction};

/// Listings that a compaction overtakes are begun anew this often, then something else is wrong.
const LISTING_ATTEMPTS_MAX: usize = 3;
/// Entries in a page (E11).
const PAGE_ENTRIES: usize = 500;

/// A store of one cluster.
///
/// A commit returns only once it is durable. Reads see every commit that returned before they began.
/// After a `Fault` a commit may or may not have happened: read before trying again.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Which store this is; the same for its whole life.
    fn identity(&self) -> &StoreId;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Fault>;

    /// Lists a prefix in the order of its keys, every page as of the same revision.
    async fn list(&self, prefix: &Prefix, page_entries: usize) -> Result<Box<dyn Pages>, Fault>;

    /// Commits all or nothing; without any effect the revision stays.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError>;

    /// Follows a prefix from the revision of the first change wanted.
    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Box<dyn Watch>, WatchEnd>;

    /// Grants a lease of whole seconds, rounded up.
    async fn grant(&self, ttl: Duration, now: UnixTime) -> Result<LeaseId, Fault>;

    async fn keep_alive(&self, lease: LeaseId, now: UnixTime) -> Result<(), LeaseError>;

    /// Ends a lease and deletes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError>;

    /// Ends the leases that are over; a server that does it by itself has nothing to do here.
    async fn expire(&self, now: UnixTime) -> Result<Vec<LeaseId>, Fault>;
}

/// A listing that is read page by page.
#[async_trait]
pub trait Pages: fmt::Debug + Send {
    /// The revision that every page shows; a watch goes on at the next one.
    fn revision(&self) -> Revision;

    /// The next entries; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Entry>>, PageError>;
}

/// A watch that is read at the reader's pace; nothing queues up for a slow one.
#[async_trait]
pub trait Watch: fmt::Debug + Send {
    /// Waits for changes. Cancelling the wait loses nothing.
    async fn next(&mut self) -> Result<Changes, WatchEnd>;
}

/// Everything under a prefix as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

/// Reads a whole listing, anew when a compaction overtakes it (E11).
pub async fn list_all(store: &dyn Store, prefix: &Prefix) -> Result<Listing, Fault> {
    for _attempt in 0..LISTING_ATTEMPTS_MAX {
        if let Some(listing) = read_pages(store, prefix).await? {
            return Ok(listing);
        }
    }
    Err(Fault::Unavailable(format!("listings of {prefix} are compacted faster than they can be read")))
}

async fn read_pages(store: &dyn Store, prefix: &Prefix) -> Result<Option<Listing>, Fault> {
    let mut pages = store.list(prefix, PAGE_ENTRIES).await?;
    let mut entries = Vec::new();
    loop {
        match pages.next().await {
            Ok(Some(page)) => entries.extend(page),
            Ok(None) => return Ok(Some(Listing { revision: pages.revision(), entries })),
            Err(PageError::Compacted) => return Ok(None),
            Err(PageError::Fault(fault)) => return Err(fault),
        }
    }
}

/// The store itself failed, not what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// May pass by itself.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Reads still work; writes need room first (E17).
    #[error("the store is full: {0}; hint: free some space, reads and traffic go on meanwhile")]
    NoSpace(String),
    /// Needs an operator: the store knows us, and does not let us.
    #[error("the store refuses it: {0}; hint: give the user of our client certificate its role in etcd")]
    Denied(String),
    /// Needs an operator: what answers is not the store that we knew, or an earlier state of it (E18).
    #[error(
        "the store cannot be trusted: {0}; hint: look at `isthmus store status`, then `isthmus store accept`"
    )]
    Suspicious(String),
    /// Needs an operator.
    #[error("the store is damaged: {0}; hint: restore a backup with `isthmus store restore`")]
    Corrupt(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    #[error("{key} was last changed at revision {found}, not {expected}")]
    Conflict { key: Key, expected: Revision, found: Revision },
    #[error("there is no lease {0}")]
    NoSuchLease(LeaseId),
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Grant a new one and put all its keys again (E15).
    #[error("there is no lease {0}")]
    NoSuchLease(LeaseId),
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The listing must be begun anew.
    #[error("the revision of the listing has been compacted")]
    Compacted,
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// List again and compare; never clear first (E12).
    #[error("changes before revision {oldest} have been compacted")]
    Compacted { oldest: Revision },
    #[error(transparent)]
    Fault(#[from] Fault),
}
