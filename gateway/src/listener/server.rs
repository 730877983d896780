//! What every connection needs, whichever listener accepted it.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora_proxy::HttpProxy;
use rustls::{CommonState, ServerConfig};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{
    ClientAuth, Connection, Origin, PeerIdentity, PeerSide, Registry, Rejection, SvidHandle, TrustStore,
    authenticate, server_config,
};

use super::accept::{Accepted, Room};
use super::east_west::{self, Handover};
use super::handshakes::Handshakes;
use super::{LINGER, client, virtual_port};
use crate::clock;
use crate::connection::ConnectionKind;
use crate::destination::DestinationKey;
use crate::host::{SocketName, Sockets};
use crate::link::{self, Links};
use crate::plane::Plane;
use crate::proxy::RequestPath;
use crate::router::ListenerKey;
use crate::telemetry::Entrance;
use crate::upstream::LinkConnector;

pub(crate) type Proxy = Arc<HttpProxy<RequestPath, LinkConnector>>;

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    Mesh,
    EastWest,
    Ingress(ListenerKey),
    Virtual(DestinationKey),
}

/// Serves accepted connections; one for all listeners.
pub(crate) struct Server {
    pub(super) proxy: Proxy,
    pub(super) plane: Arc<Plane>,
    pub(super) registry: Registry,
    pub(super) trust: TrustStore,
    pub(super) mesh_tls: Arc<ServerConfig>,
    pub(super) link_tls: Arc<ServerConfig>,
    pub(super) handover: mpsc::Sender<Handover>,
    pub(super) tasks: TaskTracker,
    pub(super) room: Room,
    pub(super) sockets: Sockets,
    /// Of strangers at the port between clusters.
    pub(super) handshakes: Arc<Handshakes>,
    /// Cancelled when clients are to finish what they have begun.
    draining: CancellationToken,
    /// The same for links, which carry what clients have begun.
    leaving: CancellationToken,
}

/// The ALPNs of clients that do TLS with the gateway.
const CLIENT_ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

impl Purpose {
    pub(super) fn entrance(&self) -> Entrance {
        match self {
            Self::Mesh => Entrance::Mesh,
            Self::EastWest => Entrance::Link,
            Self::Ingress(_) => Entrance::Ingress,
            Self::Virtual(_) => Entrance::Virtual,
        }
    }

    pub(super) fn socket_name(&self) -> SocketName {
        match self {
            Self::Mesh => SocketName::Mesh,
            Self::EastWest => SocketName::EastWest,
            Self::Ingress(_) => SocketName::Ingress,
            Self::Virtual(_) => SocketName::Virtual,
        }
    }
}

impl Server {
    #[expect(clippy::too_many_arguments, reason = "each is a part of the process, put together once")]
    pub(crate) fn new(
        proxy: Proxy,
        plane: Arc<Plane>,
        registry: Registry,
        trust: TrustStore,
        svid: &SvidHandle,
        handover: mpsc::Sender<Handover>,
        tasks: TaskTracker,
        room: Room,
        sockets: Sockets,
    ) -> Arc<Self> {
        Arc::new(Self {
            mesh_tls: server_config(&trust, svid, ClientAuth::Optional, CLIENT_ALPN),
            link_tls: server_config(
                &trust,
                svid,
                ClientAuth::Required,
                &[link::ALPN_HTTP, link::ALPN_TUNNEL],
            ),
            proxy,
            plane,
            registry,
            trust,
            handover,
            tasks,
            handshakes: Handshakes::within(room.links().available_permits()),
            room,
            sockets,
            draining: CancellationToken::new(),
            leaving: CancellationToken::new(),
        })
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    pub(crate) fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    pub(crate) fn links(&self) -> &Links {
        &self.plane.links
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Who finds no room, or is closed before it could ask for anything.
    pub(crate) fn refused(&self, entrance: Entrance, reason: &'static str, from: Option<SocketAddr>) {
        self.plane.refused(entrance, reason, from);
    }

    /// Is the place of an idle client worth more to others.
    pub(super) fn is_short(&self) -> bool {
        self.room.is_nearly_full() || self.plane.overload.is_shedding()
    }

    /// Clients that come from now on are told that their connection does not stay.
    pub(crate) fn start_client_drain(&self) {
        self.draining.cancel();
    }

    /// No longer waits for whoever has not said anything yet.
    pub(crate) fn start_drain(&self) {
        self.draining.cancel();
        self.leaving.cancel();
    }

    /// Has a drain given everybody the time to say what he came for.
    pub(super) async fn draining_for_long(&self) {
        self.draining.cancelled().await;
        tokio::time::sleep(LINGER).await;
    }

    /// Serves one connection to its end, in a task of its own.
    pub(crate) fn spawn(self: &Arc<Self>, purpose: Purpose, owner: Arc<str>, accepted: Accepted) {
        let server = self.clone();
        self.tasks.spawn(async move {
            match purpose {
                Purpose::EastWest => east_west::serve(&server, &owner, accepted).await,
                Purpose::Mesh => client::serve(&server, &owner, accepted, ConnectionKind::Mesh).await,
                Purpose::Ingress(key) => {
                    client::serve_plain(&server, &owner, accepted, ConnectionKind::Ingress(key)).await;
                }
                Purpose::Virtual(key) => virtual_port::serve(&server, &owner, accepted, key).await,
            }
        });
    }

    /// Registers an accepted connection of a client.
    pub(super) fn open(&self, owner: &str, peer: Option<PeerIdentity>) -> Result<Arc<Connection>, Untrusted> {
        self.register(owner, peer, &self.draining)
    }

    /// Registers an accepted link.
    pub(super) fn open_link(&self, owner: &str, peer: PeerIdentity) -> Result<Arc<Connection>, Untrusted> {
        self.register(owner, Some(peer), &self.leaving)
    }

    /// Trust may have been removed between the handshake and this moment; whoever removed it has cut
    /// what was listed by then, so we look once more now that we are.
    fn register(
        &self,
        owner: &str,
        peer: Option<PeerIdentity>,
        draining: &CancellationToken,
    ) -> Result<Arc<Connection>, Untrusted> {
        let connection = self.registry.open(Origin::Accepted, owner, peer);
        if draining.is_cancelled() {
            // Whoever began the drain has asked those that were listed by then.
            connection.drain();
        }
        match connection.peer() {
            Some(peer) if !self.trust.load().vouches_for(peer) => Err(Untrusted),
            _ => Ok(connection),
        }
    }

    /// Who proved itself in a finished handshake; none where no certificate was shown.
    pub(super) fn peer(&self, session: &CommonState) -> Result<Option<PeerIdentity>, Rejection> {
        if session.peer_certificates().is_none() {
            return Ok(None);
        }
        authenticate(&self.trust, session, PeerSide::Client, clock::unix()).map(Some)
    }
}

/// What vouched for a peer was removed while it connected.
#[derive(Debug)]
pub(super) struct Untrusted;
