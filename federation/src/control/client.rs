//! The gateway's side of the stream: finds the leader, takes its states in, tells what is seen.
//!
//! ```text
//!   endpoints ─► route ─► dial ─► session ─► intake: trust, then snapshot ─► data plane, DNS
//!                  ▲ NotLeader names another    │
//!   inbox ── reports, signing requests ─────────┘
//! ```
//! Without any federation process everything goes on with what is held; what is reported meanwhile is
//! kept in its newest form and told to whoever leads next. A change that cannot be taken in whole is
//! refused whole, and the full state is asked for.

mod inbox;
mod intake;
mod link;
mod relay;
mod route;
mod session;

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{Registry, SpiffeId, SvidHandle, TrustDomain, TrustStore};

use super::server::Settings;
use super::state::{InvalidState, State};
use super::{ControlPlane, REPORTS_MAX, ReplicaName, SIGNING_REQUESTS_MAX};
use crate::clock;
use crate::issuer::Role;
use crate::model::{ClusterName, GatewayAddress, Locality, Timestamp};
use crate::peering::{HANDED_OVER_MAX, HandedOver};
use crate::snapshot::{LocalCluster, Snapshot};

use inbox::Inbox;
use intake::Intake;
use route::Route;
use session::End;

/// What a gateway's end is built from.
#[derive(Debug)]
pub struct ClientDeps {
    /// All federation processes of the cluster.
    pub endpoints: Vec<GatewayAddress>,
    pub cluster: ClusterName,
    pub trust_domain: TrustDomain,
    /// The gateway role.
    pub svid: SvidHandle,
    /// Bundles are put in and taken out here; our own must be in already.
    pub trust: TrustStore,
    /// Connections whose identity is no longer trusted are cut here.
    pub registry: Registry,
    /// What the disk had.
    pub state: Option<State>,
    pub replica: ReplicaName,
    /// Where this gateway's links can be dialled.
    pub addresses: Vec<GatewayAddress>,
    pub tasks: TaskTracker,
    pub settings: Settings,
}

/// Whether anybody leads us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum ControlStatus {
    Connected {
        to: GatewayAddress,
        since: Timestamp,
    },
    /// Serving from what is held.
    Apart {
        since: Timestamp,
        reason: String,
    },
}

/// The gateway's end, before it runs.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    inbox: Inbox,
    intake: Intake,
    handed_over: mpsc::Receiver<HandedOver>,
    handing_over: mpsc::Sender<HandedOver>,
}

/// What all parts of it share.
#[derive(Debug)]
struct Shared {
    endpoints: Vec<GatewayAddress>,
    cluster: ClusterName,
    /// The only identity that may lead us.
    federation_id: SpiffeId,
    svid: SvidHandle,
    trust: TrustStore,
    registry: Registry,
    tasks: TaskTracker,
    settings: Settings,
    status: watch::Sender<ControlStatus>,
}

impl Client {
    /// Takes in what the disk had; dials nobody yet.
    ///
    /// The snapshot begins with the disk's, or with the empty one of generation 0.
    pub fn build(
        deps: ClientDeps,
    ) -> Result<(Self, ControlPlane, watch::Receiver<ControlStatus>), InvalidState> {
        let ClientDeps { endpoints, cluster, trust_domain, svid, trust, registry, state, .. } = deps;
        let here = LocalCluster {
            name: cluster.clone(),
            trust_domain: trust_domain.clone(),
            locality: Locality::default(),
            gateways: None,
        };
        let (reporting, reports) = mpsc::channel(REPORTS_MAX);
        let (signer, signing) = mpsc::channel(SIGNING_REQUESTS_MAX);
        let (handing_over, handed_over) = mpsc::channel(HANDED_OVER_MAX);
        let (snapshots, snapshot) = watch::channel(Arc::new(Snapshot::empty(Arc::new(here))));
        let reason = "no federation process has answered yet".to_owned();
        let (told, status) = watch::channel(ControlStatus::Apart { since: clock::timestamp_now(), reason });
        let shared = Arc::new(Shared {
            endpoints,
            cluster,
            federation_id: Role::Federation.id(&trust_domain),
            svid,
            trust: trust.clone(),
            registry: registry.clone(),
            tasks: deps.tasks,
            settings: deps.settings,
            status: told,
        });
        let intake = Intake::new(trust_domain, trust, registry, snapshots, state)?;
        let inbox = Inbox::new(deps.replica, deps.addresses, reports, signing);
        let control = ControlPlane { snapshot, reports: reporting, signer };
        let client = Self { shared, inbox, intake, handed_over, handing_over };
        Ok((client, control, status))
    }

    /// Takes connections of peers for the control plane, as peering does within one process.
    pub fn handover(&self) -> mpsc::Sender<HandedOver> {
        self.handing_over.clone()
    }

    /// Works until told to stop.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { shared, inbox, intake, handed_over, handing_over } = self;
        drop(handing_over);
        let work = async {
            tokio::join!(attach(&shared, inbox, intake), relay::run(&shared, handed_over));
        };
        // It holds everything that a stream needs, for as long as the process lives.
        shutdown.run_until_cancelled(Box::pin(work)).await;
    }
}

/// Keeps a stream to whoever leads.
async fn attach(shared: &Arc<Shared>, mut inbox: Inbox, mut intake: Intake) {
    let mut route = Route::new(shared.endpoints.clone());
    loop {
        let Some(address) = route.next() else {
            inbox.idle("no federation process is configured").await;
            continue;
        };
        let dialled = tokio::select! {
            dialled = link::dial(shared, &address) => dialled,
            () = inbox.idle("no federation process is reachable") => continue,
        };
        let end = match dialled {
            Ok(link) => session::run(shared, &address, link, &mut inbox, &mut intake).await,
            Err(error) => End::Unreachable(error),
        };
        inbox.abandon();
        shared.apart(&address, &end);
        let pause = route.judge(end, &shared.settings.redial, rand::random());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inbox.idle("no federation process is reachable") => {}
        }
    }
}

impl Shared {
    fn connected(&self, to: &GatewayAddress) {
        let already =
            matches!(&*self.status.borrow(), ControlStatus::Connected { to: held, .. } if held == to);
        if !already {
            tracing::info!(%to, "led by a federation process");
            let since = clock::timestamp_now();
            self.status.send_replace(ControlStatus::Connected { to: to.clone(), since });
        }
    }

    fn apart(&self, from: &GatewayAddress, end: &End) {
        if matches!(end, End::Renewing) {
            return; // the next stream begins at once
        }
        let reason = format!("{from}: {end}");
        self.status.send_if_modified(|status| {
            let since = match &*status {
                ControlStatus::Apart { since, .. } => *since,
                ControlStatus::Connected { .. } => {
                    tracing::warn!(reason, "no federation process leads us; serving from what is held");
                    clock::timestamp_now()
                }
            };
            let now = ControlStatus::Apart { since, reason: reason.clone() };
            let changed = *status != now;
            *status = now;
            changed
        });
    }
}
