//! What calls and watches have in common: the members, and the check of every answer (E18).

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{Client, GetOptions, KvClient, ResponseHeader};

use super::super::change::{Entry, Revision};
use super::super::contract::Fault;
use super::super::key::Key;
use super::fault::Failed;
use super::layout::Layout;
use super::members::{Members, Repeat};

/// What calls and watches have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) members: Members,
    pub(super) layout: Layout,
    /// The id of the etcd cluster that was opened.
    pub(super) cluster: u64,
    /// The highest revision that any answer showed.
    pub(super) seen: AtomicU64,
    /// Does a progress notification never overtake a change (etcd#15220)?
    pub(super) progress_is_exact: bool,
}

impl Shared {
    pub(super) async fn call<T, W>(
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

    pub(super) async fn get(&self, key: &Key) -> Result<Option<Entry>, Fault> {
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
    pub(super) async fn revision(&self) -> Result<Revision, Fault> {
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
    pub(super) fn check(&self, header: Option<&ResponseHeader>, floor: u64) -> Result<Revision, Fault> {
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

    pub(super) fn check_cluster(&self, header: &ResponseHeader) -> Result<(), Fault> {
        let (ours, other) = (self.cluster, header.cluster_id());
        if ours == other {
            return Ok(());
        }
        Err(Fault::Suspicious(format!("the etcd cluster {other:016x} answers, not {ours:016x}")))
    }
}

/// A page of the largest values must fit; etcd itself sends what it has.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
}
