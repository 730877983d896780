//! What a gateway consists of: links, the data plane, its SVID, its disk, connections for federation.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use federation::config::Config;
use federation::control::disk::Disk;
use federation::control::{ControlPlane, keep_renewed};
use federation::issuer::Role;
use federation::model::GatewayAddress;
use federation::peering;
use federation::snapshot::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{Registry, SpiffeId, SvidHandle, TrustStore};

use super::drain::DRAIN_TIME_MAX;
use super::svid;
use super::tasks::Tasks;
use crate::gateway::{Gateway, GatewayDeps, Settings};
use crate::host::Sockets;
use crate::link::{LinkParts, Links, ReplicaId};
use crate::listener::{HANDOVERS_MAX, Handover, Room, Service};
use crate::overload::{self, Guard};
use crate::snapshot::CurrentView;
use crate::telemetry::{AccessLog, AuditLog, LineLog, Metrics};
use crate::windows::Windows;

/// What the role is made from; all of it exists from the first moment.
#[derive(Debug)]
pub(super) struct GatewayParts<'a> {
    pub(super) config: &'a Config,
    pub(super) east_west: SocketAddr,
    pub(super) replica: ReplicaId,
    pub(super) control: ControlPlane,
    /// Takes connections for federation, wherever it is.
    pub(super) federation: mpsc::Sender<peering::HandedOver>,
    pub(super) trust: TrustStore,
    pub(super) svid: SvidHandle,
    pub(super) disk: Disk,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) access: LineLog,
    pub(super) sockets: Sockets,
    pub(super) tasks: Tasks,
}

/// A gateway, bound and not yet running.
#[derive(Debug)]
pub(super) struct GatewayRole {
    data_plane: Gateway,
    links: Links,
    control: ControlPlane,
    trust: TrustStore,
    svid: SvidHandle,
    id: SpiffeId,
    disk: Disk,
    handover: mpsc::Receiver<Handover>,
    federation: mpsc::Sender<peering::HandedOver>,
}

/// A gateway that runs, as the drain needs it.
#[derive(Debug)]
pub(super) struct RunningGateway {
    pub(super) links: Links,
    pub(super) stop: CancellationToken,
    pub(super) ended: JoinHandle<()>,
}

impl GatewayRole {
    pub(super) async fn build(parts: GatewayParts<'_>) -> anyhow::Result<Self> {
        let GatewayParts { config, control, trust, svid, registry, metrics, tasks, .. } = parts;
        let links = Links::build(LinkParts {
            trust: trust.clone(),
            svid: svid.clone(),
            registry: registry.clone(),
            snapshots: control.snapshot.clone(),
            reports: control.reports.clone(),
            tasks: tasks.tracker.clone(),
            windows: Windows::LINK,
            replica: parts.replica,
        });
        let (handing, handover) = mpsc::channel(HANDOVERS_MAX);
        let data_plane = Gateway::build(GatewayDeps {
            settings: Settings {
                mesh: Some(config.gateway.mesh),
                east_west: parts.east_west,
                ingress: config.gateway.ingress,
                drain_time: DRAIN_TIME_MAX,
            },
            snapshots: control.snapshot.clone(),
            trust: trust.clone(),
            svid: svid.clone(),
            registry,
            links: links.clone(),
            reports: control.reports.clone(),
            metrics,
            access_log: AccessLog::new(parts.access),
            handover: handing,
            room: Room::of_this_process(),
            sockets: parts.sockets,
            overload: Guard::of_this_process(overload_settings(config)),
            tasks: TaskTracker::new(),
        })
        .await?;
        let id = Role::Gateway.id(&config.trust_domain);
        let (disk, federation) = (parts.disk, parts.federation);
        Ok(Self { data_plane, links, control, trust, svid, id, disk, handover, federation })
    }

    pub(super) fn mesh_address(&self) -> Option<SocketAddr> {
        self.data_plane.mesh_address()
    }

    pub(super) fn east_west_address(&self) -> SocketAddr {
        self.data_plane.east_west_address()
    }

    pub(super) fn views(&self) -> Arc<CurrentView> {
        self.data_plane.plane().views.clone()
    }

    pub(super) fn links(&self) -> Links {
        self.links.clone()
    }

    /// Starts all of it; the data plane has a stop of its own, since it ends first.
    pub(super) fn start(self, tasks: &Tasks, rest: &CancellationToken, audit: AuditLog) -> RunningGateway {
        let Self { data_plane, links, control, trust, svid, id, disk, handover, federation } = self;
        tasks.start("links", rest, links.clone().run(rest.clone()));
        tasks.start_until(rest, count_replicas(control.snapshot.clone(), links.clone()));
        tasks.start("handover", rest, hand_over(handover, federation, rest.clone()));
        let signer = control.signer;
        let issue = async move || svid::request(&signer, &id).await;
        tasks.start("gateway-svid", rest, keep_renewed(svid.clone(), issue, rest.clone()));
        tasks.start("svid-audit", rest, svid::audit_renewals(svid.clone(), audit, rest.clone()));
        tasks.start("disk", rest, disk.keep(control.snapshot, trust, svid, rest.clone()));
        let stop = CancellationToken::new();
        let ended = tasks.start("gateway", &stop, data_plane.run(stop.clone()));
        RunningGateway { links, stop, ended }
    }
}

/// Tells peers with how many of us they shall have links; a leader that has not counted yet changes nothing.
async fn count_replicas(mut snapshots: watch::Receiver<Arc<Snapshot>>, links: Links) {
    loop {
        let counted = snapshots.borrow_and_update().cluster.gateways;
        if let Some(count) = counted {
            links.set_replicas(count);
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Where peers are told to dial; by default the socket itself.
pub(super) fn advertised(config: &Config, east_west: SocketAddr) -> Vec<GatewayAddress> {
    if config.gateway.advertise.is_empty() {
        vec![GatewayAddress::from(east_west)]
    } else {
        config.gateway.advertise.clone()
    }
}

fn overload_settings(config: &Config) -> overload::Settings {
    let overload = &config.gateway.overload;
    overload::Settings {
        memory: f64::from(overload.memory) / 100.0,
        memory_limit: None,
        requests: overload.requests.map(|requests| requests as usize),
    }
}

/// Peers must be told the port before it is bound; a configured 0 is any free one.
pub(super) fn fixed_port(address: SocketAddr) -> std::io::Result<SocketAddr> {
    if address.port() == 0 { TcpListener::bind(address)?.local_addr() } else { Ok(address) }
}

/// Passes on connections for the control plane; what it has no room for is dropped.
async fn hand_over(
    mut from: mpsc::Receiver<Handover>,
    to: mpsc::Sender<peering::HandedOver>,
    shutdown: CancellationToken,
) {
    while let Some(Some(connection)) = shutdown.run_until_cancelled(from.recv()).await {
        let service = match connection.service {
            Service::Federation => peering::PeeringService::Federation,
            Service::Join => peering::PeeringService::Join,
            Service::Gateway => continue,
        };
        let handed = peering::HandedOver {
            stream: Box::new(connection.stream),
            peer_address: connection.from,
            service,
        };
        let _full = to.try_send(handed);
    }
    // The gateway's listeners are gone before the rest is told to stop.
    shutdown.cancelled().await;
}
