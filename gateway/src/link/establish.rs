//! From a dialled connection to a link that works: HTTP/2, and for requests the hello of the peer.

use std::sync::Arc;
use std::time::Duration;

use federation::model::{GatewayAddress, Peer};
use pingora_core::connectors::http::v2::ConnectionRef;
use pingora_core::protocols::UniqueID;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::control::Control;
use super::dial::{DialError, Dialer, Dialled, Protocol, server_name};
use super::lender::Lender;
use super::line::{HttpLink, Line, TunnelLink};
use super::message::Hello;
use crate::clock;
use crate::windows::Windows;

pub(super) struct Establisher {
    dialer: Dialer,
    windows: Windows,
    tasks: TaskTracker,
    hello: watch::Receiver<Hello>,
}

/// A link that has just come up.
pub(super) enum New {
    Http(Box<NewHttp>),
    Tunnels(Box<NewTunnels>),
}

pub(super) struct NewHttp {
    pub(super) link: HttpLink,
    pub(super) control: Control,
    pub(super) closed: watch::Receiver<bool>,
    pub(super) hello: Hello,
    pub(super) round_trip: Duration,
    pub(super) life_left: (Duration, Duration),
}

pub(super) struct NewTunnels {
    pub(super) link: TunnelLink,
    pub(super) pings: h2::PingPong,
    pub(super) closed: oneshot::Receiver<()>,
    pub(super) life_left: (Duration, Duration),
}

impl Establisher {
    pub(super) fn new(
        dialer: Dialer,
        windows: Windows,
        tasks: TaskTracker,
        hello: watch::Receiver<Hello>,
    ) -> Self {
        Self { dialer, windows, tasks, hello }
    }

    pub(super) fn hello(&self) -> watch::Receiver<Hello> {
        self.hello.clone()
    }

    pub(super) async fn establish(
        &self,
        peer: &Peer,
        address: GatewayAddress,
        protocol: Protocol,
        lender: &Lender,
    ) -> Result<New, DialError> {
        let dialled = self.dialer.dial(peer, &address, protocol).await?;
        let freed = match protocol {
            Protocol::Http => &lender.http.freed,
            Protocol::Tunnel => &lender.tunnels.freed,
        };
        let facts = dialled.io.facts().clone();
        let (name, remote) = (peer.name.clone(), dialled.remote);
        let line = Line::new(name, protocol, address, remote, facts, clock::now(), freed.clone());
        match protocol {
            Protocol::Http => self.http(line, dialled).await.map(|new| New::Http(Box::new(new))),
            Protocol::Tunnel => self.tunnels(line, dialled).await.map(|new| New::Tunnels(Box::new(new))),
        }
    }

    /// As pingora's own handshake, but what a peer may send in a head is bounded, and the end is told.
    async fn http(&self, line: Arc<Line>, dialled: Dialled) -> Result<NewHttp, DialError> {
        let Dialled { io, life_left, .. } = dialled;
        let (id, digest) = (io.id(), io.facts().digest());
        let (requests, connection) = timed(self.windows.client().handshake(io)).await?;
        let (ended, closed) = watch::channel(false);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a link ended");
            }
            ended.send_replace(true);
        });
        let streams_max = self.windows.streams() as usize;
        // The control stream probes; pings of HTTP/2 would say nothing more.
        let pings = Arc::default();
        let http2 = ConnectionRef::new(requests, closed.clone(), pings, id, streams_max, digest);
        let ours = self.hello.borrow().clone();
        let authority = server_name(&line.peer);
        let (control, hello, round_trip) =
            Control::open(&http2, &authority, ours, clock::now(), clock::now).await?;
        // Set once: the link is new.
        let _ = line.replica.set(hello.replica.clone());
        Ok(NewHttp { link: HttpLink { line, http2 }, control, closed, hello, round_trip, life_left })
    }

    async fn tunnels(&self, line: Arc<Line>, dialled: Dialled) -> Result<NewTunnels, DialError> {
        let Dialled { io, life_left, .. } = dialled;
        let (requests, mut connection) = timed(self.windows.tunnel_client().handshake(io)).await?;
        let mut pings = connection.ping_pong().ok_or_else(|| DialError::Http2("no pings".into()))?;
        let (ended, closed) = oneshot::channel();
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a tunnel link ended");
            }
            drop(ended);
        });
        // In TLS 1.3 the client is done before the server has judged its certificate.
        timed(pings.ping(h2::Ping::opaque())).await?;
        let streams_max = self.windows.streams() as usize;
        Ok(NewTunnels { link: TunnelLink { line, requests, streams_max }, pings, closed, life_left })
    }
}

async fn timed<T, E>(handshake: impl Future<Output = Result<T, E>>) -> Result<T, DialError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match timeout(HTTP2_TIME_MAX, handshake).await {
        Ok(begun) => begun.map_err(|error| DialError::Http2(error.into())),
        Err(elapsed) => Err(DialError::Http2(elapsed.into())),
    }
}

const HTTP2_TIME_MAX: Duration = Duration::from_secs(5);
