//! What isthmus is compared with: pingora with nothing around it; and the backend behind both.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Response, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY: &[u8; 64] = &[b'x'; 64];

/// Prints its address and answers 64 bytes to everything.
#[expect(clippy::print_stdout, reason = "the parent process reads the address")]
pub(crate) fn backend() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let tasks = TaskTracker::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = service_fn(|_request| async {
                let body = Full::new(Bytes::from_static(BODY));
                let response = Response::builder().header(header::CONTENT_TYPE, "text/plain").body(body);
                Ok::<_, Infallible>(response.expect("a fixed answer"))
            });
            tasks.spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
            );
        }
    })
}

struct Bare {
    backend: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora_error::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }
}

/// Prints its address and passes everything to the backend.
#[expect(clippy::print_stdout, reason = "the parent process reads the address")]
pub(crate) fn proxy(backend: &str) -> anyhow::Result<()> {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let one_thread = || ServerConf { threads: 1, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, one_thread());
    server.bootstrap();
    let mut service = http_proxy_service(&Arc::new(one_thread()), Bare { backend: backend.parse()? });
    service.add_tcp(&address.to_string());
    server.add_service(service);
    println!("{address}");
    server.run_forever()
}
