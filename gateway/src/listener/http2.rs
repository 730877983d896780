//! HTTP/2 on one stream: our own accept loop into the shared `HttpProxy`.
//!
//! pingora's loop takes its options, its idle time and its shutdown from the proxy, which is one for
//! all. Here they belong to the connection. What pingora keeps to itself, the budget for malformed
//! streams, is counted here too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{self as h2_server, H2Accept, H2Options, HttpSession};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::server::Server;
use super::{LINGER, WRITE_STALL_MAX};
use crate::connection::{ConnectionIo, ConnectionKind, Facts, Transport, until_drained};
use crate::link;
use crate::windows::Windows;

/// Streams of one connection that were rejected while being accepted; interoperable peers have none.
const MALFORMED_STREAMS_MAX: usize = 32;
/// For the connection preface; whoever chose HTTP/2 has it ready.
const PREFACE_TIME_MAX: Duration = Duration::from_secs(10);
/// A client may keep a connection for later, but not for ever. Links are kept for good.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// A client that connects has something to ask, and a link has a control stream.
const FIRST_STREAM_TIME_MAX: Duration = Duration::from_secs(10);
/// It looks so often whether it is idle, and whether its place is needed more by others.
const LOOK: Duration = Duration::from_secs(5);

/// Whose requests a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Clients,
    Link,
}

impl Role {
    fn options(self) -> H2Options {
        match self {
            Self::Clients => Windows::CLIENTS.server(),
            Self::Link => Windows::LINK.link_server(),
        }
    }
}

/// Serves until the client is gone, or until all is finished after a drain.
pub(crate) async fn serve<S: Transport>(server: &Arc<Server>, io: ConnectionIo<S>, role: Role) {
    let facts = io.facts().clone();
    let mut drain = facts.connection().drained();
    let digest = Arc::new(facts.digest());
    let handshake = h2_server::handshake(Box::new(io.speaking(ALPN::H2).lingering()), Some(role.options()));
    let refused = |reason| server.refused(facts.kind().entrance(), reason, facts.entry().client);
    let mut connection = match timeout(PREFACE_TIME_MAX, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return refused(why_ended(&error).unwrap_or("http2_preface_broken")),
        Err(_elapsed) => return refused("http2_preface_slow"),
    };
    let streams = Arc::new(AtomicUsize::new(0));
    // Who has only just connected says first what he came for.
    let heard = CancellationToken::new();
    let goodbye = async {
        until_drained(&mut drain).await;
        let _silent = timeout(LINGER, heard.cancelled()).await;
    };
    tokio::pin!(goodbye);
    let (mut ending, mut malformed, mut idle) = (false, 0, Duration::ZERO);
    while malformed < MALFORMED_STREAMS_MAX {
        tokio::select! {
            biased;
            () = &mut goodbye, if !ending => {
                connection.graceful_shutdown();
                ending = true;
            }
            accepted = HttpSession::from_h2_conn(&mut connection, digest.clone()) => match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    idle = Duration::ZERO;
                    heard.cancel();
                    spawn(server, session, &facts, StreamGuard::new(&streams));
                }
                Ok(Some(H2Accept::Rejected)) => malformed += 1,
                Ok(None) => return,
                Err(error) => return why_ended(&error).into_iter().for_each(refused),
            },
            () = tokio::time::sleep(LOOK) => {
                let busy = streams.load(Ordering::Relaxed) > 0;
                idle = if busy { Duration::ZERO } else { idle + LOOK };
                let silent = !heard.is_cancelled() && idle >= FIRST_STREAM_TIME_MAX;
                let unwanted = role == Role::Clients && (idle >= IDLE_MAX || server.is_short());
                match (busy, ending) {
                    (false, false) if silent || unwanted => {
                        if silent {
                            refused("http2_silent");
                        }
                        connection.graceful_shutdown();
                        (ending, idle) = (true, Duration::ZERO);
                    }
                    // It was told, has nothing left, and does not even say that it heard.
                    (false, true) if idle > LOOK => return,
                    _ => {}
                }
            }
        }
    }
    refused("http2_malformed_streams");
}

fn why_ended(error: &pingora_error::Error) -> Option<&'static str> {
    error.root_cause().downcast_ref().and_then(abuse)
}

/// What a client did against the protocol, as a bounded word; none where it only went away.
pub(crate) fn abuse(error: &h2::Error) -> Option<&'static str> {
    match error.reason() {
        _ if error.is_remote() || error.is_io() => None,
        // Rapid resets, floods of empty frames or continuations (notes/trust 5.4).
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Some("http2_flood"),
        Some(h2::Reason::NO_ERROR) | None => None,
        Some(_) => Some("http2_protocol"),
    }
}

fn spawn(server: &Arc<Server>, session: HttpSession, facts: &Facts, guard: StreamGuard) {
    let peer = match facts.kind() {
        ConnectionKind::Link(peer) => Some(peer),
        _ => None,
    };
    if let Some(peer) = peer.filter(|_| session.req_header().uri.path() == link::CONTROL_PATH) {
        let (links, peer, facts) = (server.links().clone(), peer.clone(), facts.clone());
        server.tasks().spawn(async move {
            links.serve_control(peer, session, facts).await;
            drop(guard);
        });
        return;
    }
    let (server, drain) = (server.clone(), facts.connection().drained());
    server.clone().tasks().spawn(async move {
        let mut session = ServerSession::new_http2(session);
        session.set_write_timeout(Some(WRITE_STALL_MAX));
        server.proxy().process_new_http(session, &drain).await;
        drop(guard);
    });
}

/// Counts one stream while it is served.
struct StreamGuard(Arc<AtomicUsize>);

impl StreamGuard {
    fn new(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(streams.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
