//! HTTP/1.1 on one stream: pingora's keep-alive loop, with three things that it lacks.
//!
//! We wait for the head of each request ourselves. So an idle connection ends soon when it is to drain,
//! a head that trickles in has a deadline and a bound, and CONNECT is taken out before
//! `HttpProxy`, which cannot tunnel, sees it (notes/pingora 9.5, 9.7).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::opening::{Opening, head_end};
use super::server::Server;
use super::{LINGER, WRITE_STALL_MAX, http2};
use crate::answer::Refusal;
use crate::connection::{ConnectionIo, Transport, until_drained};
use crate::forward_proxy;

/// A client connects because it has something to say.
const FIRST_BYTE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// An idle connection looks so often whether its place is needed more by others.
const LOOK: Duration = Duration::from_secs(5);
/// From the first byte of a request to the end of its head, however slowly it trickles.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// As large as an HTTP/2 header list may be here.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A body that nobody wants, after its answer, is read for so long to keep the connection.
const UNWANTED_BODY_TIME_MAX: Duration = Duration::from_secs(5);
/// After a refusal: for the rest of what the client says before it hears us.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// Why no request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoRequest {
    /// Drained, closed or gone: nobody waits for an answer.
    Ended,
    /// Nothing was said for as long as we wait.
    Silent,
    /// The stream ended in the middle of a head.
    HeadCut,
    HeadSlow,
    HeadLarge,
}

/// Serves whatever HTTP arrives on a stream: HTTP/2 by preface, CONNECT, or HTTP/1.1.
pub(crate) async fn serve<S: Transport>(server: &Arc<Server>, io: ConnectionIo<S>) {
    let drain = io.connection().drained();
    let entry = io.facts().entry().clone();
    let refused = |reason| server.refused(entry.kind.entrance(), reason, entry.client);
    let mut io = Box::new(io);
    let mut settings: Option<HttpPersistentSettings> = None;
    let mut patience = FIRST_BYTE_TIME_MAX;
    loop {
        match next_request(&mut io, patience, || server.is_short(), drain.clone()).await {
            Ok(Opening::Http1) => {}
            Ok(Opening::Connect) => return Box::pin(forward_proxy::serve(server, *io)).await,
            Ok(Opening::Http2) if settings.is_none() => {
                return Box::pin(http2::serve(server, *io, http2::Role::Clients)).await;
            }
            Ok(Opening::Http2 | Opening::Tls) => {
                refused("protocol_unexpected");
                return refuse(*io, StatusCode::BAD_REQUEST).await;
            }
            Err(NoRequest::HeadSlow) => {
                refused("head_slow");
                return refuse(*io, StatusCode::REQUEST_TIMEOUT).await;
            }
            Err(NoRequest::HeadLarge) => {
                refused("head_large");
                return refuse(*io, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE).await;
            }
            Err(NoRequest::HeadCut) => {
                refused("head_cut");
                return io.end().await;
            }
            Err(NoRequest::Silent) if settings.is_none() => {
                refused("first_byte_slow");
                return io.end().await;
            }
            Err(NoRequest::Silent | NoRequest::Ended) => return io.end().await,
        }
        let requests = entry.requests.load(Ordering::Relaxed);
        let mut session = ServerSession::new_http1(io);
        match settings.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(KEEPALIVE.as_secs())),
        }
        session.set_write_timeout(Some(WRITE_STALL_MAX));
        session.set_total_drain_timeout(Some(UNWANTED_BODY_TIME_MAX));
        let finished = server.proxy().process_new_http(session, &drain).await;
        if entry.requests.load(Ordering::Relaxed) == requests {
            // pingora has answered it by itself, if at all.
            refused("request_malformed");
        }
        let Some(finished) = finished else { return };
        let (stream, persistent) = finished.consume();
        settings = persistent;
        patience = KEEPALIVE;
        io = stream.into_any().downcast().expect("pingora hands back the stream that it was given");
    }
}

/// Waits until a whole request head is there, and leaves it where it is.
async fn next_request<S: Transport>(
    io: &mut ConnectionIo<S>,
    mut patience: Duration,
    is_short: impl Fn() -> bool,
    mut drain: watch::Receiver<bool>,
) -> Result<Opening, NoRequest> {
    let mut drained = std::pin::pin!(until_drained_for_long(&mut drain));
    while io.head().is_empty() {
        let look = patience.min(LOOK);
        let first = tokio::select! {
            biased;
            () = &mut drained => return Err(NoRequest::Ended),
            first = timeout(look, io.peek_more()) => first,
        };
        patience -= look;
        match first {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Err(NoRequest::Ended),
            Err(_elapsed) if patience.is_zero() || is_short() => return Err(NoRequest::Silent),
            Err(_elapsed) => {}
        }
    }
    timeout(HEAD_TIME_MAX, whole_head(io)).await.unwrap_or(Err(NoRequest::HeadSlow))
}

async fn until_drained_for_long(drain: &mut watch::Receiver<bool>) {
    until_drained(drain).await;
    tokio::time::sleep(LINGER).await;
}

async fn whole_head<S: Transport>(io: &mut ConnectionIo<S>) -> Result<Opening, NoRequest> {
    let mut seen = 0;
    loop {
        match Opening::of(io.head()) {
            Some(opening @ (Opening::Tls | Opening::Http2)) => return Ok(opening),
            Some(opening) => match head_end(io.head(), seen) {
                Some(end) if end <= HEAD_BYTES_MAX => return Ok(opening),
                None if io.head().len() <= HEAD_BYTES_MAX => {}
                _ => return Err(NoRequest::HeadLarge),
            },
            None => {}
        }
        seen = io.head().len();
        if !matches!(io.peek_more().await, Ok(1..)) {
            return Err(NoRequest::HeadCut);
        }
    }
}

async fn refuse<S: Transport>(mut io: ConnectionIo<S>, status: StatusCode) {
    let message = status.canonical_reason().unwrap_or("refused").to_ascii_lowercase();
    let answer = Refusal::new(status, "bad-request", message).to_http1();
    let farewell = async {
        if io.write_all(&answer).await.is_ok() {
            io.end().await;
            io.discard(DISCARDED_BYTES_MAX).await;
        }
    };
    // Whoever speaks so may not listen; the stream ends in either case.
    let _late = timeout(FAREWELL_TIME_MAX, farewell).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::time::Instant;
    use trust_bundle::{Connection, Origin, Registry};

    use super::*;
    use crate::connection::{ConnectionKind, Facts};

    /// A stream as if accepted, its connection, and the client's end.
    async fn accepted() -> (ConnectionIo<DuplexStream>, Arc<Connection>, DuplexStream) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Registry::new().open(Origin::Accepted, "test", None);
        let (client, stream) = duplex(256 * 1024);
        let facts = Facts::new(&socket, connection.clone(), ConnectionKind::Mesh, None);
        (ConnectionIo::new(stream, facts), connection, client)
    }

    async fn judge(bytes: &[u8]) -> Result<Opening, NoRequest> {
        let (mut io, connection, mut client) = accepted().await;
        client.write_all(bytes).await.unwrap();
        let verdict = next_request(&mut io, KEEPALIVE, || false, connection.drained()).await;
        assert!(verdict.is_err() || io.head() == bytes, "nothing is consumed");
        verdict
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_begins_with_its_whole_head() {
        let large = [b"GET / HTTP/1.1\r\nx: ", &[b'x'; HEAD_BYTES_MAX][..], b"\r\n\r\n"].concat();
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\nbody"[..], Ok(Opening::Http1)),
            (b"CONNECT a:1 HTTP/1.1\r\n\r\n", Ok(Opening::Connect)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Ok(Opening::Http2)),
            (b"\x16\x03", Ok(Opening::Tls)),
            (b"GET / HTTP/1.1\r\n", Err(NoRequest::HeadSlow)),
            (b"PRI", Err(NoRequest::HeadSlow)),
            (b"", Err(NoRequest::Silent)),
            (&large, Err(NoRequest::HeadLarge)),
            (&large[..HEAD_BYTES_MAX], Err(NoRequest::HeadSlow)),
        ] {
            assert_eq!(
                judge(bytes).await,
                expected,
                "{}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(30)])
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_has_a_deadline() {
        let (mut io, connection, mut client) = accepted().await;
        let trickle = async {
            for byte in std::iter::repeat_n(b'x', 1_000) {
                client.write_all(&[byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let started = started();
        let verdict = tokio::select! {
            verdict = next_request(&mut io, KEEPALIVE, || false, connection.drained()) => verdict,
            () = trickle => panic!("the head was waited for in vain"),
        };
        assert_eq!(verdict, Err(NoRequest::HeadSlow));
        assert!(started.elapsed() <= HEAD_TIME_MAX + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_gives_way_when_its_place_is_needed() {
        for (short, waited) in [(false, KEEPALIVE), (true, LOOK)] {
            let (mut io, connection, _client) = accepted().await;
            let started = started();
            let verdict = next_request(&mut io, KEEPALIVE, || short, connection.drained()).await;
            assert_eq!((verdict, started.elapsed().as_secs()), (Err(NoRequest::Silent), waited.as_secs()));
        }
        let (mut io, connection, mut client) = accepted().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let verdict = next_request(&mut io, KEEPALIVE, || true, connection.drained()).await;
        assert_eq!(verdict, Ok(Opening::Http1), "who asks is heard");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_who_is_silent_and_not_who_speaks() {
        let (mut io, connection, _client) = accepted().await;
        let drained = connection.drained();
        let started = started();
        let (verdict, ()) =
            tokio::join!(next_request(&mut io, KEEPALIVE, || false, drained), async { connection.drain() });
        assert_eq!((verdict, started.elapsed()), (Err(NoRequest::Ended), LINGER));

        let (mut io, connection, mut client) = accepted().await;
        client.write_all(b"GET / HT").await.unwrap();
        io.peek_more().await.unwrap();
        connection.drain();
        client.write_all(b"TP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(
            next_request(&mut io, KEEPALIVE, || false, connection.drained()).await,
            Ok(Opening::Http1)
        );

        let (mut io, connection, mut client) = accepted().await;
        connection.drain();
        let speaks = async {
            tokio::time::sleep(LINGER / 2).await;
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        };
        let (verdict, ()) =
            tokio::join!(next_request(&mut io, KEEPALIVE, || false, connection.drained()), speaks);
        assert_eq!(verdict, Ok(Opening::Http1));
    }

    #[expect(clippy::disallowed_methods, reason = "the paused clock of a test")]
    fn started() -> Instant {
        Instant::now()
    }
}
