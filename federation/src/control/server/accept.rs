//! From a connection of anybody to a gateway that has proven its role, or a stranger with a token.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use trust_bundle::{
    ClientAuth, Connection, Origin, PeerIdentity, PeerSide, authenticate, exporter, node_server_config,
    server_config,
};

use super::Shared;
use crate::clock;
use crate::control::Standing;
use crate::control::handover::{self, HANDOVER_ALPN};
use crate::model::{ClusterName, Network};
use crate::peering::dial::{HANDSHAKE_TIME, rejection};
use crate::peering::io::Terminated;

/// Handshakes at a time (notes/trust 4.4).
const HANDSHAKES_MAX: usize = 64;
/// Of these, as many may come from one network, so that one neighbour never keeps out all gateways.
const HANDSHAKES_PER_NETWORK: usize = 32;
/// Connections of gateways at a time; those that carry peers' connections count too.
const CONNECTIONS_MAX: usize = 4096;
/// Connections of new nodes at a time.
const NODES_MAX: usize = 16;
/// The owner of our connections in the registry.
pub(in crate::control) const OWNER: &str = "control";

pub(super) type GatewayStream = Terminated<TlsStream<TcpStream>, GatewayCaller>;
pub(super) type NodeStream = Terminated<TlsStream<TcpStream>, NodeCaller>;

/// A gateway that has proven its role.
#[derive(Debug, Clone)]
pub(in crate::control) struct GatewayCaller {
    pub(in crate::control) identity: PeerIdentity,
    pub(in crate::control) connection: Arc<Connection>,
    pub(in crate::control) address: SocketAddr,
}

/// A stranger who may have a token.
#[derive(Debug, Clone)]
pub(in crate::control) struct NodeCaller {
    pub(in crate::control) address: SocketAddr,
    /// Names this TLS connection; a proof holds on no other.
    pub(in crate::control) exporter: [u8; 32],
    _room: Arc<OwnedSemaphorePermit>,
}

/// Where finished connections go.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) gateways: mpsc::Sender<GatewayStream>,
    pub(super) nodes: mpsc::Sender<NodeStream>,
}

/// How many may be on their way in.
#[derive(Debug)]
pub(super) struct Room {
    handshakes: Arc<Semaphore>,
    nodes: Arc<Semaphore>,
    networks: Arc<Mutex<HashMap<Network, usize>>>,
}

impl Default for Room {
    fn default() -> Self {
        let (handshakes, nodes) = (Semaphore::new(HANDSHAKES_MAX), Semaphore::new(NODES_MAX));
        Self { handshakes: Arc::new(handshakes), nodes: Arc::new(nodes), networks: Arc::default() }
    }
}

/// Room for one handshake, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    _permit: OwnedSemaphorePermit,
    network: Network,
    networks: Arc<Mutex<HashMap<Network, usize>>>,
}

impl Room {
    pub(super) fn enter(&self, from: IpAddr) -> Option<Entry> {
        let permit = self.handshakes.clone().try_acquire_owned().ok()?;
        let network = Network::from(from);
        let mut networks = self.networks.lock();
        let count = networks.entry(network).or_default();
        if *count >= HANDSHAKES_PER_NETWORK {
            return None;
        }
        *count += 1;
        drop(networks);
        Some(Entry { _permit: permit, network, networks: self.networks.clone() })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut networks = self.networks.lock();
        if let Some(count) = networks.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                networks.remove(&self.network);
            }
        }
    }
}

/// Whom a ClientHello asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Control,
    Node,
}

fn asked(name: Option<&str>, cluster: &ClusterName) -> Option<Asked> {
    let (first, rest) = name?.split_once('.')?;
    let ours = rest.strip_suffix(".isthmus.internal").is_some_and(|name| name == cluster.as_str());
    match first {
        "control" if ours => Some(Asked::Control),
        "node" if ours => Some(Asked::Node),
        _ => None,
    }
}

/// Why a connection is not served; the reason is counted, the words are for the log.
struct Refused {
    reason: &'static str,
    detail: String,
}

fn refused(reason: &'static str, detail: impl ToString) -> Refused {
    Refused { reason, detail: detail.to_string() }
}

/// Takes one connection as far as its service.
pub(super) async fn admit(shared: Arc<Shared>, tcp: TcpStream, from: SocketAddr, entry: Entry, ready: Ready) {
    if let Err(Refused { reason, detail }) = terminate(&shared, tcp, from, entry, &ready).await {
        shared.refusals.count(reason, from, &detail);
    }
}

async fn terminate(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    from: SocketAddr,
    entry: Entry,
    ready: &Ready,
) -> Result<(), Refused> {
    // Small messages must not wait for others.
    tcp.set_nodelay(true).map_err(|error| refused("socket", error))?;
    let slow = |_elapsed| refused("slow_handshake", "the handshake took too long");
    let (asked, tls) = timeout(HANDSHAKE_TIME, handshake(shared, tcp)).await.map_err(slow)??;
    drop(entry);
    match asked {
        Asked::Node => admit_node(shared, tls, from, ready),
        Asked::Control => admit_gateway(shared, tls, from, ready).await,
    }
}

async fn handshake(shared: &Shared, tcp: TcpStream) -> Result<(Asked, TlsStream<TcpStream>), Refused> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await;
    let hello = hello.map_err(|error| refused("no_tls", error))?;
    let asked = asked(hello.client_hello().server_name(), &shared.deps.cluster);
    let asked = asked.ok_or_else(|| refused("other_name", "the SNI is not of this listener"))?;
    let deps = &shared.deps;
    let config = match asked {
        Asked::Control => {
            server_config(&deps.trust, &deps.svid, ClientAuth::Required, &[b"h2", HANDOVER_ALPN])
        }
        Asked::Node => node_server_config(&deps.join_svid),
    };
    let failed = |error: std::io::Error| {
        refused(rejection(&error).map_or("tls", |rejection| rejection.reason()), error)
    };
    Ok((asked, hello.into_stream(config).await.map_err(failed)?))
}

async fn admit_gateway(
    shared: &Arc<Shared>,
    tls: TlsStream<TcpStream>,
    address: SocketAddr,
    ready: &Ready,
) -> Result<(), Refused> {
    let deps = &shared.deps;
    let identity = authenticate(&deps.trust, tls.get_ref().1, PeerSide::Client, clock::unix_now());
    let identity = identity.map_err(|rejection| refused(rejection.reason(), &rejection))?;
    if *identity.id() != shared.gateway_id {
        return Err(refused("other_role", identity.id()));
    }
    if deps.registry.count(|open| open.owner() == OWNER) >= CONNECTIONS_MAX {
        return Err(refused("too_many", "all places for gateways are taken"));
    }
    let connection = deps.registry.open(Origin::Accepted, OWNER, Some(identity.clone()));
    if !deps.trust.load().vouches_for(&identity) {
        return Err(refused("no_longer_trusted", identity.id()));
    }
    let handed_over = tls.get_ref().1.alpn_protocol() == Some(HANDOVER_ALPN);
    let caller = GatewayCaller { identity, connection: connection.clone(), address };
    let stream = Terminated::new(tls, caller, Some(&connection));
    if !handed_over {
        return ready.gateways.try_send(stream).map_err(|_full| refused("busy", "too many come at once"));
    }
    let standing = deps.standing.borrow().clone();
    let Standing::Leading(term) = standing else {
        return Err(refused("not_leader", "only the leader takes connections of peers"));
    };
    let received = handover::receive(stream, &deps.cluster).await;
    let received = received.map_err(|error| refused("handover", error))?;
    term.deps.handover.try_send(received).map_err(|_full| refused("handover_full", "peering is busy"))
}

fn admit_node(
    shared: &Shared,
    tls: TlsStream<TcpStream>,
    address: SocketAddr,
    ready: &Ready,
) -> Result<(), Refused> {
    let room = shared.room.nodes.clone().try_acquire_owned();
    let room = room.map_err(|_none| refused("too_many_nodes", "too many new nodes at once"))?;
    let caller = NodeCaller { address, exporter: exporter(tls.get_ref().1), _room: Arc::new(room) };
    let stream = Terminated::new(tls, caller, None);
    ready.nodes.try_send(stream).map_err(|_full| refused("busy", "too many come at once"))
}

/// Certificates as bytes, for a message.
pub(super) fn der(chain: Vec<CertificateDer<'static>>) -> Vec<Vec<u8>> {
    chain.into_iter().map(|certificate| certificate.to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_asked_for() {
        let cluster: ClusterName = "cloud".try_into().unwrap();
        for (name, expected) in [
            (Some("control.cloud.isthmus.internal"), Some(Asked::Control)),
            (Some("node.cloud.isthmus.internal"), Some(Asked::Node)),
            (Some("control.onprem.isthmus.internal"), None),
            (Some("federation.cloud.isthmus.internal"), None),
            (Some("control.cloud.example.com"), None),
            (Some("control"), None),
            (None, None),
        ] {
            assert_eq!(asked(name, &cluster), expected, "{name:?}");
        }
    }

    #[test]
    fn one_network_never_takes_all_places() {
        let room = Room::default();
        let from = |text: &str| room.enter(text.parse().unwrap());
        let held: Vec<_> = (0..HANDSHAKES_PER_NETWORK).map(|_| from("192.0.2.1").unwrap()).collect();
        assert!(from("192.0.2.200").is_none());
        let other = from("198.51.100.1").unwrap();
        drop(held);
        assert!(from("192.0.2.200").is_some());
        drop(other);
        assert!(room.networks.lock().is_empty());
    }
}
