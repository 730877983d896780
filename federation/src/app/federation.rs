//! What lives as long as the process: CA, SVIDs, channels.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;
use trust_bundle::{BuiltinCa, CaError, CaSettings, Registry, SvidHandle, TrustConflict, TrustStore};

use super::office::{Election, OfficeTasks, Opening};
use super::store_watch::StoreStatus;
use crate::clock;
use crate::config::{Config, StoreConfig};
use crate::control::state::Position;
use crate::control::{
    Attached, ControlPlane, Gateways, REPORTS_MAX, ReplicaName, Report, SIGNING_REQUESTS_MAX, Server,
    ServerDeps, Settings, SigningRequest, Standing, keep_renewed,
};
use crate::issuer::{Issuer, NotIssued, Role};
use crate::leader::Leadership;
use crate::model::{GatewayAddress, Label};
use crate::operator::{FederationStatus, Office, Operator, Vacancy};
use crate::peering::HandedOver;
use crate::snapshot::{LocalCluster, Snapshot};
use crate::store::{self, OpenError, Store};

/// Connections for the control plane that may wait for it.
const HANDOVERS_MAX: usize = 64;

/// Which store a control plane works on.
#[derive(Debug, Clone)]
pub enum StoreSource {
    /// The one that the configuration names.
    Configured,
    /// One that is open already and that other processes use too.
    Shared(Arc<dyn Store>),
}

/// What the composition root of the process gives.
#[derive(Debug)]
pub struct FederationDeps<'a> {
    pub config: &'a Config,
    pub store: StoreSource,
    /// What this process is called where leaders are shown.
    pub name: Label,
    /// Where peers reach our gateways, now that their socket is known.
    pub advertise: Vec<GatewayAddress>,
    /// Where gateways of other processes are listened for, if any shall come; it does not block.
    pub control: Option<TcpListener>,
    /// The gateway that is in this process, if there is one.
    pub gateway: Option<LocalGateway>,
    pub tasks: TaskTracker,
    /// Shared with whatever else verifies in this process.
    pub trust: TrustStore,
    /// What was served before this process came to be, if anybody knows.
    pub first: Option<Arc<Snapshot>>,
    /// Live connections of the whole process, cut when a peer is removed.
    pub registry: Registry,
}

/// A gateway that needs no stream.
#[derive(Debug)]
pub struct LocalGateway {
    pub replica: ReplicaName,
    pub addresses: Vec<GatewayAddress>,
}

/// The control plane before it runs.
#[derive(Debug)]
pub struct Federation {
    office: OfficeTasks,
    issuer: Issuer,
    federation_svid: SvidHandle,
    join_svid: SvidHandle,
    reports: mpsc::Receiver<Report>,
    /// Holds what the gateway of this process has said.
    attached: Option<Attached>,
    server: Option<Server>,
    signing: mpsc::Receiver<SigningRequest>,
    handed_over: mpsc::Receiver<HandedOver>,
    /// Keeps the bundle that peers are told open for changes.
    _bundle: watch::Sender<Arc<trust_bundle::Bundle>>,
}

/// What others hold of the control plane.
#[derive(Debug)]
pub struct Handles {
    pub control: ControlPlane,
    /// Connections whose SNI says that they are for the control plane.
    pub handover: mpsc::Sender<HandedOver>,
    /// Where gateways of other processes are listened for.
    pub control_address: Option<SocketAddr>,
    pub issuer: Issuer,
    pub operator: Operator,
    pub status: FederationStatus,
}

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot make the data directory {path}: {cause}", path = path.display())]
    Data { path: PathBuf, cause: std::io::Error },
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("the CA cannot be used: {0}")]
    Ca(#[from] CaError),
    #[error("our own bundle cannot be used: {0}")]
    Trust(#[from] TrustConflict),
    #[error(transparent)]
    Issue(#[from] NotIssued),
    #[error("cannot listen for gateways: {0}")]
    Control(std::io::Error),
}

impl Federation {
    /// Opens the CA, and the store if it is on this machine; starts nothing.
    pub async fn build(deps: FederationDeps<'_>) -> Result<(Self, Handles), StartError> {
        let config = deps.config;
        make_private(&config.data)?;
        let opening = open_if_here(deps.store.clone(), config).await?;
        let issuer = open_ca(config, &deps.trust)?;
        let federation_svid = SvidHandle::new(issuer.issue_role(Role::Federation)?);
        let join_svid = SvidHandle::new(issuer.issue_role(Role::Join)?);

        let first = deps.first.clone().unwrap_or_else(|| Arc::new(Snapshot::empty(local_cluster(config))));
        let (seen, snapshot) = watch::channel(first);
        let (published, _) = watch::channel(Arc::new(Snapshot::empty(local_cluster(config))));
        let (standing, stands) = watch::channel(Standing::Following { leaders: Vec::new() });
        let gateways = Gateways::default();
        let (bundle, bundles) = watch::channel(Arc::new(issuer.bundle()));
        let (reporting, reports) = mpsc::channel(REPORTS_MAX);
        let (signer, signing) = mpsc::channel(SIGNING_REQUESTS_MAX);
        let attached = deps
            .gateway
            .and_then(|gateway| gateways.attach(gateway.replica, gateway.addresses, Position::default()));
        let server = match deps.control {
            Some(listener) => {
                let deps = ServerDeps {
                    cluster: config.cluster.clone(),
                    trust_domain: config.trust_domain.clone(),
                    svid: federation_svid.clone(),
                    join_svid: join_svid.clone(),
                    trust: deps.trust.clone(),
                    standing: stands,
                    registry: deps.registry.clone(),
                    tasks: deps.tasks,
                    settings: Settings::default(),
                };
                Some(Server::build(listener, deps).map_err(StartError::Control)?)
            }
            None => None,
        };
        let control_address = server.as_ref().map(Server::local_addr);
        let addresses = advertised(config, control_address);
        let (handover, handed_over) = mpsc::channel(HANDOVERS_MAX);
        let (office, held) = watch::channel(Office::vacant(Vacancy::why(&Leadership::Unknown)));
        let (leadership, leading) = watch::channel(Leadership::default());
        let (status, store) = watch::channel(StoreStatus::opening(&config.store, clock::timestamp_now()));
        let federation_status = FederationStatus { leadership: leading, store };
        let operator = Operator::new(held, snapshot.clone(), gateways.clone());
        let election = Election::of(&deps.store, config);
        let office = OfficeTasks {
            config: config.clone(),
            cluster: local_cluster(config),
            opening,
            election,
            name: deps.name,
            advertise: deps.advertise,
            addresses,
            gateways,
            signer: signer.clone(),
            standing,
            registry: deps.registry,
            trust: deps.trust,
            issuer: issuer.clone(),
            federation_svid: federation_svid.clone(),
            join_svid: join_svid.clone(),
            bundle: bundles,
            seen,
            published,
            office,
            leadership,
            status,
        };
        let control = ControlPlane { snapshot, reports: reporting, signer };
        let handles = Handles {
            control,
            handover,
            control_address,
            issuer: issuer.clone(),
            operator,
            status: federation_status,
        };
        let federation = Self {
            office,
            issuer,
            federation_svid,
            join_svid,
            reports,
            attached,
            server,
            signing,
            handed_over,
            _bundle: bundle,
        };
        Ok((federation, handles))
    }

    /// The SVID under which we speak to peers.
    pub fn svid(&self) -> SvidHandle {
        self.federation_svid.clone()
    }

    /// Works until told to stop, and returns when every part has ended; a part that ends by itself stops
    /// the others.
    pub async fn run(self, shutdown: CancellationToken) {
        let stop = shutdown.child_token();
        let renewed = |role, svid| {
            let issuer = self.issuer.clone();
            let issue = async move || {
                let issuer = issuer.clone();
                let issued = spawn_blocking(move || issuer.issue_role(role)).await;
                issued.map_err(|ended| ended.to_string())?.map_err(|refused| refused.to_string())
            };
            keep_renewed(svid, issue, stop.clone())
        };
        let signing = sign(self.issuer.clone(), self.signing);
        let reports = take_reports(self.attached, self.reports);
        let handovers = hand_over(self.office.office.subscribe(), self.handed_over);
        let server = async {
            match self.server {
                Some(server) => server.run(stop.clone()).await,
                None => stop.cancelled().await,
            }
        };
        tokio::join!(
            part("office", &stop, self.office.run(stop.clone())),
            part("federation SVID", &stop, renewed(Role::Federation, self.federation_svid)),
            part("join SVID", &stop, renewed(Role::Join, self.join_svid)),
            part("control listener", &stop, server),
            part("signer", &stop, until(&stop, signing)),
            part("reports", &stop, until(&stop, reports)),
            part("handovers", &stop, until(&stop, handovers)),
        );
    }
}

/// For what has no end of its own.
pub(super) async fn until(stop: &CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

/// Runs a part; its end before `stop` is an error that ends all others.
pub(super) async fn part(name: &'static str, stop: &CancellationToken, work: impl Future<Output = ()>) {
    work.await;
    if !stop.is_cancelled() {
        error!(part = name, "ended by itself");
        stop.cancel();
    }
}

/// Where gateways are told to dial; by default the socket itself.
fn advertised(config: &Config, listening: Option<SocketAddr>) -> Vec<GatewayAddress> {
    match listening {
        None => Vec::new(),
        Some(_) if !config.control.advertise.is_empty() => config.control.advertise.clone(),
        Some(address) => vec![address.into()],
    }
}

/// What the gateway of this process has seen; without one, nobody sends anything here.
async fn take_reports(attached: Option<Attached>, mut reports: mpsc::Receiver<Report>) {
    while let Some(report) = reports.recv().await {
        if let Some(attached) = &attached {
            attached.report(report);
        }
    }
    std::future::pending().await
}

fn local_cluster(config: &Config) -> Arc<LocalCluster> {
    Arc::new(LocalCluster {
        name: config.cluster.clone(),
        trust_domain: config.trust_domain.clone(),
        locality: config.locality.clone(),
        gateways: None,
    })
}

/// The key of the CA is in there, so nobody else may look.
fn make_private(data: &Path) -> Result<(), StartError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|cause| StartError::Data { path: data.to_owned(), cause })
}

/// What is wrong with a file of this machine is said at once; another machine may come later, and a
/// store that is suspicious may be accepted.
async fn open_if_here(source: StoreSource, config: &Config) -> Result<Opening, StartError> {
    match (source, &config.store) {
        (StoreSource::Shared(store), _) => Ok(Opening::Open(store)),
        (StoreSource::Configured, StoreConfig::Etcd(_)) => Ok(Opening::Later),
        (StoreSource::Configured, StoreConfig::Embedded { .. }) => {
            match store::open(config, clock::unix_now()).await {
                Ok(store) => Ok(Opening::Open(store)),
                Err(wrong @ OpenError::Embedded(_)) => Err(wrong.into()),
                Err(_suspicious) => Ok(Opening::Later),
            }
        }
    }
}

fn open_ca(config: &Config, trust: &TrustStore) -> Result<Issuer, StartError> {
    let settings = CaSettings { root_ttl: config.trust.root_ttl, ..CaSettings::default() };
    let ca = BuiltinCa::open(&config.trust.ca, config.trust_domain.clone(), settings, clock::unix_now())?;
    let issuer = Issuer::new(Arc::new(ca), config.trust.svid_ttl, config.trust.workload_svid_ttl);
    trust.put(issuer.bundle())?;
    Ok(issuer)
}

/// Answers the signing requests of gateways.
///
/// What is issued is first made durable (RT4): this thread may serve requests and shall not wait for the
/// disk.
pub(super) async fn sign(issuer: Issuer, mut requests: mpsc::Receiver<SigningRequest>) {
    while let Some(SigningRequest { id, csr, answer }) = requests.recv().await {
        let issuer = issuer.clone();
        // Whoever asked may have gone; then nobody needs the answer.
        let _gone = spawn_blocking(move || answer.send(issuer.sign(&id, &csr))).await;
    }
    // Every gateway is gone: that is the end of the process, which somebody else declares.
    std::future::pending().await
}

/// Passes connections on to the peering of this moment; without one, and when it has no room, they are
/// dropped: whoever dialled tries again.
async fn hand_over(office: watch::Receiver<Office>, mut from: mpsc::Receiver<HandedOver>) {
    while let Some(connection) = from.recv().await {
        if let Office::Held(desk) = &*office.borrow() {
            let _full = desk.handover.try_send(connection);
        }
    }
    std::future::pending().await
}
