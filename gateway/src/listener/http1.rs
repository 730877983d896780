//! HTTP/1.1 on one stream: pingora's keep-alive loop, with three things that it lacks.
//!
//! We wait for the head of each request ourselves. So an idle connection ends at once when it is to
//! drain, a head that trickles in has a deadline and a bound, and CONNECT is taken out before
//! `HttpProxy`, which cannot tunnel, sees it (notes/pingora 9.5, 9.7).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::http::ServerSession;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::opening::{Opening, head_end};
use super::server::Server;
use super::{WRITE_STALL_MAX, http2};
use crate::answer::Refusal;
use crate::connection::{ConnectionIo, Transport, until_drained};
use crate::forward_proxy;

/// A client connects because it has something to say.
const FIRST_BYTE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be idle between two requests.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// From the first byte of a request to the end of its head, however slowly it trickles.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// As large as an HTTP/2 header list may be here.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// After a refusal: for the rest of what the client says before it hears us.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// Why no request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoRequest {
    /// Idle, drained, closed or gone: nobody waits for an answer.
    Ended,
    HeadSlow,
    HeadLarge,
}

/// Serves whatever HTTP arrives on a stream: HTTP/2 by preface, CONNECT, or HTTP/1.1.
pub(crate) async fn serve<S: Transport>(server: &Arc<Server>, io: ConnectionIo<S>) {
    let drain = io.connection().drained();
    let mut io = Box::new(io);
    let mut settings: Option<HttpPersistentSettings> = None;
    let mut patience = FIRST_BYTE_TIME_MAX;
    loop {
        match next_request(&mut io, patience, drain.clone()).await {
            Ok(Opening::Http1) => {}
            Ok(Opening::Connect) => return Box::pin(forward_proxy::serve(server, *io)).await,
            Ok(Opening::Http2) if settings.is_none() => {
                return Box::pin(http2::serve(server, *io, http2::Role::Clients)).await;
            }
            Ok(Opening::Http2 | Opening::Tls) => return refuse(*io, StatusCode::BAD_REQUEST).await,
            Err(NoRequest::HeadSlow) => return refuse(*io, StatusCode::REQUEST_TIMEOUT).await,
            Err(NoRequest::HeadLarge) => {
                return refuse(*io, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE).await;
            }
            Err(NoRequest::Ended) => return io.end().await,
        }
        let mut session = ServerSession::new_http1(io);
        match settings.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(KEEPALIVE.as_secs())),
        }
        session.set_write_timeout(Some(WRITE_STALL_MAX));
        let Some(finished) = server.proxy().process_new_http(session, &drain).await else { return };
        let (stream, persistent) = finished.consume();
        settings = persistent;
        patience = KEEPALIVE;
        io = stream.into_any().downcast().expect("pingora hands back the stream that it was given");
    }
}

/// Waits until a whole request head is there, and leaves it where it is.
async fn next_request<S: Transport>(
    io: &mut ConnectionIo<S>,
    patience: Duration,
    mut drain: watch::Receiver<bool>,
) -> Result<Opening, NoRequest> {
    if io.head().is_empty() {
        let first = tokio::select! {
            biased;
            () = until_drained(&mut drain) => return Err(NoRequest::Ended),
            first = timeout(patience, io.peek_more()) => first,
        };
        match first {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) | Err(_) => return Err(NoRequest::Ended),
        }
    }
    timeout(HEAD_TIME_MAX, whole_head(io)).await.unwrap_or(Err(NoRequest::HeadSlow))
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
            return Err(NoRequest::Ended);
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
