//! From an address to a stream whose other end has proven to be our own federation process.

use std::sync::Arc;

use futures::stream::poll_fn;
use futures::{Stream, StreamExt};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tonic::{Status, Streaming};
use trust_bundle::{Connection, ExpectedPeer, Origin, PeerSide, Rejection, authenticate, client_config};

use super::super::message::{MESSAGE_BYTES_MAX, text};
use super::super::proto::control_client::ControlClient;
use super::super::proto::{FromFederation, FromGateway};
use super::Shared;
use crate::clock;
use crate::model::GatewayAddress;
use crate::peering::dial::{self, DialError, HANDSHAKE_TIME};
use crate::peering::io::Terminated;

/// Messages on their way; the inbox keeps the rest in its newest form.
const OUTBOUND_MAX: usize = 4;
/// The owner of our connections in the registry.
const OWNER: &str = "control";

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoLink {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the federation process is not believed: {0}")]
    NotBelieved(#[from] Rejection),
    #[error("no HTTP/2: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("the stream was refused: {0}")]
    Refused(String),
    #[error("it did not answer in time")]
    Slow,
}

/// An open stream.
pub(super) struct Link {
    pub(super) inbound: Streaming<FromFederation>,
    pub(super) outbound: mpsc::Sender<FromGateway>,
    pub(super) connection: Arc<Connection>,
}

pub(super) async fn dial(shared: &Shared, address: &GatewayAddress) -> Result<Link, NoLink> {
    let name = dial::server_name("control", &shared.cluster);
    let (tls, connection) = connect(shared, address, &name, b"h2").await?;
    let stream = Terminated::new(tls, (), Some(&connection));
    let channel = dial::channel(&name, stream).await?;
    let mut client = ControlClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (outbound, messages) = mpsc::channel(OUTBOUND_MAX);
    let attached = timeout(HANDSHAKE_TIME, client.attach(outgoing(messages))).await;
    let attached = attached.map_err(|_elapsed| NoLink::Slow)?;
    let refused = |status: Status| NoLink::Refused(text(status.message()));
    Ok(Link { inbound: attached.map_err(refused)?.into_inner(), outbound, connection })
}

/// Mutual TLS with a federation process of our own trust domain, and nobody else.
pub(super) async fn connect(
    shared: &Shared,
    address: &GatewayAddress,
    name: &ServerName<'static>,
    alpn: &[u8],
) -> Result<(TlsStream<TcpStream>, Arc<Connection>), NoLink> {
    let expected = ExpectedPeer::Exact(shared.federation_id.clone());
    let config = client_config(&shared.trust, &shared.svid, expected, &[alpn]);
    let dialled = dial::dial(address, None, config, name.clone()).await?;
    let now = clock::unix_now();
    let identity = authenticate(&shared.trust, dialled.tls.get_ref().1, PeerSide::Server, now)?;
    if *identity.id() != shared.federation_id {
        return Err(Rejection::Unexpected(identity.id().clone()).into());
    }
    let connection = shared.registry.open(Origin::Dialled, OWNER, Some(identity));
    Ok((dialled.tls, connection))
}

fn outgoing(mut messages: mpsc::Receiver<FromGateway>) -> impl Stream<Item = FromGateway> + Send + 'static {
    poll_fn(move |cx| messages.poll_recv(cx)).map(|message| message)
}
