//! HTTP clients: connections that are kept, new ones, and one with streams.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::client::Clients;
use super::endpoints::FROM;
use super::outcome::{Flow, Under};
use crate::clock::{self, Micros, SECOND};

/// The first one and two more, for what is idempotent.
const ATTEMPTS_MAX: usize = 3;

/// Clients give up idle connections before servers do: a server may close one at the moment in which a
/// request is sent on it, and HTTP/1.1 has no word for that.
const IDLE_TIME_MAX: Micros = SECOND;

/// Connections between requests.
pub(super) struct Connections {
    clients: Arc<Clients>,
    tasks: TaskTracker,
    idle: Mutex<Vec<Kept>>,
    streams: tokio::sync::Mutex<Option<Kept>>,
}

struct Kept {
    sender: Sender,
    near: Option<IpAddr>,
    used: Micros,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Why a request has no good answer, and whether it may have been processed.
enum Unanswered {
    NeverSent(anyhow::Error),
    Lost(anyhow::Error),
    /// An answer is an answer, also a bad one.
    Refused(anyhow::Error),
}

impl Connections {
    pub(super) fn new(clients: Arc<Clients>, tasks: TaskTracker) -> Self {
        Self { clients, tasks, idle: Mutex::default(), streams: tokio::sync::Mutex::default() }
    }

    async fn take(&self, flow: Flow, under: &mut Under) -> anyhow::Result<Kept> {
        let kept = match flow {
            Flow::Http2 => self.shared(under).await?,
            Flow::Http1New => self.open(flow, under).await?,
            _ => match self.pooled() {
                Some(kept) => kept,
                None => self.open(flow, under).await?,
            },
        };
        under.near = kept.near;
        Ok(kept)
    }

    fn pooled(&self) -> Option<Kept> {
        let mut idle = self.idle.lock();
        let now = clock::now();
        idle.retain(|kept| !kept.sender.is_closed() && now < kept.used + IDLE_TIME_MAX);
        idle.pop()
    }

    /// Where one connection broke the others are not tried: their end may only be on its way.
    async fn forget(&self, near: Option<IpAddr>) {
        self.idle.lock().retain(|kept| kept.near != near);
        self.streams.lock().await.take_if(|kept| kept.near == near);
    }

    async fn shared(&self, under: &mut Under) -> anyhow::Result<Kept> {
        let mut streams = self.streams.lock().await;
        match &*streams {
            Some(kept) if !kept.sender.is_closed() => Ok(kept.another()),
            _ => {
                let kept = self.open(Flow::Http2, under).await?;
                let another = kept.another();
                *streams = Some(kept);
                Ok(another)
            }
        }
    }

    async fn open(&self, flow: Flow, under: &mut Under) -> anyhow::Result<Kept> {
        let stream = self.clients.connect(&self.clients.plan.gateways, under).await?;
        let io = TokioIo::new(stream);
        let sender = if flow == Flow::Http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            self.tasks.spawn(async move { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            self.tasks.spawn(async move { drop(connection.await) });
            Sender::Http1(sender)
        };
        Ok(Kept { sender, near: under.near, used: clock::now() })
    }
}

pub(super) async fn ask(
    connections: Arc<Connections>,
    flow: Flow,
    number: u64,
) -> (Under, anyhow::Result<()>) {
    let mut under = Under::default();
    let answered = repeatedly(&connections, flow, number, &mut under).await;
    (under, answered)
}

async fn repeatedly(
    connections: &Connections,
    flow: Flow,
    number: u64,
    under: &mut Under,
) -> anyhow::Result<()> {
    for attempt in 1.. {
        let wrong = match once(connections, flow, number, under).await {
            Ok(()) => return Ok(()),
            Err(Unanswered::NeverSent(error)) => error,
            Err(Unanswered::Lost(error)) if flow.is_idempotent() => error,
            Err(Unanswered::Lost(error) | Unanswered::Refused(error)) => return Err(error),
        };
        if attempt == ATTEMPTS_MAX {
            return Err(wrong);
        }
        under.retried.push(format!("{wrong:#}"));
        connections.forget(under.near).await;
    }
    Ok(())
}

async fn once(
    connections: &Connections,
    flow: Flow,
    number: u64,
    under: &mut Under,
) -> Result<(), Unanswered> {
    let mut kept = connections.take(flow, under).await.map_err(Unanswered::NeverSent)?;
    let (status, far, body) = kept.sender.send(connections, flow, number).await?;
    under.far = far;
    if status != StatusCode::OK {
        let said = format!("answered {status}: {}", String::from_utf8_lossy(&body).trim());
        return Err(Unanswered::Refused(anyhow::anyhow!(said)));
    }
    if !body.starts_with(path(flow, number).as_bytes()) {
        return Err(Unanswered::Refused(anyhow::anyhow!("answered {body:?}")));
    }
    if matches!(flow, Flow::Http1 | Flow::Http1Post | Flow::Failover) && kept.sender.ready().await {
        kept.used = clock::now();
        connections.idle.lock().push(kept);
    }
    Ok(())
}

fn path(flow: Flow, number: u64) -> String {
    format!("/{flow:?}/{number}")
}

impl Kept {
    /// Another handle of a connection with streams.
    fn another(&self) -> Self {
        let sender = match &self.sender {
            Sender::Http2(sender) => Sender::Http2(sender.clone()),
            Sender::Http1(_) => unreachable!("one request at a time"),
        };
        Self { sender, near: self.near, used: self.used }
    }
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(
        &mut self,
        connections: &Connections,
        flow: Flow,
        number: u64,
    ) -> Result<(StatusCode, Option<IpAddr>, Bytes), Unanswered> {
        let plan = &connections.clients.plan;
        let host = if flow == Flow::Failover { &plan.shared } else { &plan.http };
        let request = self.request(host, flow, number).map_err(Unanswered::NeverSent)?;
        let sent = match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        };
        let response = sent.map_err(|error| match error.is_canceled() {
            true => Unanswered::NeverSent(error.into()),
            false => Unanswered::Lost(anyhow::Error::from(error).context("no answer")),
        })?;
        let status = response.status();
        let far = response.headers().get(FROM).and_then(|from| from.to_str().ok()?.parse().ok());
        let body = response.into_body().collect().await.context("the answer was cut short");
        Ok((status, far, body.map_err(Unanswered::Lost)?.to_bytes()))
    }

    fn request(&self, host: &str, flow: Flow, number: u64) -> anyhow::Result<Request<Full<Bytes>>> {
        let path = path(flow, number);
        let request = match self {
            Self::Http1(_) => Request::builder().uri(path).header(header::HOST, host),
            Self::Http2(_) => Request::builder().uri(format!("http://{host}{path}")),
        };
        let (method, body) = match flow {
            Flow::Http1Post => (Method::POST, Bytes::from_static(b" and a body")),
            Flow::Stream | Flow::Tcp => bail!("no HTTP"),
            _ => (Method::GET, Bytes::new()),
        };
        Ok(request.method(method).body(Full::new(body))?)
    }
}
