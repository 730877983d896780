//! The only maker of `HttpPeer`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use federation::model::{AppProtocol, ClusterName};
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CustomALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use super::resolver::{Resolver, Unresolved};
use crate::balancer::Target;
use crate::headers::LinkHeaders;
use crate::windows::Windows;

/// What is spoken with the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaking {
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    /// HTTP/1.1 that may become something else, on a connection of its own.
    Upgrade,
}

impl Speaking {
    /// What a port's protocol and the request itself ask for.
    pub fn for_request(protocol: AppProtocol, request: &RequestHeader) -> Self {
        let upgrades =
            request.version == http::Version::HTTP_11 && request.headers.contains_key(http::header::UPGRADE);
        match protocol {
            _ if upgrades => Self::Upgrade,
            AppProtocol::Http2 | AppProtocol::Grpc => Self::Http2,
            _ => Self::Http1,
        }
    }
}

/// Knows how to reach targets.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    resolver: Resolver,
    /// Makes each upgrade's pool key one of its own.
    upgrades: Arc<AtomicU64>,
}

impl Upstream {
    pub fn new(resolver: Resolver) -> Self {
        Self { resolver, upgrades: Arc::default() }
    }

    /// How pingora is to reach a target. `said` travels to a peer that an upgrade goes to.
    pub async fn peer_for(
        &self,
        target: &Target,
        speaking: Speaking,
        said: &LinkHeaders,
    ) -> Result<Box<HttpPeer>, Unresolved> {
        let peer = match target {
            Target::Cluster(cluster) => self.linked(cluster, speaking, said),
            Target::Endpoint { host, port, .. } => {
                self.plain(self.resolver.resolve(host, *port).await?, speaking)
            }
        };
        Ok(Box::new(peer))
    }

    fn plain(&self, address: SocketAddr, speaking: Speaking) -> HttpPeer {
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.group_key = self.group_key(speaking);
        peer.options.connection_timeout = Some(CONNECT_TIME_MAX);
        peer.options.total_connection_timeout = Some(CONNECT_TIME_MAX);
        peer.options.idle_timeout = Some(IDLE_MAX);
        match speaking {
            Speaking::Http1 => peer.options.alpn = ALPN::H1,
            Speaking::Http2 => {
                peer.options.alpn = ALPN::H2;
                peer.options.max_h2_streams = Windows::CLIENTS.streams() as usize;
                peer.options.h2_stream_window_size = Some(Windows::CLIENTS.stream());
                peer.options.h2_connection_window_size = Some(Windows::CLIENTS.connection());
            }
            Speaking::Upgrade => {
                peer.options.alpn = ours();
                peer.options.idle_timeout = Some(Duration::ZERO);
            }
        }
        peer
    }

    /// A carrier only: the address means nothing, the connector reads the rest.
    fn linked(&self, cluster: &ClusterName, speaking: Speaking, said: &LinkHeaders) -> HttpPeer {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut peer = HttpPeer::new(nowhere, false, String::new());
        peer.group_key = self.group_key(speaking);
        peer.options.alpn = ours();
        peer.options.idle_timeout = Some(Duration::ZERO);
        let carried = &mut peer.options.extra_proxy_headers;
        carried.insert(LINK.to_owned(), cluster.as_str().as_bytes().to_vec());
        if speaking == Speaking::Upgrade {
            let pairs = said.pairs().into_iter();
            carried.extend(pairs.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())));
        }
        peer
    }

    /// Plain endpoints have no identity, and streams on links are never pooled; so what must not be mixed
    /// up is the protocol, and an upgrade with anything else.
    fn group_key(&self, speaking: Speaking) -> u64 {
        let mut hasher = DefaultHasher::new();
        speaking.hash(&mut hasher);
        if speaking == Speaking::Upgrade {
            self.upgrades.fetch_add(1, Ordering::Relaxed).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Leads to our connector; it is never negotiated with anybody.
fn ours() -> ALPN {
    ALPN::Custom(CustomALPN::new(b"isthmus".to_vec()))
}

/// Under this name the carrier holds the cluster; no header of ours is called so.
pub(super) const LINK: &str = "link";

/// An endpoint is in this cluster; the next one is tried sooner than a client gives up.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// Below the minute after which many servers close, so that a request seldom meets a closing connection.
const IDLE_MAX: Duration = Duration::from_secs(50);

#[cfg(test)]
mod tests {
    use federation::model::Host;
    use pingora_core::upstreams::peer::Peer as _;

    use super::*;

    fn endpoint(address: &str) -> Target {
        let address: SocketAddr = address.parse().unwrap();
        Target::Endpoint { host: Host::Ip(address.ip()), port: address.port(), locality: Arc::default() }
    }

    async fn hash(upstream: &Upstream, target: &Target, speaking: Speaking) -> u64 {
        upstream.peer_for(target, speaking, &LinkHeaders::default()).await.unwrap().reuse_hash()
    }

    #[tokio::test]
    async fn pools_mix_only_what_is_the_same() {
        let upstream = Upstream::default();
        let (a, b) = (endpoint("192.0.2.1:80"), endpoint("192.0.2.2:80"));
        let h1 = hash(&upstream, &a, Speaking::Http1).await;
        assert_eq!(h1, hash(&upstream, &a, Speaking::Http1).await);
        assert_ne!(h1, hash(&upstream, &b, Speaking::Http1).await);
        assert_ne!(h1, hash(&upstream, &a, Speaking::Http2).await);
        let upgrade = hash(&upstream, &a, Speaking::Upgrade).await;
        assert_ne!(upgrade, hash(&upstream, &a, Speaking::Upgrade).await, "each upgrade is on its own");
    }

    #[tokio::test]
    async fn a_cluster_is_reached_through_our_connector_only() {
        let cluster = Target::Cluster("cloud".parse().unwrap());
        let said = LinkHeaders { to: Some("cart.shop:80".into()), ..LinkHeaders::default() };
        let peer = Upstream::default().peer_for(&cluster, Speaking::Http1, &said).await.unwrap();
        assert!(matches!(peer.options.alpn, ALPN::Custom(_)));
        assert_eq!(peer.options.extra_proxy_headers.get(LINK).unwrap(), b"cloud");
        assert_eq!(peer.options.extra_proxy_headers.len(), 1);
        let upgrade = Upstream::default().peer_for(&cluster, Speaking::Upgrade, &said).await.unwrap();
        assert_eq!(upgrade.options.extra_proxy_headers.get("isthmus-to").unwrap(), b"cart.shop:80");
    }

    #[test]
    fn the_request_and_the_port_say_what_is_spoken() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (protocol, expected) in [
            (AppProtocol::Http, Speaking::Http1),
            (AppProtocol::Auto, Speaking::Http1),
            (AppProtocol::Http2, Speaking::Http2),
            (AppProtocol::Grpc, Speaking::Http2),
        ] {
            assert_eq!(Speaking::for_request(protocol, &request), expected);
        }
        request.insert_header("upgrade", "websocket").unwrap();
        assert_eq!(Speaking::for_request(AppProtocol::Http, &request), Speaking::Upgrade);
        request.set_version(http::Version::HTTP_2);
        assert_eq!(Speaking::for_request(AppProtocol::Http, &request), Speaking::Http1);
    }
}
