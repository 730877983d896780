//! Endpoints that say what reached them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Sends back what it reads; ends its half when the client has ended its own.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    /// Connections that were accepted so far.
    accepted: Arc<AtomicUsize>,
    _tasks: Tasks,
}

/// HTTP/1.1: answers with the request head in the body, and keeps the connection.
///
/// `/held` is only answered after `release()`, `/bytes/<n>` with so many bytes, `/length` with the length
/// of the request's body; of a request to `/swallow` nothing but the head is ever read. An upgrade is
/// granted and echoes, after a greeting that comes right behind the 101.
#[derive(Debug)]
pub struct HttpEcho {
    address: SocketAddr,
    gate: Arc<Gate>,
    _tasks: Tasks,
}

#[derive(Debug, Default)]
struct Gate {
    waiting: AtomicUsize,
    swallowed: AtomicUsize,
    open: Notify,
    /// Requests that were read so far.
    asked: AtomicUsize,
}

impl EchoServer {
    pub async fn start() -> Self {
        let accepted = Arc::<AtomicUsize>::default();
        let count = accepted.clone();
        let (address, tasks) = serve(move |stream| {
            count.fetch_add(1, Ordering::Relaxed);
            echo(stream)
        })
        .await;
        Self { address, accepted, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl HttpEcho {
    pub async fn start() -> Self {
        let gate = Arc::<Gate>::default();
        let served = gate.clone();
        let (address, tasks) = serve(move |stream| http(stream, served.clone())).await;
        Self { address, gate, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that came so far.
    pub fn asked(&self) -> usize {
        self.gate.asked.load(Ordering::Relaxed)
    }

    /// Requests that wait at `/held`.
    pub fn held(&self) -> usize {
        self.gate.waiting.load(Ordering::Relaxed)
    }

    /// Requests that `/swallow` will never answer.
    pub fn swallowed(&self) -> usize {
        self.gate.swallowed.load(Ordering::Relaxed)
    }

    pub fn release(&self) {
        self.gate.open.notify_waiters();
    }
}

/// Ends what it runs, open connections included, when dropped.
#[derive(Debug)]
pub(crate) struct Tasks {
    _end: DropGuard,
}

pub(crate) async fn serve<F>(connection: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, Tasks)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (tracker, end) = (TaskTracker::new(), CancellationToken::new());
    let (tasks, ended) = (tracker.clone(), end.clone());
    tracker.spawn(end.clone().run_until_cancelled_owned(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tasks.spawn(ended.clone().run_until_cancelled_owned(connection(stream)));
        }
    }));
    (address, Tasks { _end: end.drop_guard() })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn http(mut stream: TcpStream, gate: Arc<Gate>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut unread).await? {
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path == "/swallow" {
            gate.swallowed.fetch_add(1, Ordering::Relaxed);
            return std::future::pending().await;
        }
        let length = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        while unread.len() < length {
            if stream.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
        }
        unread.drain(..length);
        gate.asked.fetch_add(1, Ordering::Relaxed);
        if path == "/held" {
            let opened = gate.open.notified();
            gate.waiting.fetch_add(1, Ordering::Relaxed);
            opened.await;
        }
        if header(&head, "upgrade").is_some() {
            stream.write_all(UPGRADED).await?;
            return echo(stream).await;
        }
        if let Some(bytes) = path.strip_prefix("/bytes/") {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            let mut left: usize = bytes.parse().map_err(io::Error::other)?;
            while left > 0 {
                let piece = left.min(PIECE.len());
                stream.write_all(&PIECE[..piece]).await?;
                left -= piece;
            }
            continue;
        }
        let head = if path == "/length" { length.to_string() } else { head };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nisthmus-fault: policy\r\nContent-Length: {}\r\n\r\n{head}",
            head.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// What an endpoint says right behind its 101, as a fast one does.
pub const GREETING: &[u8] = b"hello";
const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
const PIECE: &[u8] = &[b'x'; 16 * 1024];

/// The next head with its empty line, or none at the end of the stream.
async fn read_head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = unread.drain(..at + 4).collect();
            return String::from_utf8(head).map(Some).map_err(io::Error::other);
        }
        if stream.read_buf(unread).await? == 0 {
            return Ok(None);
        }
    }
}

/// The value of a header in the text of a head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(field, _)| field.trim().eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}
