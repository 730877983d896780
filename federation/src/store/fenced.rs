//! A store through which only the leader can write (design.md, section 2).
//!
//! A process that was paused may believe that it leads after another one has begun to. So each of its
//! commits also asks whether the key of the leader is still as it was when it began to lead. Reads and
//! leases pass as they are: what a deposed leader reads harms nobody.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::UnixTime;
use tokio_util::sync::CancellationToken;

use super::change::{LeaseId, Revision, StoreId};
use super::contract::{CommitError, Fault, LeaseError, Pages, Store, Watch, WatchEnd};
use super::key::{Key, Prefix};
use super::transaction::Transaction;

/// What must not have changed for a commit to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub key: Key,
    pub revision: Revision,
}

/// The store behind a fence.
#[derive(Debug)]
pub struct Fenced {
    store: Arc<dyn Store>,
    fence: Fence,
    deposed: CancellationToken,
}

impl Fenced {
    /// Cancels `deposed` with the first commit that the fence refuses.
    pub fn new(store: Arc<dyn Store>, fence: Fence, deposed: CancellationToken) -> Self {
        Self { store, fence, deposed }
    }

    fn judge(&self, error: CommitError) -> CommitError {
        match error {
            CommitError::Conflict { key, .. } if key == self.fence.key => {
                self.deposed.cancel();
                CommitError::Fault(Fault::Unavailable("this process no longer leads".to_owned()))
            }
            other => other,
        }
    }
}

#[async_trait]
impl Store for Fenced {
    fn identity(&self) -> &StoreId {
        self.store.identity()
    }

    async fn get(&self, key: &Key) -> Result<Option<super::Entry>, Fault> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &Prefix, page_entries: usize) -> Result<Box<dyn Pages>, Fault> {
        self.store.list(prefix, page_entries).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        let fenced = transaction.fenced(self.fence.key.clone(), self.fence.revision);
        self.store.commit(fenced).await.map_err(|error| self.judge(error))
    }

    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Box<dyn Watch>, WatchEnd> {
        self.store.watch(prefix, from).await
    }

    async fn grant(&self, ttl: Duration, now: UnixTime) -> Result<LeaseId, Fault> {
        self.store.grant(ttl, now).await
    }

    async fn keep_alive(&self, lease: LeaseId, now: UnixTime) -> Result<(), LeaseError> {
        self.store.keep_alive(lease, now).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.store.revoke(lease).await
    }

    async fn expire(&self, now: UnixTime) -> Result<Vec<LeaseId>, Fault> {
        self.store.expire(now).await
    }
}
