//! Constant load with every answer judged: HTTP/1.1 with kept-alive connections, and HTTP/2.
//!
//! A worker has one connection at a time and one request in flight. A connection that the server ends
//! between two requests is opened again, as any client does, also where an HTTP/2 goodbye says that a request
//! was not taken; anything else that happens to a request once it was sent is its failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the workers ask for, and how they connect.
#[derive(Debug, Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub host: &'static str,
    pub path: &'static str,
    pub version: Version,
    /// With a small body unless it is GET.
    pub method: Method,
    pub connections: Connections,
    pub tls: Option<Arc<ClientConfig>>,
    pub workers: usize,
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    Kept,
    /// Each request comes on one of its own.
    Fresh,
}

/// Load that goes on until it is stopped.
#[derive(Debug)]
pub struct RunningLoad {
    load: Load,
    tally: Arc<Tally>,
    stop: CancellationToken,
    workers: TaskTracker,
}

/// What became of all requests.
#[derive(Debug)]
pub struct LoadReport {
    pub load: Load,
    pub answered: u64,
    /// How often what happened.
    pub failures: BTreeMap<String, u64>,
    /// Of those that were answered, in order.
    latencies: Vec<Duration>,
}

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
    latencies: Mutex<Vec<Duration>>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Load {
    /// One worker, with GET and HTTP/1.1 on a plain connection that is kept.
    pub fn new(address: SocketAddr, host: &'static str) -> Self {
        Self {
            address,
            host,
            path: "/load",
            version: Version::HTTP_11,
            method: Method::GET,
            connections: Connections::Kept,
            tls: None,
            workers: 1,
        }
    }

    pub fn start(self) -> RunningLoad {
        let (tally, stop, workers) = (Arc::<Tally>::default(), CancellationToken::new(), TaskTracker::new());
        for _ in 0..self.workers {
            workers.spawn(work(self.clone(), tally.clone(), stop.clone(), workers.clone()));
        }
        RunningLoad { load: self, tally, stop, workers }
    }
}

impl RunningLoad {
    pub fn answered(&self) -> u64 {
        self.tally.answered.load(Ordering::Relaxed)
    }

    /// Ends the load once requests in flight are answered.
    pub async fn stop(self) -> LoadReport {
        self.stop.cancel();
        self.workers.close();
        self.workers.wait().await;
        let mut latencies = std::mem::take(&mut *self.tally.latencies.lock());
        latencies.sort_unstable();
        let failures = self.tally.failures.lock().clone();
        LoadReport { answered: self.answered(), load: self.load, failures, latencies }
    }
}

impl LoadReport {
    /// The latency that this part of all answers did not exceed.
    pub fn latency(&self, part: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((last as f64 * part) as usize).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Load { host, path, version, method, connections, tls, .. } = &self.load;
        let tls = if tls.is_some() { " TLS" } else { "" };
        let failed: u64 = self.failures.values().sum();
        let (half, most) = (self.latency(0.5), self.latency(0.99));
        write!(
            f,
            "{version:?}{tls} {connections:?} {method} {host}{path}: {} answered, {failed} failed, p50 {half:.1?}, p99 {most:.1?}, max {:.1?}",
            self.answered,
            self.latency(1.0)
        )?;
        self.failures.iter().try_for_each(|(failure, times)| write!(f, "\n    {times} times: {failure}"))
    }
}

async fn work(load: Load, tally: Arc<Tally>, stop: CancellationToken, tasks: TaskTracker) {
    let (mut sender, mut latencies) = (None, Vec::new());
    while !stop.is_cancelled() {
        let began = now();
        match one(&load, &mut sender, &tasks).await {
            Ok(()) => {
                tally.answered.fetch_add(1, Ordering::Relaxed);
                latencies.push(now().duration_since(began));
            }
            Err(error) => {
                sender = None;
                *tally.failures.lock().entry(format!("{error:#}")).or_default() += 1;
            }
        }
    }
    tally.latencies.lock().append(&mut latencies);
}

async fn one(load: &Load, sender: &mut Option<Sender>, tasks: &TaskTracker) -> anyhow::Result<()> {
    let mut usable = match sender.take() {
        Some(mut used) => used.ready().await.then_some(used),
        None => None,
    };
    if usable.is_none() {
        usable = Some(connect(load, tasks).await?);
    }
    let mut ready = usable.context("just connected")?;
    let (status, body) = match ready.send(load).await {
        Err(error) if was_not_taken(&error) => {
            ready = connect(load, tasks).await?;
            ready.send(load).await.context("sent again")?
        }
        answered => answered?,
    };
    *sender = Some(ready).filter(|_| load.connections == Connections::Kept);
    if status != StatusCode::OK {
        bail!("answered {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

/// A goodbye that crosses with the begin of a request: the client has not sent it, or HTTP/2 says that it was
/// not processed, and every client sends it again (RFC 9113, section 6.8).
fn was_not_taken(error: &anyhow::Error) -> bool {
    let not_sent = |cause: &hyper::Error| cause.is_canceled();
    let refused = |cause: &h2::Error| {
        cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR)
    };
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(not_sent) || cause.downcast_ref().is_some_and(refused))
}

async fn connect(load: &Load, tasks: &TaskTracker) -> anyhow::Result<Sender> {
    let stream = TcpStream::connect(load.address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(secured(load, stream).await?);
    if load.version == Version::HTTP_2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.context("handshake")?;
        tasks.spawn(async move { drop(connection.await) });
        Ok(Sender::Http2(sender))
    } else {
        let (sender, connection) = http1::handshake(io).await.context("handshake")?;
        tasks.spawn(async move { drop(connection.await) });
        Ok(Sender::Http1(sender))
    }
}

async fn secured(load: &Load, stream: TcpStream) -> anyhow::Result<Box<dyn Transport>> {
    let Some(config) = &load.tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(load.host)?;
    let tls = TlsConnector::from(config.clone()).connect(name, stream).await.context("TLS")?;
    Ok(Box::new(tls))
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

impl Sender {
    /// May another request be sent; no if the server said goodbye.
    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, load: &Load) -> anyhow::Result<(StatusCode, Bytes)> {
        let body = if load.method == Method::GET { Bytes::new() } else { Bytes::from_static(b"some body") };
        let request = Request::builder().method(&load.method);
        let response = match self {
            Self::Http1(sender) => {
                let request = request.uri(load.path).header(header::HOST, load.host).body(Full::new(body))?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                let request =
                    request.uri(format!("http://{}{}", load.host, load.path)).body(Full::new(body))?;
                sender.send_request(request).await
            }
        };
        let response = response.context("no answer")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("the answer was cut short")?;
        Ok((status, body.to_bytes()))
    }
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the rim of a test is the test")]
    Instant::now()
}
