//! The first message of each side: who speaks, in which life, and what it holds of the other.

use tokio::sync::mpsc;
use tonic::Streaming;

use super::{HELLO_TIME, PROTOCOL, StreamEnd};
use crate::model::ClusterName;
use crate::peering::imports::{Imports, Position};
use crate::peering::peers::PeerState;
use crate::peering::proto::{self, Message, message::Body};
use crate::peering::us::Us;
use crate::peering::wire;
use crate::store::Revision;

/// What the peer has said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::peering) struct Introduction {
    /// The life of the peer's process.
    pub(super) epoch: u64,
    /// How far it holds our exports, if they are of this life of ours.
    pub(super) held: Option<Revision>,
    /// The bundle of ours that it holds.
    pub(super) bundle_sha256: Option<Vec<u8>>,
    pub(super) bundle_sequence: Option<u64>,
}

impl Introduction {
    pub(in crate::peering) fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Introduces us to a peer.
pub(in crate::peering) async fn say(
    us: &Us,
    peer: &PeerState,
    imports: &Imports,
    outbound: &mpsc::Sender<Message>,
) -> Result<(), StreamEnd> {
    let held =
        imports.held().map(|Position { epoch, revision }| proto::Position { epoch, revision: revision.0 });
    let theirs = us.deps.trust.load().bundle(&peer.record().record.peer.trust_domain).cloned();
    let bundle = theirs
        .map(|bundle| proto::HeldBundle { sequence: bundle.sequence(), sha256: bundle.digest().to_vec() });
    let cluster = us.deps.cluster.to_string();
    let hello = proto::Hello { protocol: PROTOCOL, cluster, epoch: us.epoch, held, bundle };
    outbound.send(wire::message(Body::Hello(hello))).await.map_err(|_closed| StreamEnd::Closed)
}

/// Waits for the peer's introduction, which must be that of the peer that was authenticated.
pub(in crate::peering) async fn hear(
    us: &Us,
    name: &ClusterName,
    inbound: &mut Streaming<Message>,
) -> Result<Introduction, StreamEnd> {
    let nothing = |_elapsed| StreamEnd::Hello("nothing was said in time".to_owned());
    let first = tokio::time::timeout(HELLO_TIME, inbound.message()).await.map_err(nothing)??;
    let Some(Message { body: Some(Body::Hello(hello)), .. }) = first else {
        return Err(StreamEnd::Hello("the first message was another one".to_owned()));
    };
    introduction(us.epoch, name, hello)
}

fn introduction(our_epoch: u64, name: &ClusterName, hello: proto::Hello) -> Result<Introduction, StreamEnd> {
    if hello.protocol == 0 {
        return Err(StreamEnd::Hello("no version of the protocol".to_owned()));
    }
    if hello.cluster != name.as_str() {
        return Err(StreamEnd::Hello(format!("{name} says that it is {}", wire::shown(&hello.cluster))));
    }
    let held = hello.held.filter(|held| held.epoch == our_epoch).map(|held| Revision(held.revision));
    let (bundle_sequence, bundle_sha256) =
        hello.bundle.map_or((None, None), |bundle| (bundle.sequence, Some(bundle.sha256)));
    Ok(Introduction { epoch: hello.epoch, held, bundle_sha256, bundle_sequence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> proto::Hello {
        let held = Some(proto::Position { epoch: 7, revision: 3 });
        proto::Hello { protocol: 1, cluster: "cloud".into(), epoch: 9, held, bundle: None }
    }

    fn heard(hello: proto::Hello) -> Result<Introduction, StreamEnd> {
        introduction(7, &ClusterName::try_from("cloud").unwrap(), hello)
    }

    #[test]
    fn a_peer_is_whom_its_certificate_names() {
        assert!(heard(hello()).is_ok());
        let other = heard(proto::Hello { cluster: "other\u{1b}[2J".into(), ..hello() }).unwrap_err();
        assert!(other.to_string().contains("other\\u{1b}"), "{other}");
        assert!(heard(proto::Hello { protocol: 0, ..hello() }).is_err());
        assert!(heard(proto::Hello { protocol: 99, ..hello() }).is_ok(), "a newer one speaks ours too");
    }

    #[test]
    fn what_is_held_of_another_life_counts_for_nothing() {
        assert_eq!(heard(hello()).unwrap().held, Some(Revision(3)));
        let held = Some(proto::Position { epoch: 8, revision: 3 });
        assert_eq!(heard(proto::Hello { held, ..hello() }).unwrap().held, None);
    }
}
