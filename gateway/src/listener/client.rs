//! Clients of this cluster: the mesh listener, TLS or plain on one port, and ingress listeners.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::accept::Accepted;
use super::handshakes::why_no_handshake;
use super::server::Server;
use super::{HANDSHAKE_TIME_MAX, http1, http2};
use crate::connection::{ConnectionIo, ConnectionKind, Facts};
use crate::listener::opening::Opening;
use crate::peekable::Peekable;
use crate::telemetry::Entrance;

/// Until the first byte: a client that connects has something to say.
const FIRST_BYTE_TIME_MAX: Duration = Duration::from_secs(10);
/// One TLS record; rustls alone would read in steps of 4 KiB.
const READ_BUFFER: usize = 16 * 1024;

type Tls = TlsStream<BufReader<Peekable<TcpStream>>>;

/// Serves TLS and plaintext on one port, by the first byte.
pub(super) async fn serve(server: &Arc<Server>, owner: &str, accepted: Accepted, kind: ConnectionKind) {
    let Accepted { stream, from, slot: _slot } = accepted;
    let mut stream = Peekable::new(stream);
    let first = tokio::select! {
        biased;
        () = server.draining_for_long() => return,
        first = timeout(FIRST_BYTE_TIME_MAX, stream.peek_more()) => first,
    };
    match first {
        Ok(Ok(1..)) => {}
        // Whoever only looks whether somebody listens is no news.
        Ok(Ok(0) | Err(_)) => return,
        Err(_elapsed) => return server.refused(Entrance::Mesh, "first_byte_slow", Some(from)),
    }
    if Opening::of(stream.head()) == Some(Opening::Tls) {
        serve_tls(server, owner, stream, kind).await;
    } else if let Ok(connection) = server.open(owner, None) {
        let facts = Facts::new(stream.get_ref(), connection, kind, None);
        http1::serve(server, ConnectionIo::peeked(stream, facts)).await;
    }
}

/// Serves a port that speaks no TLS.
pub(super) async fn serve_plain(server: &Arc<Server>, owner: &str, accepted: Accepted, kind: ConnectionKind) {
    let Accepted { stream, slot: _slot, .. } = accepted;
    if let Ok(connection) = server.open(owner, None) {
        let facts = Facts::new(&stream, connection, kind, None);
        http1::serve(server, ConnectionIo::new(stream, facts)).await;
    }
}

async fn serve_tls(server: &Arc<Server>, owner: &str, stream: Peekable<TcpStream>, kind: ConnectionKind) {
    let from = stream.get_ref().peer_addr().ok();
    let stream = BufReader::with_capacity(READ_BUFFER, stream);
    let handshake = TlsAcceptor::from(server.mesh_tls.clone()).accept(stream);
    let tls = match timeout(HANDSHAKE_TIME_MAX, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return server.refused(Entrance::Mesh, why_no_handshake(&error), from),
        Err(_elapsed) => return server.refused(Entrance::Mesh, "handshake_slow", from),
    };
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = match identify(server, owner, tls, kind) {
        Ok(io) => io,
        Err(reason) => return server.refused(Entrance::Mesh, reason, from),
    };
    if http2 {
        http2::serve(server, io, http2::Role::Clients).await;
    } else {
        http1::serve(server, io).await;
    }
}

fn identify(
    server: &Server,
    owner: &str,
    tls: Tls,
    kind: ConnectionKind,
) -> Result<ConnectionIo<Tls>, &'static str> {
    let (stream, session) = tls.get_ref();
    let peer = server.peer(session).map_err(|rejection| rejection.reason())?;
    let connection = server.open(owner, peer).map_err(|_untrusted| "client_untrusted")?;
    let facts = Facts::new(stream.get_ref().get_ref(), connection, kind, Some(session));
    Ok(ConnectionIo::new(tls, facts))
}
