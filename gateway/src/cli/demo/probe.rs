//! What the demo asks as a workload would: HTTP, TCP, DNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use crate::clock;

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Everything here answers in milliseconds; the bound is for a machine that does something else.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// An answer of one of the demo's services, or of a gateway that refuses.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Answer {
    /// The cluster that the answering service runs in.
    pub(super) fn cluster(&self) -> &str {
        self.body["cluster"].as_str().unwrap_or("-")
    }
}

/// Repeats until it succeeds; the last error if it never does.
pub(super) async fn until<T>(
    patience: Duration,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut last = None;
    let trying = async {
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(patience, trying).await {
        Ok(value) => Ok(value),
        Err(_elapsed) => Err(last.unwrap_or_else(|| anyhow::anyhow!("no attempt came to an end")))
            .with_context(|| format!("not within {patience:?}")),
    }
}

/// Plain HTTP to a gateway's mesh listener, addressed by Host.
pub(super) async fn http(mesh: SocketAddr, host: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(mesh).await?;
    http_over(stream, host).await
}

/// One HTTP/1.1 request on a stream of any kind.
pub(super) async fn http_over<S>(stream: S, host: &str) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get("/hello").header(header::HOST, host).body(Full::new(Bytes::new()))?;
        let asking = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            let body = serde_json::from_slice(&body)
                .unwrap_or_else(|_no_json| Value::String(String::from_utf8_lossy(&body).trim().to_owned()));
            anyhow::Ok(Answer { status, body })
        };
        let (answer, _ended) = tokio::join!(asking, connection);
        answer
    };
    tokio::time::timeout(ANSWER_TIME_MAX, exchange).await.context("no answer in time")?
}

/// A TCP conversation in lines.
pub(super) struct Conversation {
    stream: BufReader<TcpStream>,
}

impl Conversation {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = tokio::time::timeout(ANSWER_TIME_MAX, TcpStream::connect(address)).await??;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Says a line and returns the answer; an error once the connection is gone.
    pub(super) async fn say(&mut self, line: &str) -> anyhow::Result<String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).await?;
        self.hear().await
    }

    async fn hear(&mut self) -> anyhow::Result<String> {
        let mut answer = String::new();
        let read = tokio::time::timeout(ANSWER_TIME_MAX, self.stream.read_line(&mut answer)).await??;
        ensure!(read > 0, "the connection was closed");
        Ok(answer.trim_end().to_owned())
    }

    /// Waits for the other side to end the conversation; how long that took.
    pub(super) async fn ended(&mut self, patience: Duration) -> anyhow::Result<Duration> {
        let mut rest = String::new();
        let asked = clock::now();
        match tokio::time::timeout(patience, self.stream.read_line(&mut rest)).await {
            Ok(Ok(0) | Err(_)) => Ok(asked.elapsed()),
            Ok(Ok(_)) => bail!("it said {rest:?} instead of ending"),
            Err(_elapsed) => bail!("still open after {patience:?}"),
        }
    }
}

const QUERY_ID: u16 = 0x1573;
const TYPE_A: u16 = 1;
const HEADER_BYTES: usize = 12;

/// Asks for one IPv4 address; none if the name does not exist or has none.
pub(super) async fn dns_a(server: SocketAddr, name: &str) -> anyhow::Result<Option<IpAddr>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(server).await?;
    socket.send(&query(name)).await?;
    let mut answer = [0; 512];
    let length =
        tokio::time::timeout(ANSWER_TIME_MAX, socket.recv(&mut answer)).await.context("no DNS answer")??;
    first_a(&answer[..length])
}

fn query(name: &str) -> Vec<u8> {
    let mut query = Vec::new();
    for field in [QUERY_ID, 0x0100, 1, 0, 0, 0] {
        query.extend_from_slice(&field.to_be_bytes());
    }
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&TYPE_A.to_be_bytes());
    query.extend_from_slice(&1_u16.to_be_bytes());
    query
}

/// Reads the first A record; the answer section follows the question, which is ours.
fn first_a(message: &[u8]) -> anyhow::Result<Option<IpAddr>> {
    let number = |at: usize| -> anyhow::Result<u16> {
        let bytes = message.get(at..at + 2).context("the DNS answer is cut short")?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    ensure!(number(0)? == QUERY_ID, "the DNS answer is for another query");
    let answers = number(6)?;
    let mut at = past_name(message, HEADER_BYTES)? + 4;
    for _ in 0..answers {
        at = past_name(message, at)?;
        let (kind, length) = (number(at)?, number(at + 8)?);
        at += 10;
        let value = message.get(at..at + usize::from(length)).context("the DNS answer is cut short")?;
        if let (TYPE_A, Ok(octets)) = (kind, <[u8; 4]>::try_from(value)) {
            return Ok(Some(Ipv4Addr::from(octets).into()));
        }
        at += usize::from(length);
    }
    Ok(None)
}

fn past_name(message: &[u8], mut at: usize) -> anyhow::Result<usize> {
    loop {
        match *message.get(at).context("the DNS answer is cut short")? {
            0 => return Ok(at + 1),
            length if length >= 0xc0 => return Ok(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}
