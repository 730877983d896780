//! The composition root: one cluster in one process.
//!
//! `build` opens and binds everything that can fail; `run` works until told to stop and drains in one
//! order, written in one place: stop accepting, finish requests, say goodbye to peers, end the control
//! plane, flush the logs. A part that ends before it was told to is a failure of the process.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use federation::app::{Federation, FederationDeps, Handles, Operator};
use federation::config::Config;
use federation::control::{ControlPlane, SigningRequest, keep_renewed};
use federation::dns;
use federation::issuer::Role;
use federation::model::GatewayAddress;
use federation::peering;
use federation::snapshot::Snapshot;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};
use trust_bundle::{Registry, SpiffeId, SvidHandle, SvidKey, X509Svid};

use crate::admin::cookie::Cookie;
use crate::admin::{Admin, AdminDeps, Inspected};
use crate::clock;
use crate::gateway::{Gateway, GatewayDeps, Settings};
use crate::host::{Pulse, ServiceManager, SocketName, Sockets, Watched, inherited, signalled};
use crate::link::{LinkParts, Links, ReplicaId};
use crate::listener::{HANDOVERS_MAX, Handover, Room, Service, bind};
use crate::overload::{self, Guard};
use crate::telemetry::{AccessLog, AuditLog, Decision, LineLog, LineWriter, Metrics, Output};
use crate::windows::Windows;

/// How long requests may take to finish once the process is told to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);
/// Parts that have nothing left to do end within moments.
const END_TIME_MAX: Duration = Duration::from_secs(5);
const AUDIT_FILE: &str = "audit.log";

/// Where a running process listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub mesh: SocketAddr,
    pub east_west: SocketAddr,
    pub dns: SocketAddr,
    pub admin: SocketAddr,
}

/// A whole cluster in one process, bound and not yet running.
#[derive(Debug)]
pub struct Process {
    addresses: Addresses,
    federation: Federation,
    gateway: Gateway,
    links: Links,
    dns: dns::Server,
    admin: Admin,
    operator: Operator,
    gateway_svid: SvidHandle,
    gateway_id: SpiffeId,
    control: ControlPlane,
    handover: mpsc::Receiver<Handover>,
    federation_handover: mpsc::Sender<peering::HandedOver>,
    logs: Vec<(LineLog, thread::JoinHandle<()>)>,
    audit: AuditLog,
    ready: Arc<AtomicBool>,
    pulse: Pulse,
    tasks: Tasks,
}

/// The tasks of a process: each has a name and is expected to live until it is told to stop.
#[derive(Debug, Clone)]
struct Tasks {
    tracker: TaskTracker,
    /// Cancelled when a part ended by itself.
    broken: CancellationToken,
}

/// A part of the process ended without being told to.
#[derive(Debug, thiserror::Error)]
#[error("a part of the process ended by itself; its log says why")]
pub struct Broken;

impl Process {
    /// With sockets of its own.
    pub async fn build(config: Config, access_log: Output) -> anyhow::Result<Self> {
        Self::build_on(Sockets::none(), config, access_log).await
    }

    /// With the sockets that the host has kept for us, as far as they fit.
    pub async fn build_on(sockets: Sockets, config: Config, access_log: Output) -> anyhow::Result<Self> {
        let tasks = Tasks { tracker: TaskTracker::new(), broken: CancellationToken::new() };
        let registry = Registry::new();
        let east_west = fixed_port(config.gateway.east_west)?;
        let advertise = advertised(&config, east_west);
        let deps = FederationDeps {
            config: &config,
            advertise,
            registry: registry.clone(),
            tasks: tasks.tracker.clone(),
        };
        let (federation, handles) = Federation::build(deps).await?;
        let Handles { control, handover: federation_handover, trust, issuer, operator, data } = handles;

        let gateway_id = Role::Gateway.id(&config.trust_domain);
        // Federation does not answer requests yet, and is in this very process.
        let key = SvidKey::generate();
        let chain = issuer.sign(&gateway_id, &key.csr())?;
        let gateway_svid = SvidHandle::new(X509Svid::from_parts(chain, key)?);

        let metrics = Metrics::new();
        let (access, access_thread) = line_log("access-log", access_log)?;
        let (audit, audit_thread) = line_log("audit-log", Output::File(data.join(AUDIT_FILE)))?;
        metrics.watch_log("access", access.clone());
        metrics.watch_log("audit", audit.clone());
        let links = Links::build(LinkParts {
            trust: trust.clone(),
            svid: gateway_svid.clone(),
            registry: registry.clone(),
            snapshots: control.snapshot.clone(),
            reports: control.reports.clone(),
            tasks: tasks.tracker.clone(),
            windows: Windows::LINK,
            replica: ReplicaId::try_from(format!("{:016x}", rand::random::<u64>()))?,
        });
        let (handing, handover) = mpsc::channel(HANDOVERS_MAX);
        let gateway = Gateway::build(GatewayDeps {
            settings: Settings {
                mesh: Some(config.gateway.mesh),
                east_west,
                ingress: config.gateway.ingress,
                drain_time: DRAIN_TIME_MAX,
            },
            snapshots: control.snapshot.clone(),
            trust: trust.clone(),
            svid: gateway_svid.clone(),
            registry: registry.clone(),
            links: links.clone(),
            reports: control.reports.clone(),
            metrics: metrics.clone(),
            access_log: AccessLog::new(access.clone()),
            handover: handing,
            room: Room::of_this_process(),
            sockets: sockets.clone(),
            overload: Guard::of_this_process(overload::Settings::default()),
            tasks: TaskTracker::new(),
        })
        .await?;
        let dns_sockets = bind::listen_dns(&sockets, config.dns).await?;
        let dns = dns::Server::on(dns_sockets, control.snapshot.clone())?;
        let mesh = gateway.mesh_address().unwrap_or(config.gateway.mesh);
        let fixed = [("mesh", mesh), ("east-west", gateway.east_west_address()), ("dns", dns.local_addr())];
        let audit_log = AuditLog::new(audit.clone());
        let ready = Arc::new(AtomicBool::new(false));
        let admin = Admin::build(AdminDeps {
            listener: bind::listen_std(&sockets, SocketName::Admin, config.admin)?,
            cookie: Cookie::create(&data)?,
            operator: operator.clone(),
            inspected: Inspected {
                config: serde_json::to_value(&config)?,
                views: gateway.plane().views.clone(),
                links: links.clone(),
                registry,
                trust,
                metrics,
                svids: vec![gateway_svid.clone(), federation.svid()],
                listeners: fixed.to_vec(),
            },
            audit: audit_log.clone(),
            ready: ready.clone(),
        })?;
        let addresses = Addresses {
            mesh,
            east_west: gateway.east_west_address(),
            dns: dns.local_addr(),
            admin: admin.address(),
        };
        Ok(Self {
            addresses,
            federation,
            gateway,
            links,
            dns,
            admin,
            operator,
            gateway_svid,
            gateway_id,
            control,
            handover,
            federation_handover,
            logs: vec![(access, access_thread), (audit, audit_thread)],
            audit: audit_log,
            ready,
            pulse: Pulse::default(),
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
        let Self { addresses, tasks, ready, .. } = &self;
        let (tasks, ready, addresses) = (tasks.clone(), ready.clone(), *addresses);
        let (gateway_stop, rest_stop, admin_stop) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());

        let admin = start_admin(self.admin, admin_stop.clone(), tasks.broken.clone());
        tasks.start("federation", rest_stop.clone(), self.federation.run(rest_stop.clone()));
        tasks.start("links", rest_stop.clone(), self.links.clone().run(rest_stop.clone()));
        tasks.start("dns", rest_stop.clone(), self.dns.run(rest_stop.clone()));
        tasks.start(
            "handover",
            rest_stop.clone(),
            hand_over(self.handover, self.federation_handover, rest_stop.clone()),
        );
        let signer = self.control.signer.clone();
        let issue = async move || request_svid(&signer, &self.gateway_id).await;
        tasks.start(
            "gateway-svid",
            rest_stop.clone(),
            keep_renewed(self.gateway_svid.clone(), issue, rest_stop.clone()),
        );
        tasks.start(
            "svid-audit",
            rest_stop.clone(),
            audit_renewals(self.gateway_svid, self.audit, rest_stop.clone()),
        );
        tasks.start("pulse", rest_stop.clone(), self.pulse.beat(rest_stop.clone()));
        let became_ready = announce_ready(self.control.snapshot.clone(), ready.clone(), addresses);
        tasks.tracker.spawn(rest_stop.clone().run_until_cancelled_owned(became_ready));
        let gateway = tasks.start("gateway", gateway_stop.clone(), self.gateway.run(gateway_stop.clone()));

        let broken = tokio::select! {
            () = shutdown.cancelled() => false,
            () = tasks.broken.cancelled() => true,
        };
        info!("stopping: requests in flight are finished first");
        ready.store(false, Ordering::Relaxed);
        self.links.announce_leaving();
        gateway_stop.cancel();
        // Its end was judged where it was started.
        let _drained = gateway.await;
        rest_stop.cancel();
        tasks.tracker.close();
        if tokio::time::timeout(END_TIME_MAX, tasks.tracker.wait()).await.is_err() {
            error!("some tasks did not end in time");
        }
        admin_stop.cancel();
        let ended = tokio::task::spawn_blocking(move || {
            let _panicked = admin.join();
            for (log, writer) in self.logs {
                log.close();
                let _panicked = writer.join();
            }
        });
        // Whoever reads a log may have stopped reading.
        if tokio::time::timeout(2 * END_TIME_MAX, ended).await.is_err() {
            error!("the admin API or a log did not end in time");
        }
        if broken { Err(Broken) } else { Ok(()) }
    }
}

impl Tasks {
    /// Starts a part; its end before `stop` is an error that ends the process.
    fn start(
        &self,
        name: &'static str,
        stop: CancellationToken,
        part: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let broken = self.broken.clone();
        let part = self.tracker.spawn(part);
        self.tracker.spawn(async move {
            let ended = part.await;
            if !stop.is_cancelled() {
                error!(part = name, panicked = ended.is_err(), "ended by itself");
                broken.cancel();
            }
        })
    }
}

/// Runs the process of `isthmus run` until a signal.
pub fn run(config: Config) -> anyhow::Result<()> {
    // Before any thread is there.
    let inherited = inherited();
    let manager = ServiceManager::start()?;
    let sockets = Sockets::new(inherited, manager.as_ref().map(ServiceManager::store));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let process = Process::build_on(sockets, config, Output::Stdout).await?;
        if let Some(manager) = &manager {
            manager.watch(process.watched());
        }
        let shutdown = CancellationToken::new();
        let signals = signalled(shutdown.clone(), manager.as_ref());
        let running = process.run(shutdown);
        tokio::select! {
            ended = running => Ok(ended?),
            failed = signals => failed,
        }
    });
    if let Some(manager) = manager {
        manager.end();
    }
    // What has not ended by now is not waited for again.
    runtime.shutdown_background();
    ended
}

/// The admin API answers when the data plane's threads are busy: it has its own.
fn start_admin(admin: Admin, stop: CancellationToken, broken: CancellationToken) -> thread::JoinHandle<()> {
    let overdue = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            tokio::time::sleep(END_TIME_MAX).await;
        }
    };
    thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            // Dropped in any case, also by a panic; once told to stop nobody listens any more.
            let _broken = broken.drop_guard();
            let serving = async {
                tokio::select! {
                    served = admin.run(stop) => served,
                    () = overdue => Ok(()),
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Err(error) = runtime.and_then(|runtime| runtime.block_on(serving)) {
                error!(%error, "the admin API ended");
            }
        })
        .expect("a process that starts may have one more thread")
}

fn line_log(name: &str, output: Output) -> anyhow::Result<(LineLog, thread::JoinHandle<()>)> {
    let (log, writer): (LineLog, LineWriter) = LineLog::build(output)?;
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || writer.run())?;
    Ok((log, thread))
}

/// Where peers are told to dial; by default the socket itself.
fn advertised(config: &Config, east_west: SocketAddr) -> Vec<GatewayAddress> {
    if config.gateway.advertise.is_empty() {
        vec![GatewayAddress::from(east_west)]
    } else {
        config.gateway.advertise.clone()
    }
}

/// Peers must be told the port before it is bound; a configured 0 is any free one.
fn fixed_port(address: SocketAddr) -> std::io::Result<SocketAddr> {
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

/// Asks the control plane for an SVID with a new key.
async fn request_svid(signer: &mpsc::Sender<SigningRequest>, id: &SpiffeId) -> Result<X509Svid, String> {
    let key = SvidKey::generate();
    let (answer, answered) = oneshot::channel();
    let request = SigningRequest { id: id.clone(), csr: key.csr(), answer };
    signer.send(request).await.map_err(|_closed| "the control plane is gone".to_owned())?;
    let chain = answered.await.map_err(|_dropped| "the control plane gave no answer".to_owned())?;
    let chain = chain.map_err(|refused| refused.to_string())?;
    X509Svid::from_parts(chain, key).map_err(|invalid| invalid.to_string())
}

async fn audit_renewals(svid: SvidHandle, audit: AuditLog, shutdown: CancellationToken) {
    let mut renewed = svid.subscribe();
    while let Some(Ok(())) = shutdown.run_until_cancelled(renewed.changed()).await {
        let current = svid.current();
        let decision =
            Decision::SvidReplaced { identity: current.id(), not_after: current.not_after().as_secs() };
        audit.write(clock::wall(), None, &decision);
    }
}

/// Ready is: every source has told what it has, and the sockets are bound.
async fn announce_ready(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    ready: Arc<AtomicBool>,
    at: Addresses,
) {
    if snapshots.wait_for(|snapshot| snapshot.generation.0 > 0).await.is_ok() {
        ready.store(true, Ordering::Relaxed);
        let cluster = snapshots.borrow().cluster.name.clone();
        info!(%cluster, mesh = %at.mesh, east_west = %at.east_west, dns = %at.dns, admin = %at.admin, "ready");
    }
}
