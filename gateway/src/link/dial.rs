//! Making one connection to a gateway of a peer: name, TCP, TLS, and who it turned out to be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use federation::model::{ClusterName, GatewayAddress, Host, Peer};
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trust_bundle::{
    ExpectedPeer, Origin, PeerSide, Registry, Rejection, SvidHandle, TrustStore, authenticate, client_config,
};

use super::age;
use crate::clock;
use crate::connection::{ConnectionIo, ConnectionKind, Facts};

/// What a link is for; said by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP requests and the control stream.
    Http,
    /// CONNECT streams.
    Tunnel,
}

/// ALPN of a link for HTTP requests.
pub const ALPN_HTTP: &[u8] = b"h2";
/// ALPN of a link for CONNECT streams.
pub const ALPN_TUNNEL: &[u8] = b"isthmus-tunnel/1";
/// What the registry calls the owner of links that we dialled.
pub(super) const OWNER: &str = "link";

impl Protocol {
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http => ALPN_HTTP,
            Self::Tunnel => ALPN_TUNNEL,
        }
    }
}

/// The name by which a gateway's port is asked for the gateway of a cluster.
pub fn server_name(cluster: &ClusterName) -> String {
    format!("gateway.{cluster}.isthmus.internal")
}

/// What it takes to dial.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) trust: TrustStore,
    pub(super) svid: SvidHandle,
    pub(super) registry: Registry,
}

/// A connection whose other end has proven to be the peer's gateway.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) io: ConnectionIo<TlsStream<BufReader<TcpStream>>>,
    pub(super) remote: SocketAddr,
    /// What was left of both SVIDs: ours and the peer's.
    pub(super) life_left: (Duration, Duration),
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0} has no address")]
    Unresolved(GatewayAddress, #[source] io::Error),
    #[error("cannot connect to {0}")]
    Connect(GatewayAddress, #[source] io::Error),
    #[error("{0} did not finish the TLS handshake in time")]
    HandshakeTimedOut(SocketAddr),
    #[error("no TLS with {0}")]
    Handshake(SocketAddr, #[source] io::Error),
    #[error("{0} speaks another protocol than the one of links")]
    Protocol(SocketAddr),
    #[error("{0} is not to be trusted: {1}")]
    Rejected(SocketAddr, Rejection),
    #[error("trust in the peer was withdrawn")]
    Withdrawn,
    #[error("not a name for TLS")]
    Name(#[from] InvalidDnsNameError),
    #[error("HTTP/2 did not begin")]
    Http2(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Control(#[from] super::control::ControlError),
}

impl Dialer {
    pub(super) async fn dial(
        &self,
        peer: &Peer,
        address: &GatewayAddress,
        protocol: Protocol,
    ) -> Result<Dialled, DialError> {
        let (tcp, remote) = connect(address).await?;
        // Read first: a renewal in the middle then only makes the link's life look shorter.
        let own_end = self.svid.current().not_after();
        let expected = ExpectedPeer::Exact(peer.gateway_id.clone());
        let config = client_config(&self.trust, &self.svid, expected, &[protocol.alpn()]);
        let name = ServerName::try_from(server_name(&peer.name))?;
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let tls = timeout(HANDSHAKE_TIME_MAX, handshake)
            .await
            .map_err(|_elapsed| DialError::HandshakeTimedOut(remote))?
            .map_err(|error| DialError::Handshake(remote, error))?;
        let (socket, session) = tls.get_ref();
        if session.alpn_protocol() != Some(protocol.alpn()) {
            return Err(DialError::Protocol(remote));
        }
        let now = clock::unix();
        let identity = authenticate(&self.trust, session, PeerSide::Server, now)
            .map_err(|rejection| DialError::Rejected(remote, rejection))?;
        let life_left = (age::life_left(own_end, now), age::life_left(identity.not_after(), now));
        let connection = self.registry.open(Origin::Dialled, OWNER, Some(identity.clone()));
        // Whoever withdraws trust looks into the registry first; so we look at trust once more now.
        if !self.trust.load().vouches_for(&identity) {
            return Err(DialError::Withdrawn);
        }
        let kind = ConnectionKind::Link(peer.name.clone());
        let facts = Facts::new(socket.get_ref(), connection, kind, Some(session));
        Ok(Dialled { io: ConnectionIo::new(tls, facts), remote, life_left })
    }
}

/// Tries the addresses of a name one after the other.
async fn connect(address: &GatewayAddress) -> Result<(BufReader<TcpStream>, SocketAddr), DialError> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
    for remote in resolve(address).await? {
        match timeout(CONNECT_TIME_MAX, TcpStream::connect(remote)).await {
            Ok(Ok(tcp)) => {
                // A delayed WINDOW_UPDATE costs 40 ms.
                tcp.set_nodelay(true).map_err(|error| DialError::Connect(address.clone(), error))?;
                return Ok((BufReader::with_capacity(READ_BUFFER, tcp), remote));
            }
            Ok(Err(error)) => failure = error,
            Err(_elapsed) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(DialError::Connect(address.clone(), failure))
}

async fn resolve(address: &GatewayAddress) -> Result<Vec<SocketAddr>, DialError> {
    let unresolved = |error| DialError::Unresolved(address.clone(), error);
    match &address.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, address.port)]),
        Host::Name(name) => {
            let lookup = tokio::net::lookup_host((name.as_str(), address.port));
            let found = timeout(RESOLVE_TIME_MAX, lookup).await;
            let found = found.map_err(|_elapsed| unresolved(io::ErrorKind::TimedOut.into()))?;
            Ok(found.map_err(unresolved)?.take(ADDRESSES_TRIED_MAX).collect())
        }
    }
}

const RESOLVE_TIME_MAX: Duration = Duration::from_secs(3);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Three seconds each: more would keep the other gateways of the peer waiting.
const ADDRESSES_TRIED_MAX: usize = 4;
/// rustls asks for 4 KiB at a time; with this a busy link is read in fewer system calls.
const READ_BUFFER: usize = 64 * 1024;
