//! The data plane of one process: built at once, bound eagerly, drained in one function.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use federation::control::Report;
use federation::model::RelationshipState;
use federation::snapshot::{Generation, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{Connection, Origin, Registry, SvidHandle, TrustDomain, TrustStore};

use crate::balancer::Balancer;
use crate::clock;
use crate::host::Sockets;
use crate::link::Links;
use crate::listener::bind::NotBound;
use crate::listener::{Handover, ListenerSet, Port, Purpose, Room, Server, shared_proxy, wanted};
use crate::overload::Guard;
use crate::plane::{Plane, Strangers};
use crate::proxy::RequestPath;
use crate::snapshot::{CurrentView, View};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::{LinkConnector, Resolver, Upstream};

/// What the static configuration says of the data plane.
#[derive(Debug, Clone)]
pub struct Settings {
    /// None where no workload uses this process by Host.
    pub mesh: Option<SocketAddr>,
    pub east_west: SocketAddr,
    /// For listeners of `Gateway` objects that name no address.
    pub ingress: IpAddr,
    /// How long requests may take to finish when the process ends.
    pub drain_time: Duration,
}

/// What the composition root hands to the data plane.
#[derive(Debug)]
pub struct GatewayDeps {
    pub settings: Settings,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub trust: TrustStore,
    pub svid: SvidHandle,
    pub registry: Registry,
    pub links: Links,
    pub reports: mpsc::Sender<Report>,
    pub metrics: Metrics,
    pub access_log: AccessLog,
    /// Where connections for the federation process go.
    pub handover: mpsc::Sender<Handover>,
    pub room: Room,
    /// Inherited from the process before us, and kept for the one after.
    pub sockets: Sockets,
    pub overload: Guard,
    /// For connections and nothing else: its end is the end of the drain.
    pub tasks: TaskTracker,
}

/// Why the data plane cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    NotBound(#[from] NotBound),
    #[error("cannot set up the HTTP proxy: {0}")]
    Proxy(#[from] io::Error),
}

/// Sockets that could not be had are tried again so often.
const RETRY: Duration = Duration::from_secs(5);
/// Peers need a few round trips to reach another replica, where there is one.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);
/// For those who came last, when those of before took all the time.
const LAST_TIME_MIN: Duration = Duration::from_secs(5);
/// Between two looks whether the connections of before have ended.
const FINISHED_POLL: Duration = Duration::from_millis(50);
/// What is cut at the end of a drain needs a moment to unwind.
const CUT_TIME_MAX: Duration = Duration::from_secs(2);

/// The data plane, bound and not yet running; who comes before the first snapshot waits for it.
pub struct Gateway {
    server: Arc<Server>,
    settings: Settings,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    reports: mpsc::Sender<Report>,
    mesh: Option<Port>,
    east_west: Port,
    listeners: ListenerSet,
    /// Trust domains whose identities may hold connections.
    known: BTreeSet<TrustDomain>,
}

impl Gateway {
    /// Binds everything that is wanted by now; nothing waits for a peer.
    pub async fn build(deps: GatewayDeps) -> Result<Self, BuildError> {
        let GatewayDeps { settings, snapshots, links, reports, metrics, access_log, tasks, .. } = deps;
        let views = CurrentView::new(snapshots.borrow().clone());
        let (balancer, resolver) = (Balancer::new(clock::now()), Resolver::default());
        let (upstream, connector) = (Upstream::new(resolver.clone()), LinkConnector::new(links.clone()));
        let strangers = Strangers::default();
        let overload = deps.overload;
        let plane = Arc::new(Plane {
            views,
            balancer,
            links,
            upstream,
            resolver,
            metrics,
            access_log,
            overload,
            strangers,
        });
        let proxy = shared_proxy(RequestPath::new(plane.clone()), connector, &tasks).await?;
        let server = Server::new(
            proxy,
            plane,
            deps.registry,
            deps.trust,
            &deps.svid,
            deps.handover,
            tasks,
            deps.room,
            deps.sockets,
        );
        let mesh = settings.mesh.map(|address| Port::open(&server, address, Purpose::Mesh)).transpose()?;
        let east_west = Port::open(&server, settings.east_west, Purpose::EastWest)?;
        let listeners = ListenerSet::new(server.clone());
        let mut gateway =
            Self { server, settings, snapshots, reports, mesh, east_west, listeners, known: BTreeSet::new() };
        let view = gateway.server.plane().views.load();
        gateway.listen(&view).await;
        Ok(gateway)
    }

    /// Where workloads' HTTP is accepted; of interest where the configured port is 0.
    pub fn mesh_address(&self) -> Option<SocketAddr> {
        self.mesh.as_ref().map(Port::address)
    }

    pub fn east_west_address(&self) -> SocketAddr {
        self.east_west.address()
    }

    /// The sockets that the snapshot asked for.
    pub fn listener_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses().collect()
    }

    pub fn plane(&self) -> &Arc<Plane> {
        self.server.plane()
    }

    /// Follows the snapshot until `shutdown`, and then drains.
    pub async fn run(self, shutdown: CancellationToken) {
        let plane = self.server.plane().clone();
        tokio::select! {
            () = self.work(shutdown) => {}
            // Also while it drains.
            () = plane.overload.watch(&plane.metrics) => {}
        }
    }

    async fn work(mut self, shutdown: CancellationToken) {
        let plane = self.server.plane().clone();
        let reports = self.reports.clone();
        let following = plane.views.follow(self.snapshots.clone(), shutdown.clone(), |view| {
            plane.balancer.adopt(view);
            plane.metrics.adopt(view);
            // A full channel is told the next generation.
            let _ = reports.try_send(Report::Applied { generation: view.snapshot.generation });
        });
        tokio::join!(following, self.follow_views(&shutdown));
        self.drain().await;
    }

    async fn follow_views(&mut self, shutdown: &CancellationToken) {
        let mut views = self.server.plane().views.subscribe();
        while !shutdown.is_cancelled() {
            let view = views.borrow_and_update().clone();
            self.cut_strangers(&view);
            self.listen(&view).await;
            if view.snapshot.generation > Generation::default() {
                self.server.sockets().forget_unclaimed();
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                changed = views.changed() => if changed.is_err() { return shutdown.cancelled().await },
                () = tokio::time::sleep(RETRY), if self.listeners.may_bind_later() => {}
            }
        }
    }

    async fn listen(&mut self, view: &View) {
        if self.listeners.reconcile(&wanted(&view.snapshot, self.settings.ingress)).await {
            for unbound in self.listeners.unbound() {
                tracing::warn!(address = %unbound.address, owner = unbound.owner, reason = unbound.reason, hint = unbound.remedy, "cannot listen");
            }
            let _ = self.reports.try_send(Report::Unbound(self.listeners.unbound().to_vec()));
        }
    }

    /// Ends what was proven by a trust domain that is neither ours nor an active peer's: a peer that was
    /// removed loses its open connections too.
    fn cut_strangers(&mut self, view: &View) {
        let known = known(&view.snapshot);
        if known == self.known {
            return;
        }
        let is_stranger = |connection: &Connection| {
            connection.peer().is_some_and(|peer| !known.contains(peer.trust_domain()))
        };
        let cut = self.server.registry().cut(is_stranger);
        if cut > 0 {
            tracing::info!(connections = cut, "cut off the connections of a removed peer");
        }
        self.known = known;
    }

    /// The order in which a data plane ends: clients of before where others can still be served, stop
    /// accepting, say goodbye, finish, cut the rest.
    async fn drain(mut self) {
        let started = clock::now();
        if self.server.sockets().outlive_us() {
            let _in_time = timeout(self.settings.drain_time, self.finish_clients_of_before()).await;
        }
        for port in self.mesh.take().into_iter().chain([self.east_west]) {
            port.close().await;
        }
        self.listeners.close_all().await;
        self.server.links().say_goodbye(GOODBYE_TIME_MAX).await;
        self.server.start_drain();
        self.server.registry().drain(|connection| connection.origin() == Origin::Accepted);
        let tasks = self.server.tasks().clone();
        tasks.close();
        let spent = clock::now().saturating_duration_since(started);
        let left = self.settings.drain_time.saturating_sub(spent).max(LAST_TIME_MIN);
        if timeout(left.min(self.settings.drain_time), tasks.wait()).await.is_err() {
            let cut = self.server.registry().cut(|connection| connection.origin() == Origin::Accepted);
            tracing::warn!(connections = cut, "cut off what had not finished in time");
            let _unwound = timeout(CUT_TIME_MAX, tasks.wait()).await;
        }
    }

    /// Where sockets stay open after us, newcomers would wait in their queues for the next process, for as
    /// long as the slowest request of somebody else. So they are served as long as those of before are.
    async fn finish_clients_of_before(&self) {
        let (links, newest) = (self.east_west.owner(), AtomicU64::new(0));
        let is_client = |connection: &Connection| {
            connection.origin() == Origin::Accepted && connection.owner() != &*links
        };
        self.server.start_client_drain();
        self.server.registry().drain(|connection| {
            let drained = is_client(connection);
            if drained {
                newest.fetch_max(connection.id(), Ordering::Relaxed);
            }
            drained
        });
        let newest = newest.into_inner();
        let of_before = |connection: &Connection| connection.id() <= newest && is_client(connection);
        while self.server.registry().count(of_before) > 0 {
            tokio::time::sleep(FINISHED_POLL).await;
        }
    }
}

fn known(snapshot: &Snapshot) -> BTreeSet<TrustDomain> {
    let peers = snapshot.peers.values().map(|view| &view.peer);
    let active = peers.filter(|peer| peer.state == RelationshipState::Active);
    let domains = active.map(|peer| &peer.trust_domain).chain([&snapshot.cluster.trust_domain]);
    domains.cloned().collect()
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("settings", &self.settings).finish_non_exhaustive()
    }
}
