//! Our part of pingora's connector: streams on links, and connections for upgrades.
//!
//! Nothing that comes from here is pooled by pingora. A stream on a link goes back by being dropped; a
//! connection for an upgrade is used once.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use federation::model::{ClusterName, ServiceName};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::protocols::Stream;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::ErrorType::{ConnectError, InternalError};
use pingora_error::{Error, OkOrErr, Result};

use super::peer::LINK;
use super::session::LinkSession;
use super::upgrade::UpgradeIo;
use crate::connection::ConnectionIo;
use crate::headers;
use crate::link::Links;

/// What pingora asks for connections that it cannot make itself.
pub struct LinkConnector {
    links: Links,
    plain: TransportConnector,
}

impl LinkConnector {
    pub fn new(links: Links) -> Self {
        Self { links, plain: TransportConnector::new(None) }
    }

    /// The cause of an error is `link::NoStream`, for whoever decides what the client is told.
    async fn borrow(&self, cluster: &ClusterName) -> Result<LinkSession> {
        let stream = self.links.http_stream(cluster).await;
        stream.map(LinkSession::new).map_err(|cause| no_way_to(cluster, cause))
    }

    /// HTTP/2 has no upgrade, so one to a peer goes through a tunnel to the very port.
    ///
    /// The cause of an error is `link::OpenFault`.
    async fn tunnel(&self, cluster: &ClusterName, peer: &HttpPeer) -> Result<Stream> {
        let said = carried_headers(peer);
        let to = said.get(&headers::TO).and_then(|value| value.to_str().ok());
        let (service, port) =
            to.and_then(destination).or_err(InternalError, "an upgrade without isthmus-to")?;
        let said = said.into_iter().filter_map(|(name, value)| Some((name?, value)));
        let tunnel = self.links.tunnel(cluster, &service, port, said).await;
        let tunnel = tunnel.map_err(|cause| no_way_to(cluster, cause))?;
        let facts = tunnel.facts().clone();
        Ok(Box::new(ConnectionIo::new(tunnel, facts)))
    }
}

#[async_trait]
impl Connector for LinkConnector {
    type Session = LinkSession;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<LinkSession>, bool)> {
        let peer = (peer as &dyn Any).downcast_ref::<HttpPeer>().or_err(InternalError, "not an HttpPeer")?;
        let stream = match carried_cluster(peer) {
            // A link counts as reused: a request that it lost unread may be sent again.
            Some(cluster) if !is_upgrade(peer) => {
                return Ok((Connection::Session(self.borrow(&cluster).await?), true));
            }
            Some(cluster) => self.tunnel(&cluster, peer).await?,
            None => self.plain.new_stream(peer).await?,
        };
        Ok((Connection::Stream(Box::new(UpgradeIo::new(stream))), false))
    }

    /// Answered by `get_http_session`, which can say why there is none.
    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _peer: &P) -> Option<LinkSession> {
        None
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: LinkSession,
        _peer: &P,
        _idle: Option<Duration>,
    ) {
        drop(session);
    }
}

fn no_way_to(cluster: &ClusterName, cause: impl std::error::Error + Send + Sync + 'static) -> Box<Error> {
    Error::because(ConnectError, format!("to cluster {cluster}"), cause)
}

fn carried_cluster(peer: &HttpPeer) -> Option<ClusterName> {
    let name = peer.options.extra_proxy_headers.get(LINK)?;
    std::str::from_utf8(name).ok()?.try_into().ok()
}

/// Only an upgrade carries more than the cluster.
fn is_upgrade(peer: &HttpPeer) -> bool {
    peer.options.extra_proxy_headers.len() > 1
}

fn carried_headers(peer: &HttpPeer) -> HeaderMap {
    let carried = peer.options.extra_proxy_headers.iter().filter(|(name, _)| *name != LINK);
    let parse = |(name, value): (&String, &Vec<u8>)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
    };
    carried.filter_map(parse).collect()
}

/// Reads `<svc>.<ns>:<port>`.
fn destination(to: &str) -> Option<(ServiceName, u16)> {
    let (service, port) = to.rsplit_once(':')?;
    Some((service.parse().ok()?, port.parse().ok()?))
}

impl fmt::Debug for LinkConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConnector").field("links", &self.links).finish_non_exhaustive()
    }
}
