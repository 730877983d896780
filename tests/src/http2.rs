//! HTTP/2 from both ends: a client that shows all of an answer, an endpoint that remembers all it saw.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::echo::{Tasks, serve};
use crate::within;

/// Large enough that no test waits for windows that it does not mean.
const WINDOW: u32 = 4 << 20;

/// A connection as its client sees it.
#[derive(Debug)]
pub struct Http2 {
    requests: SendRequest<Bytes>,
    ended: CancellationToken,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Http2 {
    /// By prior knowledge, or behind a TLS handshake that agreed on it.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let handshake = within("HTTP/2", builder.handshake(stream)).await;
        let (requests, connection) = handshake.map_err(io::Error::other)?;
        let ended = CancellationToken::new();
        let over = ended.clone();
        TaskTracker::new().spawn(async move {
            // How it ended is seen by the requests on it.
            let _ = connection.await;
            over.cancel();
        });
        Ok(Self { requests, ended })
    }

    /// Sends a head; what belongs to it may follow.
    pub async fn open(&self, request: Request<()>) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut requests = within("room for a stream", self.requests.clone().ready()).await?;
        requests.send_request(request, false)
    }

    pub async fn send(&self, request: Request<()>, body: impl Into<Bytes>) -> Result<Answered, h2::Error> {
        let (answer, mut send) = self.open(request).await?;
        send.send_data(body.into(), true)?;
        within("the answer", Answered::read(answer)).await
    }

    pub async fn get(&self, host: &str, path: &str) -> Result<Answered, h2::Error> {
        let request = Request::get(format!("http://{host}{path}")).body(()).expect("a request");
        self.send(request, "").await
    }

    /// Waits until the server has said goodbye without an error: no request may begin any more.
    pub async fn said_goodbye(&self) {
        let refused = within("GOAWAY", async {
            loop {
                match self.requests.clone().ready().await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => return error,
                }
            }
        });
        let refused = refused.await;
        assert!(refused.is_go_away() && refused.reason() == Some(h2::Reason::NO_ERROR), "{refused:?}");
    }

    /// Waits until the connection has ended.
    pub async fn ended(&self) {
        within("the end of the connection", self.ended.cancelled()).await;
    }

    /// Streams that the server lets a client have at once.
    pub fn streams_max(&self) -> usize {
        self.requests.current_max_send_streams()
    }
}

impl Answered {
    async fn read(answer: ResponseFuture) -> Result<Self, h2::Error> {
        let (head, mut stream) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            body.extend_from_slice(&chunk);
            stream.flow_control().release_capacity(chunk.len())?;
        }
        let trailers = stream.trailers().await?.unwrap_or_default();
        Ok(Self { status: head.status.as_u16(), headers: head.headers, body, trailers })
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.get(name)?.to_str().ok()
    }
}

/// HTTP/2 without TLS: sends each piece of a body back as it comes, and says in trailers how much it was.
///
/// `/held` is only answered after `release()`.
#[derive(Debug)]
pub struct Http2Echo {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: Tasks,
}

/// One request as the endpoint saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub uri: http::Uri,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    /// Of the body, so far.
    pub bytes: usize,
    pub ended: bool,
    /// Given up by whoever sent it.
    pub reset: bool,
}

#[derive(Debug, Default)]
struct Shared {
    accepted: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    waiting: AtomicUsize,
    open: Notify,
}

impl Http2Echo {
    pub async fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let served = shared.clone();
        let (address, tasks) = serve(move |stream| answer_all(stream, served.clone())).await;
        Self { address, shared, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// Requests that wait at `/held`.
    pub fn held(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    pub fn release(&self) {
        self.shared.open.notify_waiters();
    }
}

async fn answer_all(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    shared.accepted.fetch_add(1, Ordering::Relaxed);
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let mut connection = builder.handshake::<_, Bytes>(stream).await.map_err(io::Error::other)?;
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let _end = end.clone().drop_guard();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        let exchange = Exchange::begin(&request, &shared);
        tasks.spawn(end.clone().run_until_cancelled_owned(exchange.answer(request, respond)));
    }
    Ok(())
}

/// One request and what is remembered of it.
struct Exchange {
    shared: Arc<Shared>,
    number: usize,
}

impl Exchange {
    fn begin(request: &Request<RecvStream>, shared: &Arc<Shared>) -> Self {
        let mut seen = shared.seen.lock();
        seen.push(Seen { uri: request.uri().clone(), headers: request.headers().clone(), ..Seen::default() });
        Self { shared: shared.clone(), number: seen.len() - 1 }
    }

    fn remember(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.shared.seen.lock()[self.number]);
    }

    async fn answer(self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        if self.echo(request, respond).await.is_err() {
            self.remember(|seen| seen.reset = true);
        }
    }

    async fn echo(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        if request.uri().path() == "/held" {
            let opened = self.shared.open.notified();
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            opened.await;
        }
        let mut send = respond.send_response(Response::new(()), false)?;
        let mut body = request.into_body();
        let mut total = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            total += chunk.len();
            self.remember(|seen| seen.bytes = total);
            body.flow_control().release_capacity(chunk.len())?;
            send.send_data(chunk, false)?;
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        self.remember(|seen| (seen.trailers, seen.ended) = (trailers, true));
        send.send_trailers(said(total))
    }
}

/// Among them what only gateways may say.
fn said(total: usize) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for (name, value) in [
        ("grpc-status", "0".to_owned()),
        ("x-total", total.to_string()),
        ("isthmus-fault", "policy".to_owned()),
        ("x-forwarded-client-cert", "URI=spiffe://x/y".to_owned()),
    ] {
        trailers.insert(name, value.parse().expect("a header value"));
    }
    trailers
}
