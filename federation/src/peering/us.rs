//! This side of every relationship: who we are to our peers, and what peering works with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{Bundle, Registry, SpiffeId, SvidHandle, TrustDomain, TrustStore};

use super::addresses::AddressRules;
use super::join;
use super::membership::{self, Thresholds};
use super::peers::Peers;
use crate::catalog;
use crate::model::{ClusterName, GatewayAddress};
use crate::pace::{Backoff, REDIAL, Rate};
use crate::snapshot::Snapshot;
use crate::store::{Fault, Store};

/// What peering is built from; the composition root makes all of it.
#[derive(Debug)]
pub struct Deps {
    pub cluster: ClusterName,
    pub trust_domain: TrustDomain,
    /// The roles of our processes, as peers shall expect them.
    pub gateway_id: SpiffeId,
    /// Where peers can dial our gateways; empty if nobody can.
    pub advertise: Vec<GatewayAddress>,
    pub address_rules: AddressRules,
    pub store: Arc<dyn Store>,
    /// Holds our own bundle already; bundles of peers are put in and taken out here.
    pub trust: TrustStore,
    pub registry: Registry,
    pub federation_svid: SvidHandle,
    /// Shown to joiners; its chain ends with the root.
    pub join_svid: SvidHandle,
    /// Our own bundle; each change of it is sent to all peers.
    pub bundle: watch::Receiver<Arc<Bundle>>,
    /// Nothing is exported before the first generation that its sources have filled.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub events: mpsc::Sender<catalog::Event>,
    pub tasks: TaskTracker,
    pub settings: Settings,
}

/// Times and rates of peering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub thresholds: Thresholds,
    pub heartbeat: Duration,
    /// A stream on which nothing comes for this long is dead.
    pub silence_max: Duration,
    /// How changes of our exports are sent to one peer.
    pub updates: Rate,
    /// How changes of a peer's exports are taken (T16).
    pub intake: Rate,
    pub redial: Backoff,
    /// A stream is dialled anew after this long, whatever its certificates say.
    pub stream_age_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            heartbeat: Duration::from_secs(5),
            silence_max: Duration::from_secs(15),
            updates: Rate { burst: 10, per_second: 1.0 },
            intake: Rate { burst: 100, per_second: 10.0 },
            redial: REDIAL,
            stream_age_max: Duration::from_secs(3600),
        }
    }
}

/// Everything that the tasks of peering share.
#[derive(Debug)]
pub(super) struct Us {
    pub(super) deps: Deps,
    pub(super) peers: Peers,
    pub(super) sightings: mpsc::Sender<Sighting>,
    /// Relationships begin and end one at a time, so that a check holds until it is acted upon.
    pub(super) changing: Mutex<()>,
    /// Until when strangers may knock.
    pub(super) latest: join::Latest,
    pub(super) stop: CancellationToken,
}

/// Something for membership to judge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sighting {
    pub(super) peer: ClusterName,
    pub(super) event: membership::Event,
}

impl Us {
    pub(super) async fn sight(&self, peer: &ClusterName, event: membership::Event) {
        let sighting = Sighting { peer: peer.clone(), event };
        // Closed only when the process ends, and then nobody judges any more.
        drop(self.sightings.send(sighting).await);
    }

    pub(super) async fn tell(&self, event: catalog::Event) -> Result<(), Fault> {
        let closed = |_closed| Fault::Unavailable("the catalog takes no more events".to_owned());
        self.deps.events.send(event).await.map_err(closed)
    }

    /// The bundle that peers need to believe us.
    pub(super) fn bundle(&self) -> Arc<Bundle> {
        self.deps.bundle.borrow().clone()
    }
}

/// The monotonic clock of peering's tasks; everything that decides is told the time.
#[expect(clippy::disallowed_methods, reason = "the one monotonic clock at the rim of peering")]
pub(super) fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    rand::random()
}
