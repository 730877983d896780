//! The first message of each side: who speaks, in which life, and what it holds of the other.

use tokio::sync::mpsc;
use tonic::Streaming;

use super::{HELLO_TIME, StreamEnd};
use crate::peering::conversation::{self, Greeting, Introduction, Message};
use crate::peering::imports::Imports;
use crate::peering::peers::PeerState;
use crate::peering::us::Us;

/// Introduces us to a peer.
pub(in crate::peering) async fn say(
    us: &Us,
    peer: &PeerState,
    imports: &Imports,
    outbound: &mpsc::Sender<Message>,
) -> Result<(), StreamEnd> {
    let theirs = us.deps.trust.load().bundle(&peer.record().record.peer.trust_domain).cloned();
    let greeting = Greeting {
        cluster: us.deps.cluster.clone(),
        epoch: peer.epoch,
        held: imports.held(),
        bundle: theirs.map(|bundle| (bundle.sequence(), bundle.digest().to_vec())),
    };
    outbound.send(greeting.into()).await.map_err(|_closed| StreamEnd::Closed)
}

/// Waits for the peer's introduction, which must be that of the peer that was authenticated.
pub(in crate::peering) async fn hear(
    peer: &PeerState,
    inbound: &mut Streaming<Message>,
) -> Result<Introduction, StreamEnd> {
    let nothing = |_elapsed| StreamEnd::Hello("nothing was said in time".to_owned());
    let first = tokio::time::timeout(HELLO_TIME, inbound.message()).await.map_err(nothing)??;
    conversation::introduction(peer.epoch, &peer.name, first)
        .map_err(|invalid| StreamEnd::Hello(invalid.to_string()))
}
