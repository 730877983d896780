//! What is behind the gateways: HTTP and TCP that answer after a moment and say who asked.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

pub(crate) const HTTP_PORTS: [u16; 2] = [8080, 8081];
pub(crate) const TCP_PORT: u16 = 9000;
/// Says which machine asked.
pub(super) const FROM: &str = "x-asked-from";
/// Work, so that some requests are always under way.
const WORK: Duration = Duration::from_millis(20);

pub(crate) async fn serve() -> anyhow::Result<()> {
    let tasks = TaskTracker::new();
    for port in HTTP_PORTS {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        tasks.spawn(accept(
            listener,
            tasks.clone(),
            |stream, from| async move { answer(stream, from).await },
        ));
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TCP_PORT)).await?;
    accept(listener, tasks, |stream, from| async move { echo(stream, from).await }).await
}

async fn accept<F>(
    listener: TcpListener,
    tasks: TaskTracker,
    connection: impl Fn(TcpStream, IpAddr) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    loop {
        let (stream, from): (_, SocketAddr) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tasks.spawn(connection(stream, from.ip()));
    }
}

async fn answer(stream: TcpStream, from: IpAddr) -> anyhow::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        let sent = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
        tokio::time::sleep(WORK).await;
        let mut body = path.into_bytes();
        body.extend_from_slice(&sent.unwrap_or_default());
        let response = Response::builder().header(FROM, from.to_string());
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(body))).unwrap_or_default())
    });
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

async fn echo(stream: TcpStream, from: IpAddr) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{from}\n").as_bytes()).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        tokio::time::sleep(WORK).await;
        stream.write_all(line.as_bytes()).await?;
        line.clear();
    }
    Ok(stream.shutdown().await?)
}
