//! CONNECT over HTTP/1.1, from users of `HTTP_PROXY` on the mesh listener.
//!
//! `HttpProxy` cannot tunnel: it answers 200 and takes the request body for empty. So CONNECT is
//! recognised in the bytes and answered here. Only names that the mesh serves are connected to; this is
//! no open proxy. Inside a CONNECT to an HTTP port the HTTP path goes on, for that one destination, and
//! there another CONNECT is refused, so nothing nests. (Absolute form needs nothing here: the request
//! path routes it by Host and rewrites it to origin form.)

use std::sync::Arc;

use http::StatusCode;
use tokio::io::AsyncWriteExt;

use crate::answer::Refusal;
use crate::connection::{ConnectionIo, ConnectionKind, Transport};
use crate::context::Caller;
use crate::destination::Destination;
use crate::listener::opening::head_end;
use crate::listener::{Server, serve_http};
use crate::router::NoRoute;
use crate::snapshot::View;
use crate::tunnel::Errand;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";
const HEADERS_MAX: usize = 64;

/// Answers a CONNECT whose whole head was peeked.
pub(crate) async fn serve<S: Transport>(server: &Arc<Server>, mut io: ConnectionIo<S>) {
    let view = server.plane().views.load();
    let destination = match target(&mut io, &view) {
        Ok(destination) => destination,
        Err(refusal) => return refuse(io, &refusal).await,
    };
    if destination.port.protocol.is_http() {
        let inside = ConnectionKind::ForwardTunnel(destination.key());
        if io.write_all(ESTABLISHED).await.is_ok() && io.flush().await.is_ok() {
            serve_http(server, io.routed(inside)).await;
        }
        return;
    }
    let entry = io.facts().entry().clone();
    let caller = Caller::of_client(&entry, &view.snapshot.cluster.trust_domain);
    let errand = Errand::new(server.plane(), &view, &destination, entry, caller);
    match errand.open().await {
        Ok(opened) => {
            if io.write_all(ESTABLISHED).await.is_ok() && io.flush().await.is_ok() {
                errand.copy(io, opened).await;
            }
        }
        Err(refusal) => refuse(io, &refusal).await,
    }
}

/// Takes the head out of the stream, leaves what follows it, and finds what it names.
fn target<S: Transport>(io: &mut ConnectionIo<S>, view: &View) -> Result<Destination, Refusal> {
    if *io.facts().kind() != ConnectionKind::Mesh {
        let why = "CONNECT is served on the mesh listener, and not inside another CONNECT";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "connect-not-allowed", why));
    }
    let end = head_end(io.head(), 0).ok_or_else(malformed)?;
    let head = io.take_head(end);
    let authority = authority(&head).ok_or_else(malformed)?;
    view.router.mesh_tunnel(authority).map_err(|no_route| unserved(authority, no_route))
}

/// The target of a CONNECT, or none if the head is malformed.
pub(crate) fn authority(head: &[u8]) -> Option<&str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let complete = request.parse(head).ok()?.is_complete();
    request.path.filter(|_| complete)
}

fn malformed() -> Refusal {
    let hint = "malformed CONNECT; hint: CONNECT <host>:<port> HTTP/1.1";
    Refusal::new(StatusCode::BAD_REQUEST, "malformed-connect", hint)
}

fn unserved(authority: &str, no_route: NoRoute) -> Refusal {
    let refusal = Refusal::from(no_route);
    Refusal { message: format!("{authority}: {}", refusal.message), ..refusal }
}

async fn refuse<S: Transport>(mut io: ConnectionIo<S>, refusal: &Refusal) {
    // The client may be gone; the stream ends in either case.
    if io.write_all(&refusal.to_http1()).await.is_ok() {
        io.end().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_heads_have_a_target() {
        for (head, expected) in [
            ("CONNECT a.b:80 HTTP/1.1\r\nHost: a.b:80\r\n\r\n", Some("a.b:80")),
            ("CONNECT a.b:80 HTTP/1.0\r\n\r\n", Some("a.b:80")),
            ("CONNECT a.b:80 HTTP/1.1\r\nHost a.b\r\n\r\n", None),
            ("CONNECT  HTTP/1.1\r\n\r\n", None),
            ("CONNECT a.b:80 HTTP/1.1\r\n", None),
            ("CONNECT a.b:80 HTTP/3\r\n\r\n", None),
        ] {
            assert_eq!(authority(head.as_bytes()), expected, "{head:?}");
        }
    }
}
