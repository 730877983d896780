//! One `HttpProxy` for all listeners and links of a process.
//!
//! `HttpProxy::new_custom` is private and a `Service` never gives back what it serves. But a running
//! service shows its proxy to the `custom` hook, so one connection to a socket that nobody else knows
//! is enough (notes/pingora 9.5). The task is aborted before the service hears of a stop: its
//! `http_cleanup` would put the shared proxy into shutdown for good.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use pingora_core::apps::HttpServerOptions;
use pingora_core::connectors::http::custom::Connector;
use pingora_core::server::Fds;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::Service as _;
use pingora_proxy::{HttpProxy, ProcessCustomSession, ProxyHttp, ProxyServiceBuilder};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// Idle connections to endpoints that are kept; pingora's 128 would thrash with a few busy services.
const UPSTREAM_POOL_MAX: usize = 4_096;
/// pingora's own bound on tries; the request path stops earlier.
const TRIES_MAX: usize = 8;

/// Builds the proxy around a request path and a connector, and gets hold of it.
pub(crate) async fn shared_proxy<G, C>(
    app: G,
    connector: C,
    tasks: &TaskTracker,
) -> io::Result<Arc<HttpProxy<G, C>>>
where
    G: ProxyHttp + Send + Sync + 'static,
    G::CTX: Send + Sync + 'static,
    C: Connector + 'static,
{
    let (tell, mut told) = mpsc::channel(1);
    let hook: ProcessCustomSession<G, C> = Arc::new(move |proxy, _stream, _shutdown| {
        let tell = tell.clone();
        Box::pin(async move {
            // Whoever asked has the proxy already, or has given up.
            let _ = tell.send(proxy).await;
            None
        })
    });
    let mut options = HttpServerOptions::default();
    options.force_custom = true;
    let mut service = ProxyServiceBuilder::new(&Arc::new(configuration()), app)
        .custom(connector, hook)
        .server_options(options)
        .build();

    let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let mut fds = Fds::new();
    fds.add(address.to_string(), socket.into_raw_fd());
    service.add_tcp(&address.to_string());

    let (stop, stopped) = watch::channel(false);
    let fds = Some(Arc::new(parking_lot::Mutex::new(fds)));
    let running = tasks.spawn(async move { service.start_service(fds, stopped, 1).await });
    let _knock = TcpStream::connect(address).await?;
    let proxy = told.recv().await;
    running.abort();
    let _aborted = running.await;
    stop.send_replace(true);
    proxy.ok_or_else(|| io::Error::other("pingora did not run the custom hook"))
}

fn configuration() -> ServerConf {
    ServerConf {
        upstream_keepalive_pool_size: UPSTREAM_POOL_MAX,
        max_retries: TRIES_MAX,
        ..ServerConf::default()
    }
}
