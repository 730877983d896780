//! The trait, call by call.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;
use rustls::pki_types::UnixTime;

use super::super::change::{Entry, LeaseId, Revision, StoreId};
use super::super::contract::{CommitError, Fault, LeaseError, Pages, Store, Watch, WatchEnd};
use super::super::key::{Key, Prefix};
use super::super::transaction::Transaction;
use super::fault::Failed;
use super::members::Repeat;
use super::shared::Shared;
use super::version::ServerVersion;
use super::{pages, watch};

/// A store in an etcd, for any number of processes.
#[derive(Debug)]
pub struct Etcd {
    pub(super) identity: StoreId,
    pub(super) version: Option<ServerVersion>,
    pub(super) shared: Arc<Shared>,
}

impl Etcd {
    /// The version of the member that answered at the start, if it tells this user.
    pub fn version(&self) -> Option<&ServerVersion> {
        self.version.as_ref()
    }
}

#[async_trait]
impl Store for Etcd {
    fn identity(&self) -> &StoreId {
        &self.identity
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Fault> {
        self.shared.get(key).await
    }

    async fn list(&self, prefix: &Prefix, page_entries: usize) -> Result<Box<dyn Pages>, Fault> {
        Ok(Box::new(pages::RevisionPages::start(self.shared.clone(), prefix, page_entries).await?))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        transaction.check()?;
        self.shared.commit(&transaction).await
    }

    async fn watch(&self, prefix: &Prefix, from: Revision) -> Result<Box<dyn Watch>, WatchEnd> {
        Ok(Box::new(watch::EtcdWatch::start(self.shared.clone(), prefix, from).await?))
    }

    async fn grant(&self, ttl: Duration, _now: UnixTime) -> Result<LeaseId, Fault> {
        let seconds =
            i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(i64::MAX).max(1);
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        // A lease that nobody heard of ends by itself, so another one does no harm.
        let granted = self.shared.call(Repeat::Always, grant).await.map_err(Failed::into_fault)?;
        self.shared.check(granted.header(), 0)?;
        Ok(LeaseId(granted.id().cast_unsigned()))
    }

    async fn keep_alive(&self, lease: LeaseId, _now: UnixTime) -> Result<(), LeaseError> {
        let id = lease.0.cast_signed();
        // The first answer is read within; the stream ends with what is dropped here.
        let keep = |client: Client| async move { client.lease_client().keep_alive(id).await.map(drop) };
        self.shared.call(Repeat::Always, keep).await.map_err(|failed| lease_error(failed, lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        let id = lease.0.cast_signed();
        let revoke = |client: Client| async move { client.lease_client().revoke(id).await };
        self.shared.call(Repeat::IfUnsent, revoke).await.map_err(|failed| lease_error(failed, lease))?;
        Ok(())
    }

    /// etcd ends leases by itself.
    async fn expire(&self, _now: UnixTime) -> Result<Vec<LeaseId>, Fault> {
        Ok(Vec::new())
    }
}

fn lease_error(failed: Failed, lease: LeaseId) -> LeaseError {
    if failed.is_unknown_lease() { LeaseError::NoSuchLease(lease) } else { failed.into_fault().into() }
}
