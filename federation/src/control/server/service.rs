//! The gRPC services on connections that are ready, and the loop that accepts them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::poll_fn;
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::accept::{self, GatewayCaller, GatewayStream, NodeCaller, NodeStream, Ready};
use super::session::{self, OUTBOUND_MAX};
use crate::control::Standing;
use crate::control::message::MESSAGE_BYTES_MAX;
use crate::control::nodes::{REQUEST_BYTES_MAX, REQUEST_TIME};
use crate::control::proto::control_server::{Control, ControlServer};
use crate::control::proto::nodes_server::{Nodes, NodesServer};
use crate::control::proto::{FromFederation, FromGateway, RedeemRequest, RedeemResponse};
use crate::peering::dial::{KEEPALIVE_EVERY, KEEPALIVE_TIME};

/// Connections that are ready and wait for their service.
const READY_MAX: usize = 64;
/// A gateway needs one stream, two while it attaches anew.
const STREAMS_PER_CONNECTION: u32 = 4;
/// The names that gRPC sends; ours are short.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// After a failed accept, for example because descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let (gateways, ready_gateways) = mpsc::channel(READY_MAX);
    let (nodes, ready_nodes) = mpsc::channel(READY_MAX);
    let ready = Ready { gateways, nodes };
    tokio::join!(
        accept(&shared, listener, ready),
        serve_gateways(&shared, ready_gateways),
        serve_nodes(&shared, ready_nodes),
    );
}

async fn accept(shared: &Arc<Shared>, listener: TcpListener, ready: Ready) {
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the control listener cannot accept now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match shared.room.enter(from.ip()) {
            Some(entry) => {
                let admitted = accept::admit(shared.clone(), tcp, from, entry, ready.clone());
                let stop = shared.stop.clone();
                shared.deps.tasks.spawn(async move { stop.run_until_cancelled(admitted).await });
            }
            None => shared.refusals.count("handshakes", from, &"too many handshakes at once"),
        }
    }
}

async fn serve_gateways(shared: &Arc<Shared>, ready: mpsc::Receiver<GatewayStream>) {
    let service = ControlServer::new(Attach { shared: shared.clone() })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let served = hardened(Server::builder())
        .add_service(service)
        .serve_with_incoming_shutdown(incoming(ready), shared.stop.clone().cancelled_owned())
        .await;
    report("control", served);
}

async fn serve_nodes(shared: &Arc<Shared>, ready: mpsc::Receiver<NodeStream>) {
    let service = NodesServer::new(Redeem { shared: shared.clone() });
    let served = hardened(Server::builder())
        .timeout(REQUEST_TIME)
        // Who has an SVID has no further business here.
        .max_connection_age(2 * REQUEST_TIME)
        .add_service(service.max_decoding_message_size(REQUEST_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming(ready), shared.stop.clone().cancelled_owned())
        .await;
    report("nodes", served);
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

/// The stream of a gateway.
struct Attach {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Control for Attach {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FromFederation, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<FromGateway>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = request.extensions().get::<GatewayCaller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("no identity"))?;
        let (outbound, mut messages) = mpsc::channel(OUTBOUND_MAX);
        let (shared, inbound) = (self.shared.clone(), request.into_inner());
        self.shared.deps.tasks.spawn(session::run(shared, caller, inbound, outbound));
        Ok(Response::new(Box::pin(poll_fn(move |cx| messages.poll_recv(cx)))))
    }
}

/// Strangers who may have a token.
struct Redeem {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Nodes for Redeem {
    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        let caller = request.extensions().get::<NodeCaller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("no connection"))?;
        let standing = self.shared.deps.standing.borrow().clone();
        let nodes = match &standing {
            Standing::Leading(term) => term.deps.nodes.as_ref(),
            Standing::Following { .. } => None,
        };
        let nodes =
            nodes.ok_or_else(|| Status::unavailable("this process does not lead; ask another one"))?;
        let redeemed = nodes.redeem(caller.address.ip(), &caller.exporter, &request.into_inner()).await;
        redeemed.map(Response::new).map_err(Status::from)
    }
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attach").finish_non_exhaustive()
    }
}

impl fmt::Debug for Redeem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redeem").finish_non_exhaustive()
    }
}
