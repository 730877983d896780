//! Peering as the composition root sees it: built from its parts, run as one, asked by operators.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trust_bundle::{JoinToken, TokenId};

use super::io::HandedOver;
use super::join::{self, InviteError, JoinError, TokenError, TokenView};
use super::membership::{self, Membership};
use super::peers::{PeerState, Peers};
use super::relationships::LoadError;
use super::seat::Dialled;
use super::server::{self, HANDED_OVER_MAX};
use super::us::{Deps, Sighting, Us, instant};
use super::{dialler, wire};
use crate::catalog::Event;
use crate::clock;
use crate::control::Path;
use crate::model::{ClusterName, Freshness, Peer};
use crate::store::{CommitError, Revision};

/// Sightings that wait to be judged; whoever sees more waits.
const SIGHTINGS_MAX: usize = 256;
/// How long a removed peer has to take notice.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// How long connections have to close once their streams have ended.
const SHUTDOWN_TIME: Duration = Duration::from_secs(1);

/// What operators and the other parts of the process ask of peering.
#[derive(Debug, Clone)]
pub struct Peering {
    us: Arc<Us>,
}

/// What works while the process runs.
#[derive(Debug)]
pub struct PeeringTasks {
    us: Arc<Us>,
    handed_over: mpsc::Receiver<HandedOver>,
    sightings: mpsc::Receiver<Sighting>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read the relationships: {0}")]
    Load(#[from] LoadError),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    #[error("there is no peer {0}")]
    Unknown(ClusterName),
    #[error(transparent)]
    Store(#[from] CommitError),
}

/// How a removal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The other side has taken notice; otherwise its operator has to be told.
    pub told: bool,
}

/// A peer as an operator sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub peer: Peer,
    pub freshness: Freshness,
    /// Who dialled the stream; none if there is none.
    pub stream: Option<Dialled>,
    pub exports: Side,
    pub imports: Side,
    /// The peer's verifier uses our newest bundle.
    pub bundle_acknowledged: bool,
    /// What the peer refused last, in its words.
    pub refusal: Option<String>,
}

/// How far one direction of a stream has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    pub services: usize,
    pub revision: Revision,
    /// For exports, what the peer has made durable; for imports, what we have.
    pub acknowledged: Option<Revision>,
}

impl Peering {
    /// Reads what is stored; nothing is dialled, and nobody is served, before the tasks run.
    ///
    /// Connections for our SNI names go into the sender: when it is full, drop them.
    pub async fn build(deps: Deps) -> Result<(Self, PeeringTasks, mpsc::Sender<HandedOver>), BuildError> {
        let (sightings_in, sightings) = mpsc::channel(SIGHTINGS_MAX);
        let (connections, handed_over) = mpsc::channel(HANDED_OVER_MAX);
        let us = Arc::new(Us {
            deps,
            peers: Peers::default(),
            sightings: sightings_in,
            changing: Mutex::new(()),
            latest: join::Latest::default(),
            stop: CancellationToken::new(),
        });
        us.load(clock::unix_now()).await?;
        join::load_latest(&us).await?;
        Ok((Self { us: us.clone() }, PeeringTasks { us, handed_over, sightings }, connections))
    }

    /// Makes a token with which the named cluster, and no other, can join.
    pub async fn invite(
        &self,
        joiner: &ClusterName,
        ttl: Duration,
        by: &str,
    ) -> Result<JoinToken, InviteError> {
        join::invite(&self.us, joiner, ttl, by).await
    }

    pub async fn tokens(&self) -> Result<Vec<TokenView>, LoadError> {
        join::tokens(&self.us).await
    }

    pub async fn revoke(&self, token: TokenId, by: &str) -> Result<(), TokenError> {
        join::revoke(&self.us, token, by).await
    }

    /// Joins the cluster that made the token; both sides hold the relationship when this returns.
    pub async fn join(&self, token: &str) -> Result<Peer, JoinError> {
        join::join(&self.us, token).await
    }

    /// All peers, those that have ended the relationship included.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.us.peers.all().iter().map(|peer| self.status(peer)).collect()
    }

    /// Ends a relationship: told to the peer if it can be, cut off in any case.
    pub async fn remove(&self, name: &ClusterName, by: &str) -> Result<Removal, RemoveError> {
        let peer = self.us.peers.get(name).ok_or_else(|| RemoveError::Unknown(name.clone()))?;
        let farewell = peer.seats().borrow().as_ref().map(|seat| seat.say_farewell());
        let told = match farewell {
            // Said, and the peer has closed the stream.
            Some(said) => matches!(timeout(FAREWELL_TIME, said).await, Ok(Ok(()))),
            None => false,
        };
        let _changing = self.us.changing.lock().await;
        self.us.delete(&peer).await?;
        let by = wire::shown(by);
        tracing::info!(target: "isthmus::audit", peer = %name, by, told, "peer removed");
        Ok(Removal { told })
    }

    /// What the gateways' probes say of the path to a peer; `None` when no gateway can say anything.
    pub async fn report_path(&self, peer: &ClusterName, path: Option<Path>) {
        let event = path.map_or(membership::Event::PathUnknown, membership::Event::Path);
        self.us.sight(peer, event).await;
    }

    fn status(&self, peer: &PeerState) -> PeerStatus {
        let said = peer.said.lock().clone();
        let (held, services) = *peer.received.lock();
        let stream = peer.seats().borrow().as_ref().map(|seat| seat.dialled());
        let exports = {
            let exports = peer.exports.lock();
            Side { services: exports.len(), revision: exports.revision(), acknowledged: said.revision }
        };
        PeerStatus {
            peer: peer.record().record.peer,
            freshness: *peer.freshness.lock(),
            stream,
            exports,
            imports: Side { services, revision: held.unwrap_or_default(), acknowledged: held },
            bundle_acknowledged: said.bundle_sha256 == Some(self.us.bundle().digest()),
            refusal: said.refusal,
        }
    }
}

impl PeeringTasks {
    /// Serves, dials and judges until it is told to stop; streams end with it.
    /// Drops `loading` once the catalog knows what was read back.
    pub async fn run(self, loading: impl Send, shutdown: CancellationToken) {
        let Self { us, handed_over, sightings } = self;
        let stop = async {
            shutdown.cancelled().await;
            us.stop.cancel();
        };
        let serve = async {
            server::serve(us.clone(), handed_over, SHUTDOWN_TIME).await;
        };
        tokio::join!(stop, begin(&us, loading), serve, judge(&us, sightings));
    }
}

/// Tells the catalog what was read back, and begins to dial.
async fn begin(us: &Arc<Us>, loading: impl Send) {
    for peer in us.peers.all() {
        if let Err(fault) = us.announce(&peer).await {
            tracing::error!(%fault, "the catalog was not told of all peers");
        }
        us.serve(&peer);
    }
    drop(loading);
}

impl Us {
    /// Keeps a stream to a peer, until the relationship is over.
    pub(super) fn serve(self: &Arc<Self>, peer: &Arc<PeerState>) {
        self.deps.tasks.spawn(dialler::keep_stream(self.clone(), peer.clone()));
    }
}

/// Judges how fresh peers are, from what is seen of them and from what is not.
async fn judge(us: &Us, mut sightings: mpsc::Receiver<Sighting>) {
    let mut membership = Membership::new(us.deps.settings.thresholds);
    loop {
        let wake = membership.wake_at();
        let changes = tokio::select! {
            sighting = sightings.recv() => match sighting {
                Some(Sighting { peer, event }) => membership.apply(&peer, event, instant()).into_iter().collect(),
                None => return,
            },
            () = sleep_until(wake) => membership.tick(instant()),
            () = us.stop.cancelled() => return,
        };
        for change in changes {
            publish(us, change).await;
        }
    }
}

async fn publish(us: &Us, change: membership::Change) {
    let membership::Change { peer, freshness } = change;
    tracing::info!(%peer, ?freshness, "the peer is believed more or less than before");
    if let Some(state) = us.peers.get(&peer) {
        *state.freshness.lock() = freshness;
    }
    if let Err(fault) = us.tell(Event::FreshnessChanged { peer, freshness }).await {
        tracing::warn!(%fault, "the catalog was not told how fresh a peer is");
    }
}

async fn sleep_until(wake: Option<std::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
