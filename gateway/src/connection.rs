//! A live connection as the rest of the gateway sees it: who is at the other end, and a way to end it.
//!
//! pingora offers a request handler only the `Digest` of the connection that it came on. One of its
//! fields, `ProxyDigest::user_data`, is a public `Box<dyn Any>`. Our [`Entry`] travels there, with the
//! registry's own `Arc<Connection>`. So identity reaches a request in the same way whether we accepted
//! the connection, dialled it, or are inside a tunnel (notes/pingora 9.1).
//!
//! Every byte passes [`ConnectionIo`]: that is why a cut ends a connection at once, whatever its role.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use federation::model::ClusterName;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{ALPN, SslDigest, TlsRef};
use pingora_core::protocols::{
    Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora_http::ResponseHeader;
use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use trust_bundle::{Connection, SpiffeId};

use crate::clock;
use crate::destination::DestinationKey;
use crate::peekable::Peekable;
use crate::router::ListenerKey;
use crate::telemetry::Entrance;

/// What all byte streams of the gateway have in common.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug + 'static> Transport for T {}

/// How requests on a connection find their destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionKind {
    /// The mesh listener: by Host.
    Mesh,
    /// A socket of `Gateway` listeners: by their routes.
    Ingress(ListenerKey),
    /// A port of a service's own address: always that port.
    Virtual(DestinationKey),
    /// Inside an HTTP/1.1 CONNECT on the mesh listener: always what it named.
    ForwardTunnel(DestinationKey),
    /// A peer's gateway opened it: by `isthmus-to`.
    Link(ClusterName),
    /// Inside a CONNECT stream of a link: always what the stream was opened to.
    LinkTunnel(Arc<LinkTunnel>),
}

impl ConnectionKind {
    pub fn entrance(&self) -> Entrance {
        match self {
            Self::Mesh | Self::ForwardTunnel(_) => Entrance::Mesh,
            Self::Ingress(_) => Entrance::Ingress,
            Self::Virtual(_) => Entrance::Virtual,
            Self::Link(_) | Self::LinkTunnel(_) => Entrance::Link,
        }
    }
}

/// What the head of a link's CONNECT stream said; it holds for all that follows inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkTunnel {
    pub peer: ClusterName,
    /// `<svc>.<ns>:<port>`, as in `isthmus-to`.
    pub to: String,
    pub caller: Option<SpiffeId>,
    pub client: Option<IpAddr>,
}

/// The connection that a request came on, and how to route it.
#[derive(Debug)]
pub struct Entry {
    pub connection: Arc<Connection>,
    pub kind: ConnectionKind,
    /// Where the connection comes from; none where the socket was gone before we could ask.
    pub client: Option<SocketAddr>,
    pub tls: bool,
    /// Requests on it that could be read as such.
    pub requests: AtomicU64,
}

/// The connection behind a digest: of a downstream session, or of an upstream one.
pub fn entry_of(digest: &Digest) -> Option<&Arc<Entry>> {
    digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// Waits until a connection shall finish what it has.
///
/// No guard of the channel outlives the wait, so that whoever waits may move between threads.
pub async fn until_drained(drain: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could ask for a drain.
    if drain.wait_for(|drain| *drain).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What streams inside a connection share with it; a clone costs a few reference counts.
#[derive(Debug, Clone)]
pub struct Facts {
    entry: Arc<Entry>,
    proxy_digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
    ssl_digest: Option<Arc<SslDigest>>,
    established: SystemTime,
    socket: RawFd,
}

impl Facts {
    pub fn new(
        socket: &impl AsRawFd,
        connection: Arc<Connection>,
        kind: ConnectionKind,
        tls: Option<&CommonState>,
    ) -> Self {
        let socket = socket.as_raw_fd();
        let socket_digest = SocketDigest::from_raw_fd(socket);
        // Both are lazy; asked later, the descriptor might already be someone else's.
        socket_digest.local_addr();
        let client = socket_digest.peer_addr().and_then(|address| address.as_inet()).copied();
        let entry =
            Arc::new(Entry { connection, kind, client, tls: tls.is_some(), requests: AtomicU64::new(0) });
        Self {
            proxy_digest: proxy_digest(&entry),
            entry,
            socket_digest: Arc::new(socket_digest),
            ssl_digest: tls.and_then(ssl_digest).map(Arc::new),
            established: clock::wall(),
            socket,
        }
    }

    /// The same connection for a stream inside it whose requests are routed in another way.
    pub fn inside(&self, kind: ConnectionKind) -> Self {
        let Entry { connection, client, tls, .. } = &*self.entry;
        let (connection, requests) = (connection.clone(), AtomicU64::new(0));
        let entry = Arc::new(Entry { connection, kind, client: *client, tls: *tls, requests });
        Self { proxy_digest: proxy_digest(&entry), entry, ..self.clone() }
    }

    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.entry.connection
    }

    pub fn kind(&self) -> &ConnectionKind {
        &self.entry.kind
    }

    /// What pingora wants to know of each HTTP/2 stream.
    pub fn digest(&self) -> Digest {
        Digest {
            ssl_digest: self.ssl_digest.clone(),
            timing_digest: vec![Some(self.timing())],
            proxy_digest: Some(self.proxy_digest.clone()),
            socket_digest: Some(self.socket_digest.clone()),
        }
    }

    fn timing(&self) -> TimingDigest {
        TimingDigest { established_ts: self.established, ..TimingDigest::default() }
    }
}

fn proxy_digest(entry: &Arc<Entry>) -> Arc<ProxyDigest> {
    let response = ResponseHeader::build(200, Some(0)).expect("200 is a status");
    Arc::new(ProxyDigest::new(Box::new(response), Some(Box::new(entry.clone()))))
}

/// For logs only; identity never travels in it, and nothing here parses the peer's certificate.
fn ssl_digest(session: &CommonState) -> Option<SslDigest> {
    let cipher = session.negotiated_cipher_suite()?.suite().as_str()?;
    let version = session.protocol_version()?.as_str()?;
    Some(SslDigest::new(cipher, version, None, None, Vec::new()))
}

/// Any byte stream as pingora's `IO`, with the connection that it belongs to.
///
/// Small writes are collected until they are flushed: pingora writes head and body one after the
/// other, and would else cost two system calls and two segments for each small answer.
pub struct ConnectionIo<S> {
    stream: BufWriter<Peekable<S>>,
    /// What pingora shall take for the negotiated protocol; our own ALPNs mean nothing to it.
    speaks: Option<ALPN>,
    facts: Facts,
    cut: CutWatch,
    linger: Option<Linger>,
}

/// One segment; what is larger goes out as it is.
const WRITE_BUFFER: usize = 1460;
/// Whoever was told goodbye hangs up within a few round trips.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// What may still be under way when we say goodbye; a whole upload is not waited for.
const LINGER_BYTES_MAX: usize = 1 << 20;

impl<S: AsyncWrite + Unpin> ConnectionIo<S> {
    pub fn new(stream: S, facts: Facts) -> Self {
        Self::peeked(Peekable::new(stream), facts)
    }

    /// For a stream whose first bytes were looked at already.
    pub fn peeked(stream: Peekable<S>, facts: Facts) -> Self {
        let cut = CutWatch::new(facts.connection().cut_token().clone());
        let stream = BufWriter::with_capacity(WRITE_BUFFER, stream);
        Self { stream, speaks: None, facts, cut, linger: None }
    }
}

impl<S> ConnectionIo<S> {
    pub fn speaking(mut self, alpn: ALPN) -> Self {
        self.speaks = Some(alpn);
        self
    }

    /// Once ended, reads on until the other side has ended too.
    ///
    /// HTTP/2 closes while requests may still be on their way to us. Closed with these unread, TCP would
    /// answer with a reset, the other side's next write would fail, and it would never read the GOAWAY
    /// which tells that it may send them again.
    pub fn lingering(mut self) -> Self {
        self.linger = Some(Linger { bytes_left: LINGER_BYTES_MAX, deadline: None });
        self
    }

    /// Ends this stream by a token of its own; it has to be a child of its connection's.
    pub fn cut_by(mut self, token: CancellationToken) -> Self {
        self.cut = CutWatch::new(token);
        self
    }

    /// Routes what follows on this stream in another way.
    pub fn routed(mut self, kind: ConnectionKind) -> Self {
        self.facts = self.facts.inside(kind);
        self
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn connection(&self) -> &Arc<Connection> {
        self.facts.connection()
    }
}

impl<S: AsyncWrite + Unpin> ConnectionIo<S> {
    pub fn get_ref(&self) -> &S {
        self.stream.get_ref().get_ref()
    }

    pub fn head(&self) -> &[u8] {
        self.stream.get_ref().head()
    }

    pub fn take_head(&mut self, bytes: usize) -> bytes::Bytes {
        self.stream.get_mut().take_head(bytes)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ConnectionIo<S> {
    /// Reads more into the head without consuming it; 0 means end of stream.
    pub async fn peek_more(&mut self) -> io::Result<usize> {
        tokio::select! {
            biased;
            () = self.cut.token.cancelled() => Err(cut_error()),
            read = self.stream.get_mut().peek_more() => read,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ConnectionIo<S> {
    /// Ends the stream so that the other side can tell it from a failure: close_notify, END_STREAM, FIN.
    pub async fn end(&mut self) {
        // The other side may be gone already; there is nobody to tell.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ConnectionIo<S> {
    /// Reads on without looking: closed with unread bytes, TCP would take back what we said last.
    pub async fn discard(&mut self, bytes_max: usize) {
        let mut left = bytes_max;
        let mut buf = [0; 4096];
        while left > 0 {
            match self.read(&mut buf).await {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                Ok(0) | Err(_) => return,
            }
        }
    }
}

impl<S> fmt::Debug for ConnectionIo<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionIo").field("entry", &self.facts.entry).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ConnectionIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.cut.check()?;
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.cut.reader(read, cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ConnectionIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.cut.check()?;
        let written = Pin::new(&mut this.stream).poll_write(cx, data);
        this.cut.writer(written, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.cut.check()?;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.cut.writer(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.cut.check()?;
        let mut closed = Pin::new(&mut this.stream).poll_shutdown(cx);
        if let (Poll::Ready(Ok(())), Some(linger)) = (&closed, &mut this.linger) {
            closed = linger.poll(Pin::new(&mut this.stream), cx).map(Ok);
        }
        this.cut.writer(closed, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.cut.check()?;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.cut.writer(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What is left of the time and the bytes after a goodbye.
struct Linger {
    bytes_left: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Linger {
    /// Ready when the other side has ended, or when it was waited for long enough.
    fn poll(&mut self, mut stream: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>) -> Poll<()> {
        let mut buf = [0; 4096];
        while self.bytes_left > 0 {
            let mut read = ReadBuf::new(&mut buf);
            match stream.as_mut().poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.bytes_left = self.bytes_left.saturating_sub(read.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(LINGER_TIME_MAX)));
                    return deadline.as_mut().poll(cx);
                }
            }
        }
        Poll::Ready(())
    }
}

/// Wakes whoever waits on a stream when its connection is cut.
///
/// Reading and writing may wait in two tasks, and a future wakes only one: hence one for each. Both
/// are made at the first wait, since most connections of a busy gateway never need the second.
struct CutWatch {
    token: CancellationToken,
    reader: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    writer: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl CutWatch {
    fn new(token: CancellationToken) -> Self {
        Self { token, reader: None, writer: None }
    }

    fn check(&self) -> io::Result<()> {
        if self.token.is_cancelled() { Err(cut_error()) } else { Ok(()) }
    }

    fn reader<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        unless_cut(&self.token, &mut self.reader, poll, cx)
    }

    fn writer<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        unless_cut(&self.token, &mut self.writer, poll, cx)
    }
}

fn unless_cut<T>(
    token: &CancellationToken,
    waiting: &mut Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    poll: Poll<io::Result<T>>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<T>> {
    if poll.is_ready() {
        return poll;
    }
    let waiting = waiting.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
    waiting.as_mut().poll(cx).map(|()| Err(cut_error()))
}

fn cut_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut off by its registry")
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Shutdown for ConnectionIo<S> {
    async fn shutdown(&mut self) {
        self.end().await;
    }
}

impl<S> UniqueID for ConnectionIo<S> {
    fn id(&self) -> UniqueIDType {
        self.facts.socket
    }
}

impl<S> Ssl for ConnectionIo<S> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        None
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.facts.ssl_digest.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.speaks.clone()
    }
}

impl<S> GetProxyDigest for ConnectionIo<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.facts.proxy_digest.clone())
    }
}

impl<S> GetSocketDigest for ConnectionIo<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.facts.socket_digest.clone())
    }
}

impl<S> GetTimingDigest for ConnectionIo<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(self.facts.timing())]
    }

    fn get_read_pending_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// Needed by the `IO` trait; we peek through `peek_more`.
#[async_trait]
impl<S: Send> Peek for ConnectionIo<S> {}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;
    use trust_bundle::{Origin, Registry};

    use super::*;
    use crate::destination::Scope;

    async fn accepted(registry: &Registry) -> (ConnectionIo<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let connection = registry.open(Origin::Accepted, "test", None);
        let facts = Facts::new(&server, connection, ConnectionKind::Mesh, None);
        (ConnectionIo::new(server, facts), client)
    }

    #[tokio::test]
    async fn a_cut_wakes_a_waiting_reader_and_fails_writes() {
        let registry = Registry::default();
        let (mut io, mut client) = accepted(&registry).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'x');

        let connection = io.connection().clone();
        let mut buf = [0; 8];
        let (read, ()) = tokio::join!(io.read(&mut buf), async { connection.cut() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(io.write(b"y").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(io.peek_more().await.is_err());
    }

    #[tokio::test]
    async fn who_writes_on_after_a_goodbye_still_reads_it() {
        let registry = Registry::default();
        let (io, mut client) = accepted(&registry).await;
        let mut io = io.lingering();
        io.write_all(b"goodbye").await.unwrap();
        let said = async {
            let mut goodbye = [0; 7];
            for _ in 0..100 {
                client.write_all(b"more").await.unwrap();
            }
            client.read_exact(&mut goodbye).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "an end, not a reset");
            goodbye
        };
        let ending = async move { io.end().await };
        let ((), goodbye) = tokio::join!(ending, said);
        assert_eq!(&goodbye, b"goodbye");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_longer_than_a_moment() {
        let registry = Registry::default();
        let (io, _client) = accepted(&registry).await;
        let mut io = io.lingering();
        assert!(timeout(LINGER_TIME_MAX / 2, io.end()).await.is_err());
        assert!(timeout(LINGER_TIME_MAX, io.end()).await.is_ok());
    }

    #[tokio::test]
    async fn a_stream_may_be_cut_alone_and_is_cut_with_its_connection() {
        let registry = Registry::default();
        for alone in [true, false] {
            let (io, _client) = accepted(&registry).await;
            let (connection, token) = (io.connection().clone(), io.connection().cut_token().child_token());
            let mut io = io.cut_by(token.clone());
            let mut buf = [0; 8];
            let end = async { if alone { token.cancel() } else { connection.cut() } };
            let (read, ()) = tokio::join!(io.read(&mut buf), end);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            assert!(io.peek_more().await.is_err());
            assert_eq!(connection.is_cut(), !alone);
        }
    }

    #[tokio::test]
    async fn a_stream_inside_keeps_the_connection_and_changes_the_route() {
        let registry = Registry::default();
        let (io, client) = accepted(&registry).await;
        let key = DestinationKey { service: "a.b".parse().unwrap(), scope: Scope::Merged, port: 80 };
        let inner = io.facts().inside(ConnectionKind::ForwardTunnel(key.clone()));
        let digest = inner.digest();
        let entry = entry_of(&digest).unwrap();
        assert_eq!(entry.connection.id(), io.connection().id());
        assert_eq!(entry.kind, ConnectionKind::ForwardTunnel(key));
        assert_eq!(entry.client, Some(client.local_addr().unwrap()));
        assert_eq!(io.facts().kind(), &ConnectionKind::Mesh);
    }
}
