//! Constant load with every answer judged: HTTP/1.1 with kept-alive connections, and HTTP/2.
//!
//! A worker has one connection at a time and one request in flight. A connection that the server ends
//! between two requests is opened again, as any client does; anything that happens to a request once it
//! was sent is its failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the workers ask for.
#[derive(Debug, Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub host: &'static str,
    pub version: Version,
    pub workers: usize,
}

/// What became of all requests.
#[derive(Debug, Default)]
pub struct Tally {
    answered: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

/// Load that goes on until it is stopped.
#[derive(Debug)]
pub struct RunningLoad {
    tally: Arc<Tally>,
    stop: CancellationToken,
    workers: TaskTracker,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Load {
    pub fn start(self) -> RunningLoad {
        let (tally, stop, workers) = (Arc::new(Tally::default()), CancellationToken::new(), TaskTracker::new());
        for _ in 0..self.workers {
            workers.spawn(work(self.clone(), tally.clone(), stop.clone(), workers.clone()));
        }
        RunningLoad { tally, stop, workers }
    }
}

impl RunningLoad {
    pub fn answered(&self) -> u64 {
        self.tally.answered.load(Ordering::Relaxed)
    }

    /// Ends the load once requests in flight are answered; failures by what happened.
    pub async fn stop(self) -> (u64, BTreeMap<String, u64>) {
        self.stop.cancel();
        self.workers.close();
        self.workers.wait().await;
        (self.answered(), self.tally.failures.lock().clone())
    }
}

async fn work(load: Load, tally: Arc<Tally>, stop: CancellationToken, tasks: TaskTracker) {
    let mut sender = None;
    while !stop.is_cancelled() {
        let outcome = one(&load, &mut sender, &tasks).await;
        match outcome {
            Ok(()) => {
                tally.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                sender = None;
                *tally.failures.lock().entry(format!("{error:#}")).or_default() += 1;
            }
        }
    }
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
    let status = ready.send(load).await?;
    *sender = Some(ready);
    if status != StatusCode::OK {
        bail!("answered {status}");
    }
    Ok(())
}

async fn connect(load: &Load, tasks: &TaskTracker) -> anyhow::Result<Sender> {
    let stream = TcpStream::connect(load.address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let io = TokioIo::new(stream);
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

impl Sender {
    /// May another request be sent; no if the server said goodbye.
    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, load: &Load) -> anyhow::Result<StatusCode> {
        let response = match self {
            Self::Http1(sender) => {
                let request = Request::get("/load").header(header::HOST, load.host).body(Empty::new())?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                let request = Request::get(format!("http://{}/load", load.host)).body(Empty::new())?;
                sender.send_request(request).await
            }
        };
        let response = response.context("no answer")?;
        let status = response.status();
        response.into_body().collect().await.context("the answer was cut short")?;
        Ok(status)
    }
}
