//! The store of a cluster that has several federation processes: an etcd, reached over its v3 API.
//!
//! ```text
//! get, list, commit, lease ──► members: one connection each, the next one when one does not answer
//! watch ──► own stream ──► progress asked for when quiet ──► given up when silent, resumed elsewhere
//! ```
//!
//! Every call is bounded in time. What may have reached a member and changes something is never sent
//! twice: the caller gets a `Fault`, and a commit may have happened. Every answer is checked to come
//! from the etcd cluster that was opened, at no earlier revision than was seen (E18).
//!
//! Rules: notes/trust 7.3, E10-E18. `with_fragment` (E10) is not used: the client does not say which
//! part is the last, and a revision must not be torn. A catch-up too large for one message is told as
//! `Compacted`, after which the reader lists, which is paged.

mod fault;
mod files;
mod layout;
mod members;
mod open;
mod pages;
mod transaction;
mod version;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, KvClient, ResponseHeader};
use rustls::pki_types::UnixTime;

use super::change::{Entry, LeaseId, Revision, StoreIdentity};
use super::contract::{CommitError, Fault, LeaseError, Pages, Store, Watch, WatchEnd};
use super::key::{Key, Prefix};
use super::transaction::Transaction;
use fault::Failed;
use layout::Layout;
use members::{Members, Repeat};

pub use open::OpenError;
pub use version::{ServerVersion, VersionVerdict};

/// A store in an etcd, for any number of processes.
#[derive(Debug)]
pub struct Etcd {
    identity: StoreIdentity,
    version: ServerVersion,
    shared: Arc<Shared>,
}

/// What calls and watches have in common.
#[derive(Debug)]
struct Shared {
    members: Members,
    layout: Layout,
    /// The id of the etcd cluster that was opened.
    cluster: u64,
    /// The highest revision that any answer showed.
    seen: AtomicU64,
    /// Does a progress notification never overtake a change (etcd#15220)?
    progress_is_exact: bool,
}

impl Etcd {
    /// The lowest version among the members that answered at the start.
    pub fn version(&self) -> &ServerVersion {
        &self.version
    }
}

#[async_trait]
impl Store for Etcd {
    fn identity(&self) -> &StoreIdentity {
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

impl Shared {
    async fn call<T, W>(
        &self,
        repeat: Repeat,
        operation: impl Fn(Client) -> W + Send + Sync,
    ) -> Result<T, Failed>
    where
        W: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        self.members.call(repeat, operation).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Fault> {
        let outward = self.layout.key(key)?;
        let floor = self.seen.load(Ordering::Relaxed);
        let get = |client: Client| {
            let key = outward.clone();
            async move { kv(&client).get(key, None).await }
        };
        let mut answer = self.call(Repeat::Always, get).await.map_err(Failed::into_fault)?;
        self.check(answer.header(), floor)?;
        Ok(answer.take_kvs().pop().and_then(|found| self.layout.entry(found)))
    }

    /// The revision of the whole etcd as of now.
    async fn revision(&self) -> Result<Revision, Fault> {
        let floor = self.seen.load(Ordering::Relaxed);
        let anything = self.layout.anything();
        let get = |client: Client| {
            let (key, options) = (anything.clone(), GetOptions::new().with_count_only());
            async move { kv(&client).get(key, Some(options)).await }
        };
        let answer = self.call(Repeat::Always, get).await.map_err(Failed::into_fault)?;
        self.check(answer.header(), floor)
    }

    /// Takes note of an answer, unless another etcd gave it, or an earlier state of ours.
    ///
    /// `floor` is what had been seen when the question was asked: reads are linearizable.
    fn check(&self, header: Option<&ResponseHeader>, floor: u64) -> Result<Revision, Fault> {
        let Some(header) = header else {
            return Err(Fault::Unavailable("etcd answered without a header".to_owned()));
        };
        self.check_cluster(header)?;
        let revision = header.revision().cast_unsigned();
        if revision < floor {
            return Err(Fault::Suspicious(format!(
                "etcd is at revision {revision}, it was at {floor} already"
            )));
        }
        self.seen.fetch_max(revision, Ordering::Relaxed);
        Ok(Revision(revision))
    }

    fn check_cluster(&self, header: &ResponseHeader) -> Result<(), Fault> {
        let (ours, other) = (self.cluster, header.cluster_id());
        if ours == other {
            return Ok(());
        }
        Err(Fault::Suspicious(format!("the etcd cluster {other:016x} answers, not {ours:016x}")))
    }
}

/// A page of the largest values must fit; etcd itself sends what it has.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
}
