//! The one port between clusters: who terminates a connection is decided by its server name.
//!
//! | SNI | what happens |
//! |---|---|
//! | `gateway.<cluster>.isthmus.internal` | we terminate mutual TLS; ALPN says what the link carries |
//! | `federation.<cluster>.isthmus.internal` | handed over raw: federation terminates TLS itself |
//! | `join.<cluster>.isthmus.internal` | likewise |
//! | anything else | closed without an alert, counted |
//!
//! The reverse protocols of clusters that cannot be dialled will be two more ALPNs here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use federation::model::{ClusterName, RelationshipState};
use federation::snapshot::Snapshot;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use trust_bundle::{Connection, SpiffeId};

use super::accept::{Accepted, Slot};
use super::handshakes::{Introduction, why_no_handshake};
use super::server::Server;
use super::{HANDSHAKE_TIME_MAX, client_hello, http2};
use crate::connection::{ConnectionIo, ConnectionKind, Facts};
use crate::link;
use crate::peekable::Peekable;
use crate::telemetry::Entrance;
use crate::tunnel;
use crate::write_through::write_through;

/// Streams that may wait for the federation process; a full channel sheds the newcomer.
pub const HANDOVERS_MAX: usize = 64;
/// pingora buffers what it accepts by as much; rustls alone would read in steps of 4 KiB.
const READ_BUFFER: usize = 64 * 1024;

/// Whom a server name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Gateway,
    Federation,
    Join,
}

impl Service {
    /// Reads a server name in lower case; none is for nobody here.
    pub fn of(server_name: &str, cluster: &ClusterName) -> Option<Self> {
        let (role, rest) = server_name.split_once('.')?;
        let named = rest.strip_suffix(".isthmus.internal")?;
        match role {
            _ if named != cluster.as_str() => None,
            "gateway" => Some(Self::Gateway),
            "federation" => Some(Self::Federation),
            "join" => Some(Self::Join),
            _ => None,
        }
    }
}

/// A connection for the federation process, with its ClientHello still to be read.
#[derive(Debug)]
pub struct Handover {
    /// Never `Gateway`.
    pub service: Service,
    pub from: SocketAddr,
    pub stream: HandedOver,
}

/// The stream of a [`Handover`]; keeps its room in the accept loop until dropped.
#[derive(Debug)]
pub struct HandedOver {
    stream: Peekable<TcpStream>,
    _slot: Slot,
}

type Link = ConnectionIo<TlsStream<BufReader<Peekable<TcpStream>>>>;

pub(super) async fn serve(server: &Arc<Server>, owner: &str, accepted: Accepted) {
    let Accepted { stream, from, slot } = accepted;
    let Some(introduction) = server.handshakes.begin(from.ip()) else {
        return server.refused(Entrance::Link, "handshakes_of_source", Some(from));
    };
    let mut stream = Peekable::new(stream);
    let name = match client_hello::server_name(&mut stream).await {
        Ok(name) => name,
        Err(nameless) => return server.refused(Entrance::Link, nameless.reason(), Some(from)),
    };
    let view = server.plane().views.load();
    match Service::of(&name, &view.snapshot.cluster.name) {
        Some(Service::Gateway) => serve_link(server, owner, stream, slot, introduction).await,
        Some(service) => {
            let stream = HandedOver { stream, _slot: slot };
            match server.handover.try_send(Handover { service, from, stream }) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    server.refused(Entrance::Link, "handover_full", Some(from))
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    server.refused(Entrance::Link, "handover_closed", Some(from));
                }
            }
        }
        None => server.refused(Entrance::Link, "sni_unknown", Some(from)),
    }
}

async fn serve_link(
    server: &Arc<Server>,
    owner: &str,
    stream: Peekable<TcpStream>,
    _slot: Slot,
    introduction: Introduction,
) {
    let from = stream.get_ref().peer_addr().ok();
    let stream = BufReader::with_capacity(READ_BUFFER, stream);
    let handshake = TlsAcceptor::from(server.link_tls.clone()).accept(stream);
    let tls = match timeout(HANDSHAKE_TIME_MAX, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return server.refused(Entrance::Link, why_no_handshake(&error), from),
        Err(_elapsed) => return server.refused(Entrance::Link, "handshake_slow", from),
    };
    let protocol = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default();
    let io = match identify(server, owner, tls) {
        Ok(io) => io,
        Err(reason) => return server.refused(Entrance::Link, reason, from),
    };
    drop(introduction);
    let connection = io.connection().clone();
    let serving = async {
        match protocol.as_slice() {
            link::ALPN_HTTP => http2::serve(server, io, http2::Role::Link).await,
            link::ALPN_TUNNEL => tunnel::serve(server, io).await,
            _ => server.refused(Entrance::Link, "link_protocol", from),
        }
    };
    tokio::select! {
        () = serving => {}
        () = link::cut_when_expired(connection) => {}
    }
}

/// Only the gateway of an active peer may open links.
fn identify(
    server: &Server,
    owner: &str,
    tls: TlsStream<BufReader<Peekable<TcpStream>>>,
) -> Result<Link, &'static str> {
    let (stream, session) = tls.get_ref();
    let peer = server.peer(session).map_err(|rejection| rejection.reason())?.ok_or("link_anonymous")?;
    let cluster =
        peer_with_gateway(&server.plane().views.load().snapshot, peer.id()).ok_or("not_a_gateway")?;
    let id = peer.id().clone();
    let connection = server.open_link(owner, peer).map_err(|_untrusted| "link_untrusted")?;
    let of_this_peer =
        |link: &Connection| link.owner() == owner && link.peer().is_some_and(|held| *held.id() == id);
    // Counted with this one among them, so that no two slip in together.
    if server.registry().count(of_this_peer) > server.room.links_per_peer() {
        return Err("links_of_peer");
    }
    let kind = ConnectionKind::Link(cluster);
    let facts = Facts::new(stream.get_ref().get_ref(), connection, kind, Some(session));
    Ok(ConnectionIo::new(tls, facts))
}

fn peer_with_gateway(snapshot: &Snapshot, id: &SpiffeId) -> Option<ClusterName> {
    let mut peers = snapshot.peers.values().map(|view| &view.peer);
    let peer = peers.find(|peer| peer.gateway_id == *id && peer.state == RelationshipState::Active)?;
    Some(peer.name.clone())
}

impl AsyncRead for HandedOver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for HandedOver {
    write_through!(stream);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_cluster_are_for_somebody() {
        let cluster = ClusterName::try_from("cloud").unwrap();
        for (name, expected) in [
            ("gateway.cloud.isthmus.internal", Some(Service::Gateway)),
            ("federation.cloud.isthmus.internal", Some(Service::Federation)),
            ("join.cloud.isthmus.internal", Some(Service::Join)),
            ("gateway.onprem.isthmus.internal", None),
            ("gateway.cloud.isthmus.internal.evil.example", None),
            ("x.gateway.cloud.isthmus.internal", None),
            ("gateway.cloud.isthmus.internal.", None),
            ("admin.cloud.isthmus.internal", None),
            ("gateway.cloud", None),
            ("cloud.isthmus.internal", None),
            ("", None),
        ] {
            assert_eq!(Service::of(name, &cluster), expected, "{name}");
        }
    }
}
