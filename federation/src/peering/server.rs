//! Accepts what gateways hand over, ends TLS itself, and serves the two services on it.
//!
//! ```text
//!   HandedOver ─► handshakes, so many at a time, in any order ─┬─► Peering.Federate   (mutual TLS)
//!                                                              └─► Join.Redeem        (any chain)
//! ```
//! The gateway has only looked at the ClientHello: who is at the other end is proven here, end to end.
//! A slow handshake delays nobody, and what does not fit is dropped instead of waiting.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::poll_fn;
use futures::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use trust_bundle::{
    ClientAuth, Connection, Origin, PeerSide, authenticate, exporter, join_server_config, server_config,
};

use super::dial::{HANDSHAKE_TIME, KEEPALIVE_EVERY, KEEPALIVE_TIME, rejection};
use super::dialler::{OWNER, still_believed};
use super::io::{FederationCaller, HandedOver, Io, JoinCaller, PeeringService, Terminated};
use super::join::{self, JoinService};
use super::proto::Message;
use super::proto::join_server::JoinServer;
use super::proto::peering_server::{Peering, PeeringServer};
use super::seat::{Claim, Dialled};
use super::stream::{self, Line, MESSAGE_BYTES_MAX, OUTBOUND_MAX, Session};
use super::us::Us;
use crate::clock;

/// Connections that gateways may hand over before we look at them.
pub const HANDED_OVER_MAX: usize = 64;
/// Handshakes at a time (notes/trust 4.4).
const HANDSHAKES_MAX: usize = 64;
/// Connections of strangers who may join, at a time (4.4).
const JOINERS_MAX: usize = 64;
/// Connections of one trust domain: a stream, the next one, and some that have just broken.
const CONNECTIONS_PER_TRUST_DOMAIN: usize = 8;
/// Connections that are ready and wait for their service.
const READY_MAX: usize = 16;
/// A peer needs one stream, two while it dials anew.
const STREAMS_PER_CONNECTION: u32 = 4;
/// The names and tokens that gRPC sends; ours are short.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

type FederationStream = Terminated<TlsStream<Box<dyn Io>>, FederationCaller>;
type JoinStream = Terminated<TlsStream<Box<dyn Io>>, JoinCaller>;

/// Serves until the process stops; then what is open has some time to close.
pub(super) async fn serve(us: Arc<Us>, handed_over: mpsc::Receiver<HandedOver>, shutdown_time: Duration) {
    let (peers, ready_peers) = mpsc::channel(READY_MAX);
    let (joiners, ready_joiners) = mpsc::channel(READY_MAX);
    let stop = us.stop.clone();
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(shutdown_time).await;
    };
    let work = async {
        tokio::join!(
            accept(us.clone(), handed_over, peers, joiners),
            serve_peers(us.clone(), ready_peers, &stop),
            serve_joiners(us, ready_joiners, &stop),
        )
    };
    tokio::select! {
        () = patience => {}
        _ = work => {}
    }
}

async fn accept(
    us: Arc<Us>,
    mut handed_over: mpsc::Receiver<HandedOver>,
    peers: mpsc::Sender<FederationStream>,
    joiners: mpsc::Sender<JoinStream>,
) {
    let stop = us.stop.clone();
    let joiners_room = Arc::new(Semaphore::new(JOINERS_MAX));
    poll_fn(|cx| handed_over.poll_recv(cx))
        .take_until(stop.cancelled())
        .for_each_concurrent(HANDSHAKES_MAX, |connection| async {
            let dropped = match connection.service {
                PeeringService::Federation => {
                    terminate_peer(&us, connection).await.is_some_and(|ready| peers.try_send(ready).is_err())
                }
                PeeringService::Join => terminate_joiner(&us, connection, &joiners_room)
                    .await
                    .is_some_and(|ready| joiners.try_send(ready).is_err()),
            };
            if dropped {
                tracing::warn!("more connections than can be served; one was dropped");
            }
        })
        .await;
}

async fn terminate_peer(us: &Us, connection: HandedOver) -> Option<FederationStream> {
    let config = server_config(&us.deps.trust, &us.deps.federation_svid, ClientAuth::Required, &[b"h2"]);
    let address = connection.peer_address;
    let tls = handshake(config, connection).await?;
    let authenticated = authenticate(&us.deps.trust, tls.get_ref().1, PeerSide::Client, clock::unix_now());
    let identity = authenticated
        .inspect_err(
            |rejection| tracing::warn!(%address, reason = rejection.reason(), %rejection, "peer refused"),
        )
        .ok()?;
    let same = |open: &Connection| {
        open.owner() == OWNER
            && open.peer().is_some_and(|peer| peer.trust_domain() == identity.trust_domain())
    };
    if us.deps.registry.count(same) >= CONNECTIONS_PER_TRUST_DOMAIN {
        tracing::warn!(%address, id = %identity.id(), "more connections than a peer needs; one was dropped");
        return None;
    }
    let entry = us.deps.registry.open(Origin::Accepted, OWNER, Some(identity.clone()));
    still_believed(us, &identity).ok()?;
    let caller = FederationCaller { identity, connection: entry.clone() };
    Some(Terminated::new(tls, caller, Some(&entry)))
}

async fn terminate_joiner(us: &Us, connection: HandedOver, room: &Arc<Semaphore>) -> Option<JoinStream> {
    let room = room.clone().try_acquire_owned().ok()?;
    if !join::is_open(us) {
        tracing::info!(address = %connection.peer_address, "nobody may join: no token is waiting to be used");
        return None;
    }
    let (config, address) = (join_server_config(&us.deps.join_svid), connection.peer_address);
    let tls = handshake(config, connection).await?;
    let session = tls.get_ref().1;
    let chain = session.peer_certificates()?.to_vec().into();
    let caller = JoinCaller { address, exporter: exporter(session), chain, _room: Arc::new(room) };
    Some(Terminated::new(tls, caller, None))
}

async fn handshake(
    config: Arc<rustls::ServerConfig>,
    connection: HandedOver,
) -> Option<TlsStream<Box<dyn Io>>> {
    let HandedOver { stream, peer_address: address, service } = connection;
    match timeout(HANDSHAKE_TIME, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(tls)) => Some(tls),
        Ok(Err(error)) => {
            let reason = rejection(&error).map_or("tls", |rejection| rejection.reason());
            tracing::warn!(%address, ?service, reason, %error, "no handshake");
            None
        }
        Err(_elapsed) => {
            tracing::warn!(%address, ?service, "the handshake took too long");
            None
        }
    }
}

async fn serve_peers(us: Arc<Us>, ready: mpsc::Receiver<FederationStream>, stop: &CancellationToken) {
    let service = PeeringServer::new(Federation { us })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let served = hardened(Server::builder())
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(ready), stop.clone().cancelled_owned())
        .await;
    report("peering", served);
}

async fn serve_joiners(us: Arc<Us>, ready: mpsc::Receiver<JoinStream>, stop: &CancellationToken) {
    let service = JoinServer::new(JoinService::new(us)).max_decoding_message_size(join::REQUEST_BYTES_MAX);
    let served = hardened(Server::builder())
        .timeout(join::REQUEST_TIME)
        // Who has joined has no further business here.
        .max_connection_age(2 * join::REQUEST_TIME)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(ready), stop.clone().cancelled_owned())
        .await;
    report("join", served);
}

fn hardened(server: Server) -> Server {
    server
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIME))
}

fn incoming<S: Send + 'static>(mut ready: mpsc::Receiver<S>) -> impl Stream<Item = io::Result<S>> {
    poll_fn(move |cx| ready.poll_recv(cx)).map(Ok)
}

fn report(service: &str, served: Result<(), tonic::transport::Error>) {
    if let Err(error) = served {
        tracing::error!(service, %error, "the service has ended early");
    }
}

/// The acceptor's side of the peering stream.
struct Federation {
    us: Arc<Us>,
}

#[tonic::async_trait]
impl Peering for Federation {
    type FederateStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

    async fn federate(
        &self,
        request: Request<Streaming<Message>>,
    ) -> Result<Response<Self::FederateStream>, Status> {
        let caller = request.extensions().get::<FederationCaller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("no identity"))?;
        let messages = self.begin(caller, request.into_inner()).await?;
        Ok(Response::new(messages))
    }
}

impl Federation {
    /// Whatever is wrong, a stranger is told the same (T8).
    async fn begin(
        &self,
        caller: FederationCaller,
        mut inbound: Streaming<Message>,
    ) -> Result<<Self as Peering>::FederateStream, Status> {
        let (us, id) = (&self.us, caller.identity.id());
        let refused = || Status::permission_denied("only the federation role of a peer may speak here");
        still_believed(us, &caller.identity).map_err(|_rejection| refused())?;
        let peer = us.peers.speaker(id).ok_or_else(|| {
            tracing::warn!(%id, "not one that may speak the peering stream");
            refused()
        })?;
        let goes_on = us.refresh(&peer).await.map_err(|error| Status::unavailable(error.to_string()))?;
        if !goes_on {
            return Err(refused());
        }
        let theirs = stream::hear(&peer, &mut inbound).await.map_err(|end| {
            tracing::warn!(peer = %peer.name, %end, "no hello");
            Status::failed_precondition("a hello of this peer must come first")
        })?;
        let claim = Claim { dialled: Dialled::ByPeer, epoch: Some(theirs.epoch) };
        let seated = peer.take_seat(&us.deps.cluster, claim);
        let seated = seated.ok_or_else(|| Status::already_exists("there is a stream already"))?;
        let imports = peer.imports.clone().lock_owned().await;
        let (outbound, mut messages) = mpsc::channel(OUTBOUND_MAX);
        stream::say(us, &peer, &imports, &outbound).await.map_err(|end| Status::aborted(end.to_string()))?;
        let ours_until = us.deps.federation_svid.current().not_after();
        let valid_until = caller.identity.not_after();
        let valid_until = if ours_until < valid_until { ours_until } else { valid_until };
        let line = Line { inbound, connection: caller.connection, valid_until };
        let (session, name) = (Session::new(us.clone(), seated, theirs, outbound), peer.name.clone());
        us.deps.tasks.spawn(async move {
            let end = session.run(imports, line).await;
            tracing::info!(peer = %name, dialled = "by the peer", %end, "the stream has ended");
        });
        Ok(Box::pin(poll_fn(move |cx| messages.poll_recv(cx)).map(Ok)))
    }
}
