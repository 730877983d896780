//! From an address that a peer advertises to a TLS connection whose other end is proven.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use trust_bundle::Rejection;

use super::addresses::{AddressRules, Near, RefusedAddress};
use crate::model::{ClusterName, GatewayAddress, Host};

/// A connection that takes longer is tried elsewhere.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// As long as a server gives its clients.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const RESOLVED_MAX: usize = 4;
/// Between two clusters nothing may be silent for long: a router on the way forgets idle connections.
pub(crate) const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_TIME: Duration = Duration::from_secs(10);

/// Why an address led to no peer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{address} is not dialled: {reason}")]
    Refused { address: GatewayAddress, reason: RefusedAddress },
    #[error("the name of {address} has no address: {source}")]
    Unresolved { address: GatewayAddress, source: io::Error },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: GatewayAddress, source: io::Error },
    #[error("{address} did not answer in time")]
    Slow { address: GatewayAddress },
    #[error("{address} is not the peer: {rejection}")]
    NotThePeer { address: GatewayAddress, rejection: Rejection },
    #[error("no TLS with {address}: {source}")]
    Tls { address: GatewayAddress, source: io::Error },
}

/// A connection, and the address that it leads to.
pub(crate) struct Dialled {
    pub(crate) tls: TlsStream<TcpStream>,
    pub(crate) address: SocketAddr,
}

/// The name in SNI by which gateways know for whom a connection is.
pub(crate) fn server_name(service: &str, cluster: &ClusterName) -> ServerName<'static> {
    let name = format!("{service}.{cluster}.isthmus.internal");
    ServerName::try_from(name).expect("a label between labels is a host name")
}

/// Dials one advertised address.
pub(crate) async fn dial(
    address: &GatewayAddress,
    rules: Option<(&AddressRules, Near)>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Dialled, DialError> {
    let mut last = None;
    for resolved in resolve(address).await? {
        if let Some((rules, near)) = rules
            && let Err(reason) = rules.check(resolved.ip(), near)
        {
            last = Some(DialError::Refused { address: address.clone(), reason });
            continue;
        }
        match connect(address, resolved, config.clone(), name.clone()).await {
            Ok(tls) => return Ok(Dialled { tls, address: resolved }),
            Err(error) => last = Some(error),
        }
    }
    let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name exists and has none");
    Err(last.unwrap_or_else(|| DialError::Unresolved { address: address.clone(), source: nothing() }))
}

async fn resolve(address: &GatewayAddress) -> Result<Vec<SocketAddr>, DialError> {
    let name = match &address.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, address.port)]),
        Host::Name(name) => name.as_str(),
    };
    let slow = |_elapsed| DialError::Slow { address: address.clone() };
    let resolved =
        timeout(CONNECT_TIME, tokio::net::lookup_host((name, address.port))).await.map_err(slow)?;
    let unresolved = |source| DialError::Unresolved { address: address.clone(), source };
    Ok(resolved.map_err(unresolved)?.take(RESOLVED_MAX).collect())
}

async fn connect(
    address: &GatewayAddress,
    resolved: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let slow = |_elapsed| DialError::Slow { address: address.clone() };
    let failed = |source| DialError::Connect { address: address.clone(), source };
    let tcp = timeout(CONNECT_TIME, TcpStream::connect(resolved)).await.map_err(slow)?.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let handshake = TlsConnector::from(config).connect(name, tcp);
    let tls = timeout(HANDSHAKE_TIME, handshake).await.map_err(slow)?;
    tls.map_err(|source| match rejection(&source) {
        Some(rejection) => DialError::NotThePeer { address: address.clone(), rejection },
        None => DialError::Tls { address: address.clone(), source },
    })
}

/// What our own verifier said, where it was that which made a handshake fail.
pub(crate) fn rejection(error: &io::Error) -> Option<Rejection> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Rejection::in_tls(error).cloned()
}

/// A gRPC channel over one connection that is there already; it is never made anew.
pub(crate) async fn channel<S>(
    name: &ServerName<'static>,
    stream: S,
) -> Result<Channel, tonic::transport::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let once = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_uri: tonic::transport::Uri| {
        let stream = once.lock().take();
        async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is over")) }
    });
    // The scheme is http because TLS is already there.
    Endpoint::from_shared(format!("http://{}", name.to_str()))?
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIME)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}
