//! A whole data plane of one cluster in this process, and ways to reach it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use federation::control::Report;
use federation::snapshot::{Generation, Snapshot};
use gateway::balancer::{LinkState, Reachability as _};
use gateway::gateway::{Gateway, GatewayDeps, Settings};
use gateway::host::Sockets;
use gateway::link::{LinkParts, Links, ReplicaId};
use gateway::listener::{HANDOVERS_MAX, Handover, Room};
use gateway::overload::{self, Guard};
use gateway::plane::Plane;
use gateway::telemetry::{AccessLog, LineLog, Memory, Metrics, Output};
use gateway::windows::Windows;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{ExpectedPeer, Registry, SpiffeId, SvidHandle, TrustStore, client_config};

use crate::scene::local_cluster;
use crate::{Http1, Scene, TestTrustDomain, within};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs until dropped or shut down.
#[derive(Debug)]
pub struct TestGateway {
    pub cluster: String,
    pub mesh: SocketAddr,
    pub east_west: SocketAddr,
    pub trust: TrustStore,
    pub svid: SvidHandle,
    pub registry: Registry,
    pub metrics: Metrics,
    pub plane: Arc<Plane>,
    pub handovers: mpsc::Receiver<Handover>,
    pub reports: mpsc::Receiver<Report>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    log: LineLog,
    lines: Memory,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

/// How much a gateway takes on.
#[derive(Debug)]
pub struct Bounds {
    pub room: Room,
    pub overload: Guard,
    pub sockets: Sockets,
}

impl Default for Bounds {
    fn default() -> Self {
        let overload = Guard::of_this_process(overload::Settings::default());
        Self { room: Room::of_this_process(), overload, sockets: Sockets::none() }
    }
}

impl TestGateway {
    /// Trusts its own domain; `trust.put` adds others.
    pub async fn start(cluster: &str, domain: &TestTrustDomain, scene: &mut Scene) -> Self {
        let trust = TrustStore::new();
        trust.put(domain.bundle()).expect("a first bundle");
        Self::start_trusting(cluster, domain, trust, scene).await
    }

    pub async fn start_trusting(
        cluster: &str,
        domain: &TestTrustDomain,
        trust: TrustStore,
        scene: &mut Scene,
    ) -> Self {
        Self::start_with(cluster, domain, trust, scene.snapshot(), Bounds::default()).await
    }

    /// With less room than this machine has.
    pub async fn start_within(
        bounds: Bounds,
        cluster: &str,
        domain: &TestTrustDomain,
        scene: &mut Scene,
    ) -> Self {
        let trust = TrustStore::new();
        trust.put(domain.bundle()).expect("a first bundle");
        Self::start_with(cluster, domain, trust, scene.snapshot(), bounds).await
    }

    /// Something outside keeps its sockets open when it ends, or would.
    pub async fn start_keeping(
        cluster: &str,
        domain: &TestTrustDomain,
        scene: &mut Scene,
        sockets: Sockets,
    ) -> Self {
        Self::start_within(Bounds { sockets, ..Bounds::default() }, cluster, domain, scene).await
    }

    /// As a process is before its sources have spoken.
    pub async fn start_knowing_nothing(cluster: &str, domain: &TestTrustDomain) -> Self {
        let trust = TrustStore::new();
        trust.put(domain.bundle()).expect("a first bundle");
        let local = local_cluster(cluster, domain);
        let nothing = Arc::new(Snapshot::empty(Arc::new(local)));
        Self::start_with(cluster, domain, trust, nothing, Bounds::default()).await
    }

    async fn start_with(
        cluster: &str,
        domain: &TestTrustDomain,
        trust: TrustStore,
        first: Arc<Snapshot>,
        bounds: Bounds,
    ) -> Self {
        let (snapshots, following) = watch::channel(first);
        let (report, reports) = mpsc::channel(federation::control::REPORTS_MAX);
        let (handover, handovers) = mpsc::channel(HANDOVERS_MAX);
        let (registry, metrics, tasks) = (Registry::new(), Metrics::new(), TaskTracker::new());
        let svid = domain.svid("/isthmus/gateway");
        let lines = Memory::default();
        let (log, writer) = LineLog::build(Output::Memory(lines.clone())).expect("memory can be written");
        thread::spawn(move || writer.run());
        let links = Links::build(LinkParts {
            trust: trust.clone(),
            svid: svid.clone(),
            registry: registry.clone(),
            snapshots: following.clone(),
            reports: report.clone(),
            tasks: tasks.clone(),
            windows: Windows::LINK,
            replica: replica_id(cluster),
        });
        let settings = Settings {
            mesh: Some(ANY),
            east_west: ANY,
            ingress: ANY.ip(),
            drain_time: Duration::from_secs(10),
        };
        let gateway = Gateway::build(GatewayDeps {
            settings,
            snapshots: following,
            trust: trust.clone(),
            svid: svid.clone(),
            registry: registry.clone(),
            links: links.clone(),
            reports: report,
            metrics: metrics.clone(),
            access_log: AccessLog::new(log.clone()),
            handover,
            room: bounds.room,
            overload: bounds.overload,
            sockets: bounds.sockets,
            tasks: TaskTracker::new(),
        });
        let gateway = gateway.await.expect("a gateway on free ports");
        let (mesh, east_west) = (gateway.mesh_address().expect("configured"), gateway.east_west_address());
        let (plane, shutdown) = (gateway.plane().clone(), CancellationToken::new());
        let ended = shutdown.clone();
        let running = tasks.spawn(async move {
            let stop_links = CancellationToken::new();
            let drained = async {
                gateway.run(ended).await;
                stop_links.cancel();
            };
            tokio::join!(drained, links.run(stop_links.clone()));
        });
        Self {
            cluster: cluster.to_owned(),
            mesh,
            east_west,
            trust,
            svid,
            registry,
            metrics,
            plane,
            handovers,
            reports,
            snapshots,
            log,
            lines,
            shutdown,
            running,
        }
    }

    /// A plain connection to the mesh listener.
    pub async fn client(&self) -> Http1<TcpStream> {
        Http1::new(connect(self.mesh).await)
    }

    /// A workload with an SVID of its own, over mutual TLS.
    pub async fn workload(&self, svid: &SvidHandle, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_tls(self.mesh, svid, "mesh.local", alpn).await
    }

    /// The data plane follows what the control plane knows now.
    ///
    /// Scenes count their generations apart; what is published is always newer than what was.
    pub fn publish(&self, scene: &mut Scene) {
        let mut snapshot = Snapshot::clone(&scene.snapshot());
        let next = Generation(self.snapshots.borrow().generation.0 + 1);
        snapshot.generation = snapshot.generation.max(next);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Dials the port between clusters as somebody with this SVID, who trusts what we trust.
    pub async fn dial(
        &self,
        svid: &SvidHandle,
        name: &str,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_tls(self.east_west, svid, name, alpn).await
    }

    async fn connect_tls(
        &self,
        address: SocketAddr,
        svid: &SvidHandle,
        name: &str,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let own = self.trust.load();
        let domains = own.bundles().map(|bundle| bundle.trust_domain().clone());
        let gateways = domains.filter_map(|domain| SpiffeId::new(&domain, "/isthmus/gateway").ok());
        let config = client_config(&self.trust, svid, ExpectedPeer::AnyOf(gateways.collect()), &[alpn]);
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        TlsConnector::from(config).connect(name, connect(address).await).await
    }

    /// Whether there is a link to a peer that can be used.
    pub fn reaches(&self, peer: &str) -> bool {
        let peer = peer.try_into().expect("a cluster name");
        self.plane.links.state(&peer) == LinkState::Up
    }

    /// The lines of the access log so far.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.log.flush();
        self.lines.entries()
    }

    /// Asks it to drain and to end.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        within("the drain of a gateway", &mut self.running).await.expect("a gateway ends without a panic");
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.running.abort();
    }
}

/// Another one with each start, as in life.
fn replica_id(cluster: &str) -> ReplicaId {
    static STARTS: AtomicUsize = AtomicUsize::new(1);
    let start = STARTS.fetch_add(1, Ordering::Relaxed);
    format!("{cluster}-{start}").try_into().expect("a replica id")
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the gateway listens");
    stream.set_nodelay(true).expect("a TCP stream");
    stream
}
