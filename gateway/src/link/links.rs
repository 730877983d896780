//! All links of this gateway: one keeper for each peer, as the snapshot and what is trusted say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use federation::control::Report;
use federation::model::{ClusterName, Peer, RelationshipState, ServiceName};
use federation::snapshot::Snapshot;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use pingora_core::protocols::http::v2::server::HttpSession;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{PeerIdentity, Registry, SvidHandle, TrustStore};

use super::accepted::{self, Announced};
use super::dial::Dialer;
use super::establish::Establisher;
use super::keeper::Keeper;
use super::lender::{HttpStream, Lender, NoStream};
use super::message::{Hello, ReplicaId, ServiceReadiness, VERSION};
use super::status::{AcceptedLink, PeerStatus};
use super::tunnel::{self, BorrowedTunnel, OpenFault};
use crate::balancer::{LinkState, Reachability};
use crate::connection::Facts;
use crate::windows::Windows;

/// What links are built from.
#[derive(Debug)]
pub struct LinkParts {
    pub trust: TrustStore,
    pub svid: SvidHandle,
    pub registry: Registry,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub reports: mpsc::Sender<Report>,
    pub tasks: TaskTracker,
    pub windows: Windows,
    pub replica: ReplicaId,
}

/// The links to all peers; a clone is another handle.
#[derive(Debug, Clone)]
pub struct Links {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: LinkParts,
    lenders: ArcSwap<BTreeMap<ClusterName, Arc<Lender>>>,
    hello: watch::Sender<Hello>,
    leaving: CancellationToken,
    accepted: Mutex<BTreeMap<u64, AcceptedLink>>,
    /// One of the accepted links is gone.
    left: Notify,
}

impl Links {
    pub fn build(parts: LinkParts) -> Self {
        let hello = Hello { version: VERSION, replica: parts.replica.clone(), replicas: 1 };
        let shared = Shared {
            parts,
            lenders: ArcSwap::default(),
            hello: watch::Sender::new(hello),
            leaving: CancellationToken::new(),
            accepted: Mutex::default(),
            left: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Borrows an HTTP/2 stream to a peer; waits for a moment if all are in use.
    pub async fn http_stream(&self, peer: &ClusterName) -> Result<HttpStream, NoStream> {
        self.lender(peer).ok_or(NoStream::NoLink)?.http_stream().await
    }

    /// Opens a byte stream to a service's port behind a peer's gateway.
    pub async fn tunnel(
        &self,
        peer: &ClusterName,
        to: &ServiceName,
        port: u16,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<BorrowedTunnel, OpenFault> {
        let lender = self.lender(peer).ok_or(OpenFault::NoStream(NoStream::NoLink))?;
        tunnel::open(&lender, to, port, headers.into_iter().collect::<HeaderMap>()).await
    }

    /// What a peer says is ready of a service behind its gateways; none if it said nothing.
    pub fn ready(&self, peer: &ClusterName, service: &ServiceName) -> Option<ServiceReadiness> {
        self.lender(peer)?.ready(service)
    }

    /// Says in every hello how many gateways this cluster runs.
    pub fn set_replicas(&self, replicas: u32) {
        self.shared.hello.send_if_modified(|hello| {
            std::mem::replace(&mut hello.replicas, replicas.max(1)) != replicas.max(1)
        });
    }

    /// Asks all peers to look for another replica; links stay up until they are drained.
    pub fn announce_leaving(&self) {
        self.shared.leaving.cancel();
    }

    /// The same, and gives them a moment to go there.
    ///
    /// Before links are drained: a stream that meets a GOAWAY has to be sent again, and a large upload
    /// cannot be. Those that have no other replica to go to stay.
    pub async fn say_goodbye(&self, patience: Duration) {
        self.announce_leaving();
        let all_left = async {
            loop {
                let left = self.shared.left.notified();
                if self.shared.accepted.lock().is_empty() {
                    return;
                }
                left.await;
            }
        };
        if timeout(patience, all_left).await.is_err() {
            tracing::debug!("some peers stay until their links are drained");
        }
    }

    /// Serves the control stream that a peer's gateway opened on a link.
    pub async fn serve_control(&self, peer: ClusterName, session: HttpSession, facts: Facts) {
        let connection = facts.connection().clone();
        let Some(_listed) = Listed::enter(&self.shared, AcceptedLink::new(&peer, &facts)) else {
            tracing::debug!(%peer, connection = connection.id(), "a second control stream is refused");
            return accepted::refuse_another(session);
        };
        if let Some(lender) = self.lender(&peer) {
            lender.seen.notify_one();
        }
        let announced = Announced {
            hello: self.shared.hello.subscribe(),
            snapshots: self.shared.parts.snapshots.clone(),
            leaving: self.shared.leaving.clone(),
        };
        let served = tokio::select! {
            served = accepted::serve(&peer, session, &connection, announced) => served,
            () = accepted::cut_when_expired(connection.clone()) => return,
        };
        let Err(error) = served else { return };
        // Nobody would notice any more that the link is silent, too old, or to be left. One that drains
        // has its own end, and requests on it may still be finished.
        let cut = !*connection.drained().borrow();
        if cut {
            connection.cut();
        }
        tracing::info!(%peer, connection = connection.id(), %error, cut, "the control stream of a link broke");
    }

    /// What is known of the paths and links to and from all peers.
    pub fn status(&self) -> Vec<PeerStatus> {
        let accepted = self.shared.accepted.lock();
        let lenders = self.shared.lenders.load();
        lenders.values().map(|lender| PeerStatus::of(lender, accepted.values())).collect()
    }

    /// Keeps links to all peers until `shutdown`; then returns once the last borrowed stream is returned.
    ///
    /// Peers are known when this returns, and not only when what it returns is polled: who starts to
    /// serve after it finds a link on its way.
    pub fn run(self, shutdown: CancellationToken) -> impl Future<Output = ()> + Send {
        let mut keepers = Keepers::new(self.shared.clone());
        let mut snapshots = self.shared.parts.snapshots.clone();
        let snapshot = snapshots.borrow_and_update().clone();
        keepers.follow(&snapshot);
        self.follow(keepers, snapshots, shutdown)
    }

    async fn follow(
        self,
        mut keepers: Keepers,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: CancellationToken,
    ) {
        let mut trust = self.shared.parts.trust.subscribe();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            keepers.follow(&snapshot);
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = snapshots.changed() => if changed.is_err() { break },
                Ok(()) = trust.changed() => self.cut_untrusted(),
                Some(ended) = keepers.tasks.join_next() => keepers.ended(ended),
            }
        }
        keepers.leave().await;
    }

    fn lender(&self, peer: &ClusterName) -> Option<Arc<Lender>> {
        self.shared.lenders.load().get(peer).cloned()
    }

    /// Ends what was authenticated by an authority that is trusted no longer.
    fn cut_untrusted(&self) {
        let trust = self.shared.parts.trust.load();
        let distrusted = |peer: &PeerIdentity| !trust.vouches_for(peer);
        let cut = self.shared.parts.registry.cut(|connection| connection.peer().is_some_and(&distrusted));
        if cut > 0 {
            tracing::warn!(cut, generation = trust.generation(), "trust was withdrawn: connections cut");
        }
    }
}

impl Reachability for Links {
    fn state(&self, peer: &ClusterName) -> LinkState {
        self.shared.lenders.load().get(peer).map_or(LinkState::Down, |lender| lender.prospect())
    }
}

/// The keepers that run, and how to tell them something.
struct Keepers {
    shared: Arc<Shared>,
    establisher: Arc<Establisher>,
    running: BTreeMap<ClusterName, Running>,
    tasks: JoinSet<ClusterName>,
    leave: CancellationToken,
}

struct Running {
    peer: watch::Sender<Peer>,
    lender: Arc<Lender>,
    cut: CancellationToken,
}

impl Keepers {
    fn new(shared: Arc<Shared>) -> Self {
        let LinkParts { trust, svid, registry, tasks, windows, .. } = &shared.parts;
        let dialer = Dialer { trust: trust.clone(), svid: svid.clone(), registry: registry.clone() };
        let establisher = Establisher::new(dialer, *windows, tasks.clone(), shared.hello.subscribe());
        Self {
            establisher: Arc::new(establisher),
            shared,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            leave: CancellationToken::new(),
        }
    }

    /// Makes the keepers those of the peers that are linked now.
    fn follow(&mut self, snapshot: &Snapshot) {
        let trust = self.shared.parts.trust.load();
        let linked = snapshot.peers.values().map(|view| &view.peer).filter(|peer| {
            peer.state == RelationshipState::Active && trust.bundle(&peer.trust_domain).is_some()
        });
        let linked: BTreeMap<_, _> = linked.map(|peer| (&peer.name, peer)).collect();
        let over: Vec<_> =
            self.running.iter().filter(|(name, running)| is_over(running, linked.get(name))).collect();
        let over: Vec<_> = over.into_iter().map(|(name, _)| name.clone()).collect();
        for name in over {
            self.cut(&name);
        }
        for (name, peer) in linked {
            self.keep(name, peer);
        }
        let lenders = self.running.iter().map(|(name, running)| (name.clone(), running.lender.clone()));
        self.shared.lenders.store(Arc::new(lenders.collect()));
    }

    fn keep(&mut self, name: &ClusterName, peer: &Peer) {
        if let Some(running) = self.running.get(name) {
            running.peer.send_if_modified(|known| {
                let changed = known != peer;
                known.clone_from(peer);
                changed
            });
            return;
        }
        let (sender, peers) = watch::channel(peer.clone());
        let lender = Lender::new(name.clone());
        let cut = CancellationToken::new();
        let reports = self.shared.parts.reports.clone();
        let keeper = Keeper::new(peer.clone(), self.establisher.clone(), lender.clone(), reports);
        let running = keeper.run(peers, self.leave.clone(), cut.clone());
        let name = name.clone();
        self.running.insert(name.clone(), Running { peer: sender, lender, cut });
        self.tasks.spawn(async move {
            running.await;
            name
        });
    }

    /// Ends all links with a peer at once, whoever dialled them.
    fn cut(&mut self, name: &ClusterName) {
        let Some(running) = self.running.remove(name) else { return };
        running.cut.cancel();
        let id = running.peer.borrow().gateway_id.clone();
        let is_peer = |peer: &PeerIdentity| *peer.id() == id;
        let cut = self.shared.parts.registry.cut(|connection| connection.peer().is_some_and(is_peer));
        tracing::info!(peer = %name, cut, "the relationship is over: links cut");
    }

    /// A keeper ends only when it is told to; one that ended otherwise is made anew.
    fn ended(&mut self, ended: Result<ClusterName, tokio::task::JoinError>) {
        if let Err(error) = ended {
            tracing::error!(%error, "a keeper of links failed");
            self.running.retain(|_, running| running.peer.receiver_count() > 0);
        }
    }

    async fn leave(mut self) {
        self.leave.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.shared.lenders.store(Arc::default());
    }
}

/// A peer that is another one under the same name begins anew too.
fn is_over(running: &Running, linked: Option<&&Peer>) -> bool {
    let known = running.peer.borrow();
    linked.is_none_or(|peer| peer.gateway_id != known.gateway_id || peer.joined != known.joined)
}

/// An accepted link in the list that the admin API shows.
struct Listed<'a> {
    shared: &'a Shared,
    id: u64,
}

impl<'a> Listed<'a> {
    /// None if the link has a control stream already.
    fn enter(shared: &'a Shared, link: AcceptedLink) -> Option<Self> {
        let id = link.id;
        let mut accepted = shared.accepted.lock();
        if accepted.contains_key(&id) {
            return None;
        }
        accepted.insert(id, link);
        Some(Self { shared, id })
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.accepted.lock().remove(&self.id);
        self.shared.left.notify_one();
    }
}
