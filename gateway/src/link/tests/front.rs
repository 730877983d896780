//! The smallest request path in front of the connector: every request goes to one target.

use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use federation::model::{AppProtocol, Host};
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::Fds;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::Service as _;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProcessCustomSession, ProxyHttp, ProxyServiceBuilder, Session};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::balancer::Target;
use crate::headers::{self, LinkHeaders};
use crate::link::Links;
use crate::upstream::{LinkConnector, Speaking, Upstream, was_unprocessed};

/// Listens for HTTP/1.1 and, by preface, HTTP/2.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    stop: watch::Sender<bool>,
}

struct Path {
    upstream: Upstream,
    target: Target,
    protocol: AppProtocol,
}

impl Front {
    pub(super) fn start(links: &Links, target: Target, protocol: AppProtocol, tasks: &TaskTracker) -> Self {
        let path = Path { upstream: Upstream::default(), target, protocol };
        let hook: ProcessCustomSession<Path, LinkConnector> = Arc::new(|_, _, _| Box::pin(async { None }));
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        let mut service = ProxyServiceBuilder::new(&Arc::new(ServerConf::default()), path)
            .custom(LinkConnector::new(links.clone()), hook)
            .server_options(options)
            .build();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let mut sockets = Fds::new();
        sockets.add(address.to_string(), socket.into_raw_fd());
        service.add_tcp(&address.to_string());
        let (stop, stopped) = watch::channel(false);
        let sockets = Some(Arc::new(parking_lot::Mutex::new(sockets)));
        tasks.spawn(async move { service.start_service(sockets, stopped, 1).await });
        Self { address, stop }
    }

    pub(super) async fn client(&self) -> Http1<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Http1::new(stream)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

#[async_trait]
impl ProxyHttp for Path {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let said = LinkHeaders { to: Some("upgrade.default:80".into()), ..LinkHeaders::default() };
        let speaking = Speaking::for_request(self.protocol, session.req_header());
        let peer = self.upstream.peer_for(&self.target, speaking, &said).await;
        peer.map_err(|error| Error::because(ErrorType::ConnectError, "cannot be reached", error))
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        _: &mut (),
        _: bool,
    ) -> Box<Error> {
        error.set_retry(was_unprocessed(&error) && !session.as_ref().retry_buffer_truncated());
        error
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        request.insert_header(headers::TO, "cart.shop:80")
    }
}

/// An HTTP/1.1 client that reads by content-length and chunks.
pub(super) struct Http1<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(super) async fn send(&mut self, head: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{head} HTTP/1.1\r\nHost: cart.shop\r\n{length}\r\n");
        self.stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let (status, fields) = self.head().await?;
        let chunked = fields.contains("transfer-encoding: chunked");
        let length =
            fields.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body).await?;
        if !chunked {
            return Ok((status, body));
        }
        loop {
            let size = usize::from_str_radix(self.line().await?.trim(), 16).map_err(std::io::Error::other)?;
            let from = body.len();
            body.resize(from + size, 0);
            self.stream.read_exact(&mut body[from..]).await?;
            self.line().await?;
            if size == 0 {
                return Ok((status, body));
            }
        }
    }

    /// Upgrades, and then says something that comes back.
    pub(super) async fn upgrade(&mut self, said: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let head = "GET /chat HTTP/1.1\r\nHost: cart.shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        self.stream.write_all(head.as_bytes()).await?;
        let (status, _) = self.head().await?;
        let mut heard = vec![0; GREETING.len() + said.len()];
        self.stream.read_exact(&mut heard[..GREETING.len()]).await?;
        self.stream.write_all(said).await?;
        self.stream.read_exact(&mut heard[GREETING.len()..]).await?;
        Ok((status, heard.split_off(GREETING.len())))
    }

    async fn head(&mut self) -> std::io::Result<(u16, String)> {
        let status = self.line().await?.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut fields = String::new();
        loop {
            match self.line().await?.as_str() {
                "\r\n" => return Ok((status, fields)),
                line => fields.push_str(&line.to_ascii_lowercase()),
            }
        }
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
}

/// Sent right behind the 101, as a fast backend does.
const GREETING: &[u8] = b"hello";

/// Answers an upgrade at once and echoes; answers anything else with its own length.
pub(super) async fn speak_http1(stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut upgrade, mut length, mut total, mut line) = (false, 0, 0, String::new());
        while line != "\r\n" {
            line.clear();
            let read = stream.read_line(&mut line).await?;
            if read == 0 {
                return Ok(());
            }
            total += read;
            let lower = line.to_ascii_lowercase();
            upgrade |= lower.starts_with("upgrade:");
            length = lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap());
        }
        if upgrade {
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(&[answer.as_bytes(), GREETING].concat()).await?;
            let mut buffer = [0; 1024];
            while let n @ 1.. = stream.read(&mut buffer).await? {
                stream.write_all(&buffer[..n]).await?;
            }
            return stream.shutdown().await;
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let text = (total + length).to_string();
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).as_bytes())
            .await?;
    }
}

/// An endpoint of this cluster, and how many connections it has seen.
pub(super) async fn endpoint<F>(tasks: &TaskTracker, serve: fn(TcpStream) -> F) -> (Target, Arc<AtomicUsize>)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, inner) = (Arc::<AtomicUsize>::default(), tasks.clone());
    let count = seen.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            stream.set_nodelay(true).unwrap();
            inner.spawn(serve(stream));
        }
    });
    let host = Host::Ip(address.ip());
    (Target::Endpoint { host, port: address.port(), locality: Arc::default() }, seen)
}
