//! The listener of the admin API and its routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::middleware;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use federation::app::{FederationStatus, Operator};
use federation::control::ControlStatus;
use federation::model::Timestamp;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trust_bundle::{Registry, SvidHandle, TrustStore};

use super::cookie::Cookie;
use super::{changes, dumps, guard};
use crate::link::{Links, PeerStatus};
use crate::snapshot::CurrentView;
use crate::telemetry::{AuditLog, Metrics};

/// Documents of one request; a directory is for more.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Operators, probes and scrapers; each takes a descriptor from the data plane.
const CLIENTS_MAX: usize = 256;
/// For the first head, and for each further one of a kept connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// After an error of the socket, so that a lasting one does not take a whole core.
const ERROR_REST: Duration = Duration::from_millis(50);

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
        let routes = routes(self.context);
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    // Who finds no room is closed at once, and may come again.
                    Ok((stream, from)) if clients.len() < CLIENTS_MAX => {
                        clients.spawn(serve(stream, from, routes.clone(), shutdown.clone()));
                    }
                    Ok(_) => tracing::debug!("the admin API has more clients than room"),
                    Err(error) => {
                        tracing::warn!(%error, "the admin listener fails");
                        tokio::time::sleep(ERROR_REST).await;
                    }
                },
                Some(_ended) = clients.join_next() => {}
            }
        }
        drop(listener);
        while clients.join_next().await.is_some() {}
        Ok(())
    }
}

/// One client until it ends, is too slow with a head, or the process stops.
async fn serve(stream: TcpStream, from: SocketAddr, routes: Router, shutdown: CancellationToken) {
    let service = TowerToHyperService::new(routes.layer(Extension(ConnectInfo(from))));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that goes away, or is no client at all, is no news.
        _ended = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
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
