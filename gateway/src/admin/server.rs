//! The listener of the admin API and its routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{delete, get, post};
use federation::app::{FederationStatus, Operator};
use federation::control::ControlStatus;
use federation::model::Timestamp;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trust_bundle::{Registry, SvidHandle, TrustStore};

use super::cookie::Cookie;
use super::{changes, dumps, guard};
use crate::link::{Links, PeerStatus};
use crate::snapshot::CurrentView;
use crate::telemetry::{AuditLog, Metrics};

/// Documents of one request; a directory is for more.
const BODY_BYTES_MAX: usize = 4 << 20;

/// What the admin API shows and changes.
#[derive(Debug)]
pub struct AdminDeps {
    pub listener: std::net::TcpListener,
    pub cookie: Cookie,
    pub operator: Operator,
    pub inspected: Inspected,
    pub audit: AuditLog,
    /// Traffic may be sent here.
    pub ready: Arc<AtomicBool>,
}

/// The parts of the process that are shown.
#[derive(Debug)]
pub struct Inspected {
    pub config: Value,
    /// The command that runs.
    pub role: &'static str,
    pub above: Above,
    /// When the snapshot in use came, if anybody knows.
    pub served_since: watch::Receiver<Option<Timestamp>>,
    /// None where no request is served.
    pub data_plane: Option<DataPlane>,
    pub registry: Registry,
    pub trust: TrustStore,
    pub metrics: Metrics,
    pub svids: Vec<SvidHandle>,
    /// Sockets that are open for as long as the process runs.
    pub listeners: Vec<(&'static str, SocketAddr)>,
}

/// What a data plane shows.
#[derive(Debug)]
pub struct DataPlane {
    pub views: Arc<CurrentView>,
    pub links: Links,
}

/// The control plane, as far as this process sees it.
#[derive(Debug, Clone)]
pub enum Above {
    /// In this very process.
    Here(FederationStatus),
    /// Behind the stream.
    There(watch::Receiver<ControlStatus>),
}

impl Inspected {
    /// The paths to peers; none where no links are kept.
    pub(super) fn paths(&self) -> Vec<PeerStatus> {
        self.data_plane.as_ref().map(|plane| plane.links.status()).unwrap_or_default()
    }
}

/// What every handler sees.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) address: SocketAddr,
    pub(super) cookie: Arc<Cookie>,
    pub(super) operator: Operator,
    pub(super) inspected: Arc<Inspected>,
    pub(super) audit: AuditLog,
    pub(super) ready: Arc<AtomicBool>,
}

/// The admin API on its listener.
#[derive(Debug)]
pub struct Admin {
    listener: std::net::TcpListener,
    context: Context,
}

impl Admin {
    pub fn build(deps: AdminDeps) -> std::io::Result<Self> {
        let address = deps.listener.local_addr()?;
        let AdminDeps { listener, cookie, operator, inspected, audit, ready } = deps;
        let (cookie, inspected) = (Arc::new(cookie), Arc::new(inspected));
        let context = Context { address, cookie, operator, inspected, audit, ready };
        Ok(Self { listener, context })
    }

    pub fn address(&self) -> SocketAddr {
        self.context.address
    }

    /// Serves until told to stop; requests in flight are finished.
    pub async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let service = routes(self.context).into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned()).await
    }
}

fn routes(context: Context) -> Router {
    Router::new()
        .route("/", get(dumps::about))
        .route("/livez", get(dumps::live))
        .route("/readyz", get(dumps::ready))
        .route("/metrics", get(dumps::metrics))
        .route("/status", get(dumps::status))
        .route("/config", get(dumps::config))
        .route("/snapshot", get(dumps::snapshot))
        .route("/links", get(dumps::links))
        .route("/connections", get(dumps::connections))
        .route("/trust", get(dumps::trust))
        .route("/objects", get(dumps::objects))
        .route("/objects/{kind}", get(dumps::objects_of_kind))
        .route("/peers", get(dumps::peers))
        .route("/peers/tokens", get(dumps::tokens))
        .route("/nodes/tokens", get(dumps::node_tokens))
        .route("/nodes/invite", post(changes::invite_node))
        .route("/nodes/tokens/{id}", delete(changes::revoke_node_token))
        .route("/peers/invite", post(changes::invite))
        .route("/peers/join", post(changes::join))
        .route("/peers/{cluster}", delete(changes::remove_peer))
        .route("/peers/tokens/{id}", delete(changes::revoke_token))
        .route("/apply", post(changes::apply))
        .route("/delete", post(changes::delete))
        .route("/svid", post(changes::issue_svid))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(context.clone(), guard::guard))
        .with_state(context)
}
