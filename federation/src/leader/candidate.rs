//! A process that wants to lead: waits for its turn, keeps the lease, gives it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::election::{Found, Step, Tenure, step};
use super::{Leader, Leadership};
use crate::clock;
use crate::model::{GatewayAddress, Label};
use crate::store::keys::{self, Place};
use crate::store::{
    CommitError, Entry, Fault, Fence, Fenced, LeaseError, LeaseId, Revision, Store, Transaction, WatchEnd,
    codec,
};

/// A store that does not answer is asked again this often.
const RETRY: Duration = Duration::from_millis(500);
/// Who resigns gives this long to the store: without an answer the lease ends by itself.
const RESIGN_TIME_MAX: Duration = Duration::from_secs(2);

/// One process of a cluster that may lead.
#[derive(Debug)]
pub struct Candidate {
    store: Arc<dyn Store>,
    name: Label,
    addresses: Vec<GatewayAddress>,
    ttl: Duration,
}

/// The lead, for as long as its lease is kept.
#[derive(Debug)]
pub struct Lead {
    leader: Leader,
    lease: LeaseId,
    fence: Fence,
    tenure: Tenure,
    deposed: CancellationToken,
}

/// How a lead ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("its lease has ended")]
    Expired,
    #[error("another process has taken its place")]
    Deposed,
    #[error("the lease could not be confirmed in time: {0}")]
    Unconfirmed(String),
}

enum Attempt {
    Won(Lead),
    Follow {
        leader: Option<Leader>,
        revision: Revision,
    },
    /// Somebody was faster.
    Contested,
}

impl Candidate {
    pub fn new(store: Arc<dyn Store>, name: Label, addresses: Vec<GatewayAddress>, ttl: Duration) -> Self {
        Self { store, name, addresses, ttl }
    }

    /// Waits until this process leads; says meanwhile whom it follows.
    pub async fn campaign(&self, told: &watch::Sender<Leadership>) -> Lead {
        let mut silent = false;
        loop {
            match self.attempt().await {
                Ok(Attempt::Won(lead)) => {
                    info!(name = %self.name, "this process leads");
                    publish(told, Leadership::Leading { leader: lead.leader.clone() });
                    return lead;
                }
                Ok(Attempt::Follow { leader, revision }) => {
                    silent = false;
                    publish(
                        told,
                        leader.map_or(Leadership::Unknown, |leader| Leadership::Following { leader }),
                    );
                    self.until_changed(revision).await;
                }
                Ok(Attempt::Contested) => silent = false,
                Err(fault) => {
                    if !silent {
                        warn!(%fault, "cannot find out who leads; trying again");
                    }
                    silent = true;
                    publish(told, Leadership::Unknown);
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn attempt(&self) -> Result<Attempt, Fault> {
        let found = self.store.get(&Place::Leader.key()).await?.map(|entry| found(&entry));
        let revision = found.as_ref().map_or(Revision::ABSENT, |found| found.revision);
        match step(found, &self.name) {
            Step::Claim(over) => self.claim(over).await,
            Step::Follow(leader) => Ok(Attempt::Follow { leader, revision }),
        }
    }

    async fn claim(&self, over: Revision) -> Result<Attempt, Fault> {
        let (key, asked) = (Place::Leader.key(), instant());
        let lease = self.store.grant(self.ttl, clock::unix_now()).await?;
        let leader = Leader {
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            since: clock::timestamp_now(),
        };
        let value = codec::encode(&leader).expect("names and addresses are JSON");
        let claim = Transaction::new().when(key.clone(), over).put_leased(key.clone(), value, lease);
        let refused = match self.store.commit(claim).await {
            Ok(revision) => {
                let (tenure, deposed) = (Tenure::new(self.ttl, asked), CancellationToken::new());
                let fence = Fence { key, revision };
                return Ok(Attempt::Won(Lead { leader, lease, fence, tenure, deposed }));
            }
            Err(refused) => refused,
        };
        // Not needed; if it cannot be revoked now, it ends by itself.
        let _ended = self.store.revoke(lease).await;
        match refused {
            CommitError::Conflict { .. } => Ok(Attempt::Contested),
            CommitError::Fault(fault) => Err(fault),
            other => Err(Fault::Unavailable(other.to_string())),
        }
    }

    /// Returns when the leader's key is no longer what it was, or after a while in any case.
    async fn until_changed(&self, revision: Revision) {
        let _in_any_case = tokio::time::timeout(self.ttl / 2, async {
            if let Err(end) = self.change_after(revision).await {
                debug!(%end, "the leader is not watched; looking again instead");
                sleep(RETRY).await;
            }
        })
        .await;
    }

    async fn change_after(&self, revision: Revision) -> Result<(), WatchEnd> {
        let key = Place::Leader.key();
        let mut watch = self.store.watch(&keys::control(), revision.next()).await?;
        loop {
            let changes = watch.next().await?;
            if changes.changes.iter().any(|change| *change.key() == key) {
                return Ok(());
            }
        }
    }

    /// Keeps the lease until it is lost.
    pub async fn keep(&self, lead: &mut Lead) -> Lost {
        let deposed = lead.deposed.clone();
        tokio::select! {
            () = deposed.cancelled() => Lost::Deposed,
            lost = self.keep_lease(lead) => lost,
        }
    }

    async fn keep_lease(&self, lead: &mut Lead) -> Lost {
        let mut reason = "the store gave no answer".to_owned();
        tokio::time::sleep_until(lead.tenure.renew_at().into()).await;
        loop {
            let (asked, lost_at) = (instant(), lead.tenure.lost_at());
            if asked >= lost_at {
                return Lost::Unconfirmed(reason);
            }
            match timeout_at(lost_at.into(), self.store.keep_alive(lead.lease, clock::unix_now())).await {
                Ok(Ok(())) => {
                    lead.tenure.confirm(asked);
                    tokio::time::sleep_until(lead.tenure.renew_at().into()).await;
                }
                Ok(Err(LeaseError::NoSuchLease(_))) => return Lost::Expired,
                Ok(Err(LeaseError::Fault(fault))) => {
                    debug!(%fault, "the lease of the leader is not confirmed yet");
                    reason = fault.to_string();
                    sleep(RETRY.min(self.ttl / 10)).await;
                }
                Err(_elapsed) => return Lost::Unconfirmed(reason),
            }
        }
    }

    /// Gives the lead back, so that another process takes it at once.
    pub async fn resign(&self, lead: Lead) {
        match tokio::time::timeout(RESIGN_TIME_MAX, self.store.revoke(lead.lease)).await {
            Ok(Ok(()) | Err(LeaseError::NoSuchLease(_))) => info!(name = %self.name, "no longer leads"),
            Ok(Err(LeaseError::Fault(fault))) => {
                warn!(%fault, "the lead could not be given back; it ends by itself")
            }
            Err(_elapsed) => warn!("the lead could not be given back in time; it ends by itself"),
        }
    }
}

impl Lead {
    pub fn leader(&self) -> &Leader {
        &self.leader
    }

    /// The store as a leader may use it.
    pub fn fenced(&self, store: Arc<dyn Store>) -> Fenced {
        Fenced::new(store, self.fence.clone(), self.deposed.clone())
    }
}

fn found(entry: &Entry) -> Found {
    let leader = codec::decode::<Leader>(&entry.value);
    let leader = leader.inspect_err(|error| warn!(%error, "who leads cannot be read")).ok();
    Found { leader, revision: entry.revision, leased: entry.lease.is_some() }
}

fn publish(told: &watch::Sender<Leadership>, now: Leadership) {
    told.send_if_modified(|before| {
        let changed = *before != now;
        if changed && let Leadership::Following { leader } = &now {
            info!(leader = %leader.name, since = %leader.since, "following");
        }
        *before = now;
        changed
    });
}

/// The monotonic clock of the election; what decides is told the time.
#[expect(clippy::disallowed_methods, reason = "the rim of the election")]
fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}
