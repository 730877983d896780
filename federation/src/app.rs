//! The composition root of the control plane: builds every part, connects them, owns their tasks.
//!
//! Nothing here decides anything. `build` opens what can fail (store, CA, channels) and starts nothing;
//! `run` works until it is told to stop and returns when every task has ended. A task that ends before
//! that is a failure of the process, not a silence.

use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;
use trust_bundle::{BuiltinCa, CaError, CaSettings, Registry, SvidHandle, TrustConflict, TrustStore};

use crate::catalog::{AddressPool, CatalogDriver, InvalidPool, Loading};
use crate::clock;
use crate::config::directory::DirectorySource;
use crate::config::{AppliedDocuments, Config};
use crate::control::{
    ControlPlane, REPORTS_MAX, Report, SIGNING_REQUESTS_MAX, SigningRequest, Unbound, keep_renewed,
};
use crate::issuer::{Issuer, NotIssued, Role};
use crate::leader::{NoEpoch, raise_epoch};
use crate::model::GatewayAddress;
use crate::peering::addresses::AddressRules;
use crate::peering::{self, HandedOver, Peering, PeeringTasks};
use crate::snapshot::{Generation, LocalCluster};
use crate::store::{self, Fault, OpenError, Store, expire_leases, familiarity};

pub use crate::operator::{Invitation, Operator, OperatorError};

/// Where the CA keeps its key, below the data directory.
const CA_DIRECTORY: &str = "ca";

/// What the composition root of the process gives.
#[derive(Debug)]
pub struct FederationDeps<'a> {
    pub config: &'a Config,
    /// Where peers reach our gateways, now that their socket is known.
    pub advertise: Vec<GatewayAddress>,
    /// Live connections of the whole process, cut when a peer is removed.
    pub registry: Registry,
    pub tasks: TaskTracker,
}

/// The control plane before it runs.
#[derive(Debug)]
pub struct Federation {
    driver: CatalogDriver,
    store: Arc<dyn Store>,
    data: PathBuf,
    directory: DirectorySource,
    applied: AppliedDocuments,
    peering: Peering,
    peering_tasks: PeeringTasks,
    issuer: Issuer,
    federation_svid: SvidHandle,
    join_svid: SvidHandle,
    reports: mpsc::Receiver<Report>,
    unbound: watch::Sender<Arc<Vec<Unbound>>>,
    signing: mpsc::Receiver<SigningRequest>,
    loading: [Loading; 3],
    /// Keeps the bundle that peers are told open for changes.
    _bundle: watch::Sender<Arc<trust_bundle::Bundle>>,
}

/// What others hold of the control plane.
#[derive(Debug)]
pub struct Handles {
    pub control: ControlPlane,
    /// Connections whose SNI says that they are for the control plane.
    pub handover: mpsc::Sender<HandedOver>,
    pub trust: TrustStore,
    pub issuer: Issuer,
    pub operator: Operator,
    /// The directory of the data.
    pub data: PathBuf,
}

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot make the data directory {path}: {cause}", path = path.display())]
    Data { path: PathBuf, cause: std::io::Error },
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("the store cannot be read: {0}")]
    Read(#[from] Fault),
    #[error("the CA cannot be used: {0}")]
    Ca(#[from] CaError),
    #[error("our own bundle cannot be used: {0}")]
    Trust(#[from] TrustConflict),
    #[error(transparent)]
    Issue(#[from] NotIssued),
    #[error("gateway.virtual.pool: {0}")]
    Pool(#[from] InvalidPool),
    #[error(transparent)]
    Epoch(#[from] NoEpoch),
    #[error(transparent)]
    Peering(#[from] peering::BuildError),
}

impl Federation {
    /// Opens store and CA and reads back what they hold; starts nothing.
    pub async fn build(deps: FederationDeps<'_>) -> Result<(Self, Handles), StartError> {
        let FederationDeps { config, advertise, registry, tasks } = deps;
        let data = &config.data;
        make_private(data)?;
        let store = store::open(config, clock::unix_now()).await?;
        let (issuer, trust) = open_ca(config, data)?;
        let federation_svid = SvidHandle::new(issuer.issue_role(Role::Federation)?);
        let join_svid = SvidHandle::new(issuer.issue_role(Role::Join)?);

        let pool = AddressPool::new(config.gateway.virtual_pool)?;
        let epoch = raise_epoch(&*store, Generation::default()).await?;
        let driver = CatalogDriver::build(local_cluster(config), store.clone(), pool, epoch).await?;
        let loading = [driver.loading(), driver.loading(), driver.loading()];
        let (bundle, bundles) = watch::channel(Arc::new(issuer.bundle()));
        let (peering, peering_tasks, handover) = Peering::build(peering::Deps {
            cluster: config.cluster.clone(),
            trust_domain: config.trust_domain.clone(),
            gateway_id: Role::Gateway.id(&config.trust_domain),
            advertise,
            address_rules: AddressRules { own_ranges: vec![config.gateway.virtual_pool] },
            store: store.clone(),
            trust: trust.clone(),
            registry,
            federation_svid: federation_svid.clone(),
            join_svid: join_svid.clone(),
            bundle: bundles,
            snapshot: driver.snapshots(),
            events: driver.events(),
            tasks,
            settings: peering::Settings::default(),
        })
        .await?;

        let directory = DirectorySource::build(config.directory.clone());
        let applied = AppliedDocuments::new(store.clone());
        let (reporting, reports) = mpsc::channel(REPORTS_MAX);
        let (signer, signing) = mpsc::channel(SIGNING_REQUESTS_MAX);
        let (unbound, unbound_sockets) = watch::channel(Arc::default());
        let operator = Operator {
            catalog: driver.handle(),
            applied: applied.clone(),
            issuer: issuer.clone(),
            peering: peering.clone(),
            snapshot: driver.snapshots(),
            problems: directory.problems(),
            unbound: unbound_sockets,
        };
        let control = ControlPlane { snapshot: driver.snapshots(), reports: reporting, signer };
        let handles =
            Handles { control, handover, trust, issuer: issuer.clone(), operator, data: data.clone() };
        let federation = Self {
            driver,
            store,
            data: data.clone(),
            directory,
            applied,
            peering,
            peering_tasks,
            issuer,
            federation_svid,
            join_svid,
            reports,
            unbound,
            signing,
            loading,
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
        let events = self.driver.events();
        let [for_directory, for_applied, for_peering] = self.loading;
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
        let reports = take_reports(self.peering, self.reports, self.unbound);
        tokio::join!(
            part("catalog", &stop, self.driver.run(stop.clone())),
            part("directory", &stop, self.directory.run(events.clone(), for_directory, stop.clone())),
            part("applied documents", &stop, self.applied.run(events, for_applied, stop.clone())),
            part("peering", &stop, self.peering_tasks.run(for_peering, stop.clone())),
            part("federation SVID", &stop, renewed(Role::Federation, self.federation_svid)),
            part("join SVID", &stop, renewed(Role::Join, self.join_svid)),
            part("signer", &stop, until(&stop, signing)),
            part("reports", &stop, until(&stop, reports)),
            part("leases", &stop, expire_leases(self.store.clone(), stop.clone())),
            part("memory of the store", &stop, familiarity::keep(self.store, self.data, stop.clone())),
        );
    }
}

/// For what has no end of its own.
async fn until(stop: &CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

/// Runs a part; its end before `stop` is an error that ends all others.
async fn part(name: &'static str, stop: &CancellationToken, work: impl Future<Output = ()>) {
    work.await;
    if !stop.is_cancelled() {
        error!(part = name, "ended by itself");
        stop.cancel();
    }
}

fn local_cluster(config: &Config) -> LocalCluster {
    LocalCluster {
        name: config.cluster.clone(),
        trust_domain: config.trust_domain.clone(),
        locality: config.locality.clone(),
    }
}

/// The key of the CA is in there, so nobody else may look.
fn make_private(data: &Path) -> Result<(), StartError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|cause| StartError::Data { path: data.to_owned(), cause })
}

fn open_ca(config: &Config, data: &Path) -> Result<(Issuer, TrustStore), StartError> {
    let settings = CaSettings { root_ttl: config.trust.root_ttl, ..CaSettings::default() };
    let ca =
        BuiltinCa::open(&data.join(CA_DIRECTORY), config.trust_domain.clone(), settings, clock::unix_now())?;
    let issuer = Issuer::new(Arc::new(ca), config.trust.svid_ttl, config.trust.workload_svid_ttl);
    let trust = TrustStore::new();
    trust.put(issuer.bundle())?;
    Ok((issuer, trust))
}

/// Answers the signing requests of gateways.
///
/// What is issued is first made durable (RT4): this thread may serve requests and shall not wait for the
/// disk.
async fn sign(issuer: Issuer, mut requests: mpsc::Receiver<SigningRequest>) {
    while let Some(SigningRequest { id, csr, answer }) = requests.recv().await {
        let issuer = issuer.clone();
        // Whoever asked may have gone; then nobody needs the answer.
        let _gone = spawn_blocking(move || answer.send(issuer.sign(&id, &csr))).await;
    }
    // Every gateway is gone: that is the end of the process, which somebody else declares.
    std::future::pending().await
}

/// Passes on what gateways have seen.
async fn take_reports(
    peering: Peering,
    mut reports: mpsc::Receiver<Report>,
    unbound: watch::Sender<Arc<Vec<Unbound>>>,
) {
    while let Some(report) = reports.recv().await {
        match report {
            Report::Path { peer, path } => peering.report_path(&peer, Some(path)).await,
            Report::Unbound(sockets) => drop(unbound.send_replace(Arc::new(sockets))),
            Report::Applied { generation } => tracing::debug!(%generation, "gateways use it"),
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio::time::{sleep, timeout};
    use trust_bundle::{SvidKey, TrustDomain};

    use super::*;
    use crate::config::Overrides;
    use crate::peering::PeeringService;

    /// Long enough for a busy machine, and shorter than what the process would wait for.
    const PATIENCE: Duration = Duration::from_secs(4);

    /// A control plane that runs, with a listener in the place of its gateway.
    struct Running {
        operator: Operator,
        tasks: TaskTracker,
        stop: CancellationToken,
        _directory: TempDir,
        _control: ControlPlane,
    }

    async fn start(cluster: &str) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let settings = [
            format!("cluster={cluster}"),
            format!("store.embedded.path={path}/data"),
            format!("config.directory={path}"),
        ];
        let config = Config::load(None, &Overrides::new([], &settings).unwrap()).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let deps = FederationDeps {
            config: &config,
            advertise: vec![socket.local_addr().unwrap().into()],
            registry: Registry::new(),
            tasks: tasks.clone(),
        };
        let (federation, handles) = Federation::build(deps).await.unwrap();
        let Handles { control, handover, operator, .. } = handles;
        tasks.spawn(federation.run(stop.clone()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(hand_over(socket, handover)));
        Running { operator, tasks, stop, _directory: directory, _control: control }
    }

    async fn hand_over(socket: TcpListener, to: mpsc::Sender<HandedOver>) {
        while let Ok((stream, peer_address)) = socket.accept().await {
            let mut hello = [0; 4096];
            let length = stream.peek(&mut hello).await.unwrap();
            let joins = hello[..length].windows(5).any(|part| part == b"join.");
            let service = if joins { PeeringService::Join } else { PeeringService::Federation };
            drop(to.try_send(HandedOver { stream: Box::new(stream), peer_address, service }));
        }
    }

    #[tokio::test]
    async fn nothing_outlives_a_control_plane_that_was_told_to_stop() {
        let (cloud, onprem) = (start("cloud").await, start("onprem").await);
        let joiner = "onprem".try_into().unwrap();
        let invitation = cloud.operator.invite(&joiner, Duration::from_secs(60)).await.unwrap();
        onprem.operator.join(&invitation.token).await.unwrap();
        while cloud.operator.peers().iter().all(|peer| peer.stream.is_none()) {
            sleep(Duration::from_millis(5)).await;
        }
        for side in [&cloud, &onprem] {
            side.stop.cancel();
            side.tasks.close();
            assert!(timeout(PATIENCE, side.tasks.wait()).await.is_ok(), "tasks outlive the control plane");
        }
    }

    #[tokio::test]
    async fn issuing_does_not_keep_the_thread_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::try_from("a.example").unwrap();
        let now = clock::unix_now();
        let ca = BuiltinCa::open(directory.path(), domain.clone(), CaSettings::default(), now).unwrap();
        let hour = Duration::from_secs(3600);
        let (requests, queue) = mpsc::channel(1);
        let mut signing = std::pin::pin!(sign(Issuer::new(Arc::new(ca), hour, hour), queue));
        let (answer, mut answered) = oneshot::channel();
        let id = Role::Gateway.id(&domain);
        requests.send(SigningRequest { id, csr: SvidKey::generate().csr(), answer }).await.unwrap();
        tokio::select! {
            biased;
            () = &mut signing => {}
            () = std::future::ready(()) => assert!(answered.try_recv().is_err(), "others go first"),
        }
        tokio::select! {
            () = &mut signing => {}
            signed = &mut answered => assert_eq!(signed.unwrap().unwrap().len(), 1),
        }
    }
}
