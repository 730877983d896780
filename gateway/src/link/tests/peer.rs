//! A gateway of another cluster, with everything that a link needs of it and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use federation::snapshot::Snapshot;
use http::{HeaderMap, Response, StatusCode};
use pingora_core::protocols::ALPN;
use pingora_core::protocols::http::v2::server::{self as h2_server, H2Accept, HttpSession};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use trust_bundle::{
    ClientAuth, Connection, Origin, PeerSide, Registry, SvidHandle, TrustStore, authenticate, server_config,
};

use super::domain::Domain;
use super::front::speak_http1;
use crate::clock;
use crate::connection::{ConnectionIo, ConnectionKind, Facts, Transport};
use crate::fault::Fault;
use crate::headers;
use crate::link::{ALPN_HTTP, ALPN_TUNNEL, CONTROL_PATH, LinkParts, Links};
use crate::testing::{cluster, snapshot};
use crate::tunnel::Tunnel;
use crate::windows::Windows;

/// One replica.
#[derive(Clone)]
pub(super) struct PeerGateway {
    pub(super) address: SocketAddr,
    pub(super) registry: Registry,
    pub(super) links: Links,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    /// Connections so far, also those that did not get through TLS.
    pub(super) knocks: Arc<AtomicUsize>,
    /// Requests that wait at `/hold`.
    pub(super) held: Arc<AtomicUsize>,
    pub(super) release: Arc<Notify>,
    pub(super) manners: Manners,
    replica: String,
    tasks: TaskTracker,
}

/// How it behaves on the control stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manners {
    Good,
    NoControlStream,
    Silent,
    Garbage,
    EndlessLine,
    /// Says hello and then talks nonsense.
    GarbageAfterHello,
    TooOld,
}

impl PeerGateway {
    pub(super) async fn start(domain: &Domain, trusted: &[&Domain], replica: &str) -> Self {
        Self::showing(domain.handle("/isthmus/gateway"), trusted, replica, Manners::Good).await
    }

    pub(super) async fn showing(
        svid: SvidHandle,
        trusted: &[&Domain],
        replica: &str,
        manners: Manners,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (trust, registry, tasks) = (TrustStore::new(), Registry::new(), TaskTracker::new());
        for domain in trusted {
            trust.put(domain.bundle()).unwrap();
        }
        let known = snapshot().service("cart.shop", "80=http", &["10.0.0.1", "10.0.0.2"]);
        let known = known.service("secret.shop", "80=http", &["10.0.0.1"]).export_to("onprem", "cart.shop");
        let (snapshots, following) = watch::channel(Arc::new(known.build()));
        let links = Links::build(LinkParts {
            trust: trust.clone(),
            svid: svid.clone(),
            registry: registry.clone(),
            snapshots: following,
            reports: mpsc::channel(1).0,
            tasks: tasks.clone(),
            windows: Windows::LINK,
            replica: replica.to_owned().try_into().unwrap(),
        });
        let gateway = Self {
            address: listener.local_addr().unwrap(),
            registry,
            links,
            snapshots,
            knocks: Arc::default(),
            held: Arc::default(),
            release: Arc::default(),
            manners,
            replica: replica.to_owned(),
            tasks,
        };
        let tls = server_config(&trust, &svid, ClientAuth::Required, &[ALPN_HTTP, ALPN_TUNNEL]);
        let (this, tls) = (gateway.clone(), TlsAcceptor::from(tls));
        gateway.tasks.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                this.knocks.fetch_add(1, Ordering::Relaxed);
                let (this, tls, trust) = (this.clone(), tls.clone(), trust.clone());
                this.tasks.clone().spawn(async move { this.serve(tcp, tls, trust).await });
            }
        });
        gateway
    }

    pub(super) fn accepted(&self) -> usize {
        self.registry.count(|connection| connection.origin() == Origin::Accepted && !connection.is_cut())
    }

    /// Asks every link that is up now to finish.
    pub(super) fn drain(&self) -> usize {
        self.registry.drain(|connection| connection.origin() == Origin::Accepted)
    }

    async fn serve(&self, tcp: TcpStream, tls: TlsAcceptor, trust: TrustStore) {
        tcp.set_nodelay(true).unwrap();
        let Ok(stream) = tls.accept(tcp).await else { return };
        let (tcp, session) = stream.get_ref();
        let identity = authenticate(&trust, session, PeerSide::Client, clock::unix()).unwrap();
        let protocol = session.alpn_protocol().unwrap().to_vec();
        let connection = self.registry.open(Origin::Accepted, "east-west", Some(identity));
        let facts = Facts::new(tcp, connection, ConnectionKind::Link(cluster("onprem")), Some(session));
        let io = ConnectionIo::new(stream, facts);
        if protocol == ALPN_HTTP { self.serve_http(io).await } else { self.serve_tunnels(io).await }
    }

    async fn serve_http(&self, io: ConnectionIo<impl Transport>) {
        let facts = io.facts().clone();
        let mut drain = facts.connection().drained();
        let io = Box::new(io.speaking(ALPN::H2).lingering());
        let mut http2 = h2_server::handshake(io, Some(Windows::LINK.link_server())).await.unwrap();
        let digest = Arc::new(facts.digest());
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                _ = drain.wait_for(|drain| *drain), if !draining => {
                    http2.graceful_shutdown();
                    draining = true;
                }
                accepted = HttpSession::from_h2_conn(&mut http2, digest.clone()) => match accepted {
                    Ok(Some(H2Accept::Session(session))) => {
                        let (this, facts) = (self.clone(), facts.clone());
                        self.tasks.spawn(async move { this.answer(session, facts).await });
                    }
                    Ok(Some(H2Accept::Rejected)) => {}
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }

    async fn answer(&self, mut session: HttpSession, facts: Facts) {
        let path = session.req_header().uri.path().to_owned();
        if path == CONTROL_PATH && self.manners != Manners::Good {
            // It may well be cut off while it speaks.
            let _ = self.misbehave(session).await;
            return;
        }
        if path == CONTROL_PATH {
            return self.links.serve_control(cluster("onprem"), session, facts).await;
        }
        // Whoever asked may be gone; then there is nobody to tell.
        let _ = self.answer_request(&mut session, &path, facts.connection()).await;
    }

    async fn misbehave(&self, mut session: HttpSession) -> pingora_error::Result<()> {
        let hello = |version: u32| {
            format!("{{\"type\":\"hello\",\"version\":{version},\"replica\":\"x\",\"replicas\":1}}\n")
        };
        let said = match self.manners {
            Manners::Good | Manners::NoControlStream => {
                return session.write_response_header(Box::new(ResponseHeader::build(404, None)?), true);
            }
            Manners::Silent => String::new(),
            Manners::Garbage => "\u{1}{{{[[\n".to_owned(),
            Manners::EndlessLine => "x".repeat(1 << 20),
            Manners::GarbageAfterHello => hello(1) + "{\"type\":\"probe\"}\n",
            Manners::TooOld => hello(0),
        };
        session.write_response_header(Box::new(ResponseHeader::build(200, None)?), false)?;
        session.write_body(said.into(), false).await?;
        std::future::pending().await
    }

    async fn answer_request(
        &self,
        session: &mut HttpSession,
        path: &str,
        connection: &Connection,
    ) -> pingora_error::Result<()> {
        let mut head = ResponseHeader::build(200, None)?;
        head.insert_header("x-connection", connection.id().to_string())?;
        head.insert_header("x-caller", connection.peer().unwrap().id().as_str())?;
        head.insert_header("x-replica", &self.replica)?;
        match path.split_at(path[1..].find('/').map_or(path.len(), |at| at + 1)) {
            ("/swallow", _) => {
                self.held.fetch_add(1, Ordering::Relaxed);
                return std::future::pending().await;
            }
            ("/hold", _) => {
                let released = self.release.notified();
                self.held.fetch_add(1, Ordering::Relaxed);
                released.await;
            }
            ("/bytes", size) => {
                session.write_response_header(Box::new(head), false)?;
                let size = size[1..].parse().unwrap();
                return session.write_body(vec![7; size].into(), true).await;
            }
            _ => {}
        }
        session.write_response_header(Box::new(head), false)?;
        let mut total = 0;
        while let Some(chunk) = session.read_body_bytes().await? {
            total += chunk.len();
            if path == "/echo" {
                session.write_body(chunk, false).await?;
            }
        }
        let trailers = HeaderMap::from_iter([("x-total".parse().unwrap(), total.into())]);
        session.write_trailers(trailers)
    }

    async fn serve_tunnels(&self, io: ConnectionIo<impl Transport>) {
        let mut drain = io.connection().drained();
        let mut http2 = Windows::LINK.tunnel_server().handshake::<_, Bytes>(io.lingering()).await.unwrap();
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                _ = drain.wait_for(|drain| *drain), if !draining => {
                    http2.graceful_shutdown();
                    draining = true;
                }
                accepted = http2.accept() => match accepted {
                    Some(Ok((request, respond))) => drop(self.tasks.spawn(tunnel(request, respond))),
                    Some(Err(_)) | None => return,
                },
            }
        }
    }
}

/// `echo.default:7` echoes; every other service is called as what its gateway says of it.
async fn tunnel(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let target = request.uri().authority().unwrap().to_string();
    if target == "silent.default:7" {
        return std::future::pending().await;
    }
    if target == "upgrade.default:80" {
        let send = respond.send_response(Response::new(()), false).unwrap();
        // The other end of a test may go at any time.
        let _ = speak_http1(Tunnel::new(send, request.into_body())).await;
        return;
    }
    if target != "echo.default:7" {
        let fault = target.split('.').next().unwrap().parse::<Fault>();
        let mut refusal = Response::new(());
        *refusal.status_mut() = fault.map_or(StatusCode::IM_A_TEAPOT, Fault::status);
        if let Ok(fault) = fault {
            refusal.headers_mut().insert(headers::FAULT, fault.as_str().parse().unwrap());
        }
        respond.send_response(refusal, true).unwrap();
        return;
    }
    let send = respond.send_response(Response::new(()), false).unwrap();
    let (mut read, mut write) = tokio::io::split(Tunnel::new(send, request.into_body()));
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(n @ 1..) = read.read(&mut buffer).await {
        write.write_all(&buffer[..n]).await.unwrap();
    }
    write.shutdown().await.unwrap();
}
