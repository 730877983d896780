//! The federation side of the stream: who may come in, and what each gateway is sent.
//!
//! ```text
//!   socket ─► accept: limits, SNI, mutual TLS, role ─┬─ h2 ─► session: outbox ◄── term's feed
//!                                                    ├─ isthmus-handover/1 ─► peering
//!                     node.<cluster>  ───────────────┴─► nodes
//! ```
//! Each gateway has a session of its own, which sends the way from what was sent to what is newest: a
//! slow gateway delays nobody and is never owed more than one change. What breaks the protocol is cut
//! and counted. A process that does not lead says so and names the leader.

mod accept;
mod outbox;
mod refusals;
mod service;
mod session;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{Registry, SpiffeId, SvidHandle, TrustDomain, TrustStore};

use super::Standing;
use crate::issuer::Role;
use crate::model::ClusterName;
use crate::pace::Backoff;

pub use refusals::Refusals;
pub(super) use session::issue;

/// How long connections have to close once their streams have ended.
const SHUTDOWN_TIME: Duration = Duration::from_secs(1);

/// What the listener for gateways is built from.
#[derive(Debug)]
pub struct ServerDeps {
    pub cluster: ClusterName,
    pub trust_domain: TrustDomain,
    /// The federation role of this process.
    pub svid: SvidHandle,
    /// The join role, shown to new nodes; its chain ends with the root.
    pub join_svid: SvidHandle,
    /// Holds our own bundle at least.
    pub trust: TrustStore,
    pub standing: watch::Receiver<Standing>,
    pub registry: Registry,
    pub tasks: TaskTracker,
    pub settings: Settings,
}

/// Times of the stream; both sides have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub heartbeat: Duration,
    /// A stream on which nothing comes for this long is dead.
    pub silence_max: Duration,
    /// A stream that takes nothing for this long is dead.
    pub stall_max: Duration,
    pub redial: Backoff,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            silence_max: Duration::from_secs(5),
            stall_max: Duration::from_secs(10),
            redial: Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) },
        }
    }
}

/// The listener for gateways, before it runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    deps: ServerDeps,
    /// The only identity that may speak here.
    gateway_id: SpiffeId,
    refusals: Refusals,
    room: accept::Room,
    stop: CancellationToken,
}

impl Server {
    /// On a socket that listens and does not block; must be called within the runtime, serves nobody yet.
    pub fn build(listener: std::net::TcpListener, deps: ServerDeps) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        let local_addr = listener.local_addr()?;
        let shared = Shared {
            gateway_id: Role::Gateway.id(&deps.trust_domain),
            deps,
            refusals: Refusals::default(),
            room: accept::Room::default(),
            stop: CancellationToken::new(),
        };
        Ok(Self { listener, local_addr, shared: Arc::new(shared) })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Counts who was not let in, and why.
    pub fn refusals(&self) -> Refusals {
        self.shared.refusals.clone()
    }

    /// Serves until told to stop; streams end with it, and gateways go on with what they hold.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, shared, .. } = self;
        let stop = async {
            shutdown.cancelled().await;
            shared.stop.cancel();
            tokio::time::sleep(SHUTDOWN_TIME).await;
        };
        tokio::select! {
            () = stop => {}
            () = service::serve(shared.clone(), listener) => {}
            () = encode(shared.deps.standing.clone()) => {}
        }
        shared.stop.cancel();
    }
}

/// Encodes states for as long as this process leads.
async fn encode(mut standing: watch::Receiver<Standing>) {
    loop {
        let now = standing.borrow_and_update().clone();
        let leading = async {
            match &now {
                Standing::Leading(term) => term.encode().await,
                Standing::Following { .. } => std::future::pending().await,
            }
        };
        tokio::select! {
            () = leading => {}
            changed = standing.changed() => if changed.is_err() {
                // Whoever decides is gone with the process.
                std::future::pending::<()>().await;
            }
        }
    }
}
