//! The small services of the demo: they say who they are and what reached them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Json;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// All services of both clusters; each stops when it is dropped.
pub(super) struct Services {
    /// None once it died.
    pub(super) cart_onprem: Option<Service>,
    pub(super) cart_cloud: Service,
    pub(super) echo_cloud: Service,
    pub(super) ledger_cloud: Service,
    pub(super) vault_cloud: Service,
}

/// One running service.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    _stop: DropGuard,
}

/// What an HTTP service says of itself.
#[derive(Clone)]
struct Name {
    service: &'static str,
    cluster: &'static str,
}

impl Services {
    pub(super) async fn start() -> anyhow::Result<Self> {
        Ok(Self {
            cart_onprem: Some(http("cart", "onprem").await?),
            cart_cloud: http("cart", "cloud").await?,
            echo_cloud: http("echo", "cloud").await?,
            ledger_cloud: tcp().await?,
            vault_cloud: http("vault", "cloud").await?,
        })
    }
}

async fn http(service: &'static str, cluster: &'static str) -> anyhow::Result<Service> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = Router::new().fallback(describe).with_state(Name { service, cluster });
    let stop = CancellationToken::new();
    let serving = stop.clone().run_until_cancelled_owned(async move { axum::serve(listener, app).await });
    TaskTracker::new().spawn(serving);
    Ok(Service { address, _stop: stop.drop_guard() })
}

async fn describe(State(name): State<Name>, request: Request) -> Json<Value> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: BTreeMap<_, _> =
        request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Json(json!({
        "service": name.service,
        "cluster": name.cluster,
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": headers,
    }))
}

/// Answers each line with the same line, numbered.
async fn tcp() -> anyhow::Result<Service> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let accepting = {
        let (stop, tasks) = (stop.clone(), tasks.clone());
        async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                tasks.spawn(stop.clone().run_until_cancelled_owned(number_lines(stream)));
            }
        }
    };
    tasks.spawn(accepting);
    Ok(Service { address, _stop: stop.drop_guard() })
}

async fn number_lines(stream: TcpStream) {
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    let mut number = 0_u64;
    while let Ok(Some(line)) = lines.next_line().await {
        number += 1;
        if writing.write_all(format!("cloud ledger {number}: {line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
