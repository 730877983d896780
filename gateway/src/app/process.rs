//! A process: the roles that its command names, with what every process has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use federation::app::{Operator, StoreSource};
use federation::clock;
use federation::config::Config;
use federation::dns;
use federation::model::{Label, Timestamp};
use federation::snapshot::{Generation, Snapshot};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use trust_bundle::{Registry, TrustStore};

use super::admin;
use super::control_side::{ControlHandles, ControlParts, ControlSide};
use super::drain::Running;
use super::first_state::FirstState;
use super::gateway_role::{GatewayParts, GatewayRole, advertised, fixed_port};
use super::logs::Logs;
use super::tasks::{Broken, Tasks};
use crate::admin::cookie::Cookie;
use crate::admin::{Above, Admin, AdminDeps, DataPlane, Inspected};
use crate::host::{Pulse, SocketName, Sockets, Watched};
use crate::link::ReplicaId;
use crate::listener::bind;
use crate::telemetry::{AuditLog, Metrics, Output};

/// What a process consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// `isthmus run`: all of a cluster.
    All,
    /// `isthmus gateway`: led by federation processes elsewhere.
    Gateway,
    /// `isthmus federation`: no data plane.
    Federation,
}

/// What a process is built from beside its configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    pub roles: Roles,
    /// Those that the host has kept for us are used as far as they fit.
    pub sockets: Sockets,
    pub store: StoreSource,
}

/// Where a running process listens; none where its role does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub mesh: Option<SocketAddr>,
    pub east_west: Option<SocketAddr>,
    /// For gateways of other processes.
    pub control: Option<SocketAddr>,
    pub dns: SocketAddr,
    pub admin: SocketAddr,
}

/// A process, bound and not yet running.
#[derive(Debug)]
pub struct Process {
    roles: Roles,
    addresses: Addresses,
    gateway: Option<GatewayRole>,
    control_side: ControlSide,
    above: Above,
    dns: dns::Server,
    admin: Admin,
    operator: Operator,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// When the snapshot in use came.
    dated: watch::Sender<Option<Timestamp>>,
    logs: Logs,
    audit: AuditLog,
    ready: Arc<AtomicBool>,
    pulse: Pulse,
    tasks: Tasks,
}

impl Plan {
    pub fn new(roles: Roles) -> Self {
        Self { roles, sockets: Sockets::none(), store: StoreSource::Configured }
    }
}

impl Roles {
    /// As the status calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "run",
            Self::Gateway => "gateway",
            Self::Federation => "federation",
        }
    }

    fn has_gateway(self) -> bool {
        match self {
            Self::All | Self::Gateway => true,
            Self::Federation => false,
        }
    }
}

impl Process {
    /// All of a cluster, with sockets of its own.
    pub async fn build(config: Config, access_log: Output) -> anyhow::Result<Self> {
        Self::build_as(Plan::new(Roles::All), config, access_log).await
    }

    pub async fn build_as(plan: Plan, config: Config, access_log: Output) -> anyhow::Result<Self> {
        let Plan { roles, sockets, store } = plan;
        let (tasks, registry, trust, metrics) =
            (Tasks::new(), Registry::new(), TrustStore::new(), Metrics::new());
        let name = name_of_process();
        let east_west = fixed_port(config.gateway.east_west)?;
        let first = if roles.has_gateway() { Some(FirstState::read(&config)?) } else { None };
        let parts = ControlParts {
            config: &config,
            roles,
            store,
            name: name.clone(),
            advertise: advertised(&config, east_west),
            trust: trust.clone(),
            first: first.as_ref(),
            registry: registry.clone(),
            sockets: &sockets,
            tasks: tasks.clone(),
        };
        let (control_side, handles) = ControlSide::build(parts).await?;
        let ControlHandles { control, handover, operator, above, address, gateway_svid, svids } = handles;
        let snapshots = control.snapshot.clone();
        let (dated, served_since) = watch::channel(first.as_ref().and_then(|first| first.at));
        let logs = Logs::build(access_log, &config.data, &metrics)?;

        let gateway = match first.zip(gateway_svid) {
            None => None,
            Some((first, svid)) => {
                let parts = GatewayParts {
                    config: &config,
                    east_west,
                    replica: ReplicaId::try_from(name.to_string())?,
                    control,
                    federation: handover,
                    trust: trust.clone(),
                    svid,
                    disk: first.disk,
                    registry: registry.clone(),
                    metrics: metrics.clone(),
                    access: logs.access.clone(),
                    sockets: sockets.clone(),
                    tasks: tasks.clone(),
                };
                Some(GatewayRole::build(parts).await?)
            }
        };
        let dns = dns::Server::on(bind::listen_dns(&sockets, config.dns).await?, snapshots.clone())?;
        let listener = bind::listen_std(&sockets, SocketName::Admin, config.admin)?;
        if gateway.is_none() {
            // All that is wanted is known; a gateway wants more once it has something to serve.
            sockets.forget_unclaimed();
        }
        let addresses = Addresses {
            mesh: gateway.as_ref().and_then(GatewayRole::mesh_address),
            east_west: gateway.as_ref().map(GatewayRole::east_west_address),
            control: address,
            dns: dns.local_addr(),
            admin: listener.local_addr()?,
        };
        let (audit, ready) = (logs.audit(), Arc::new(AtomicBool::new(false)));
        let admin = Admin::build(AdminDeps {
            listener,
            cookie: Cookie::create(&config.data)?,
            operator: operator.clone(),
            inspected: Inspected {
                config: serde_json::to_value(&config)?,
                role: roles.as_str(),
                above: above.clone(),
                served_since,
                data_plane: gateway
                    .as_ref()
                    .map(|gateway| DataPlane { views: gateway.views(), links: gateway.links() }),
                registry,
                trust,
                metrics,
                svids,
                listeners: addresses.fixed(),
            },
            audit: audit.clone(),
            ready: ready.clone(),
        })?;
        let pulse = Pulse::default();
        Ok(Self {
            roles,
            addresses,
            gateway,
            control_side,
            above,
            dns,
            admin,
            operator,
            snapshots,
            dated,
            logs,
            audit,
            ready,
            pulse,
            tasks,
        })
    }

    /// What the service manager judges us by.
    pub fn watched(&self) -> Watched {
        Watched { ready: self.ready.clone(), pulse: self.pulse.clone(), admin: self.addresses.admin }
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What the admin API offers, for whoever is in the same process.
    pub fn operator(&self) -> Operator {
        self.operator.clone()
    }

    /// Works until `shutdown` and drains; fails if a part ended before that.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Broken> {
        let (tasks, ready, snapshots) = (self.tasks, self.ready, self.snapshots);
        let (rest, admin_stop) = (CancellationToken::new(), CancellationToken::new());
        tasks.start_until(&rest, date(snapshots.clone(), self.dated));
        let is_ready = become_ready(self.roles, snapshots.clone(), self.above);
        tasks.start_until(&rest, announce(is_ready, ready.clone(), self.roles, self.addresses));

        let admin = admin::start(self.admin, admin_stop.clone(), tasks.broken.clone());
        self.control_side.start(&tasks, &rest);
        tasks.start("dns", &rest, self.dns.run(rest.clone()));
        tasks.start("pulse", &rest, self.pulse.beat(rest.clone()));
        let audit = self.audit;
        let gateway = self.gateway.map(|gateway| gateway.start(&tasks, &rest, audit));

        let broken = tokio::select! {
            () = shutdown.cancelled() => false,
            () = tasks.broken.cancelled() => true,
        };
        Running { ready, gateway, rest, tasks, admin, admin_stop, logs: self.logs }.drain().await;
        if broken { Err(Broken) } else { Ok(()) }
    }
}

impl Addresses {
    fn fixed(&self) -> Vec<(&'static str, SocketAddr)> {
        let (dns, admin) = (Some(self.dns), None);
        let all = [
            ("mesh", self.mesh),
            ("east-west", self.east_west),
            ("control", self.control),
            ("dns", dns),
            ("admin", admin),
        ];
        all.into_iter().filter_map(|(name, address)| Some((name, address?))).collect()
    }
}

/// Sockets are bound when a process is built; then it waits for what it needs to be of use: a gateway
/// for something to serve, federation for a store and for a leader, which may be another process.
async fn become_ready(roles: Roles, mut snapshots: watch::Receiver<Arc<Snapshot>>, above: Above) {
    if roles.has_gateway() {
        let served = snapshots.wait_for(|snapshot| snapshot.generation > Generation::default()).await;
        return drop(served.map(drop));
    }
    match above {
        Above::Here(mut status) => {
            drop(status.store.wait_for(|store| store.is_good()).await.map(drop));
            drop(status.leadership.wait_for(|now| now.leader().is_some()).await.map(drop));
        }
        // Without a data plane nobody is led.
        Above::There(_) => {}
    }
}

async fn announce(is_ready: impl Future<Output = ()>, ready: Arc<AtomicBool>, roles: Roles, at: Addresses) {
    is_ready.await;
    ready.store(true, Ordering::Relaxed);
    let shown = |address: Option<SocketAddr>| address.map(tracing::field::display);
    info!(
        role = roles.as_str(),
        mesh = shown(at.mesh),
        east_west = shown(at.east_west),
        control = shown(at.control),
        dns = %at.dns,
        admin = %at.admin,
        "ready"
    );
}

/// Notes when each snapshot came; what the disk had is as old as its file.
async fn date(mut snapshots: watch::Receiver<Arc<Snapshot>>, dated: watch::Sender<Option<Timestamp>>) {
    let first = snapshots.borrow_and_update().generation;
    if dated.borrow().is_none() && first > Generation::default() {
        dated.send_replace(Some(clock::timestamp_now()));
    }
    while snapshots.changed().await.is_ok() {
        snapshots.borrow_and_update();
        dated.send_replace(Some(clock::timestamp_now()));
    }
}

/// The machine's name, and what tells this life of this process from all others.
fn name_of_process() -> Label {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let host = host.trim_matches('-');
    let life = format!("{:08x}", rand::random::<u32>());
    let named = Label::try_from(format!("{host}-{life}").as_str());
    named.unwrap_or_else(|_invalid| {
        Label::try_from(format!("node-{life}").as_str()).expect("letters and digits")
    })
}
