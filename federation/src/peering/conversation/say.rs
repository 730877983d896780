//! The sending half's decisions: what is to be said now, from what the peer holds.

use std::sync::Arc;
use std::time::Instant;

use super::Message;
use crate::model::{ClusterName, ServiceName};
use crate::pace::{Rate, TokenBucket};
use crate::peering::exports::{ExportLog, Offer, Plan, Step, View};
use crate::peering::imports::Position;
use crate::peering::proto::{self, message::Body};
use crate::peering::records::RelationshipId;
use crate::peering::wire;
use crate::snapshot::{Generation, Snapshot};
use crate::store::Revision;

/// The version of the protocol that this program speaks.
const PROTOCOL: u32 = 1;

/// One thing to say; small until it becomes a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Utterance {
    FullBegin,
    Offered(Revision, Arc<Offer>),
    Withdrawn(Revision, ServiceName),
    FullEnd(Revision),
    /// The peer has been told everything up to here.
    Reached(Revision),
    /// The last word of a relationship.
    Farewell {
        by: ClusterName,
        relationship: RelationshipId,
    },
}

impl From<Utterance> for Message {
    fn from(said: Utterance) -> Self {
        wire::message(match said {
            Utterance::FullBegin => Body::FullBegin(proto::FullBegin {}),
            Utterance::Offered(revision, offer) => Body::Service(wire::service(revision.0, &offer)),
            Utterance::Withdrawn(revision, name) => Body::ServiceRemoved(proto::ServiceRemoved {
                revision: revision.0,
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
            }),
            Utterance::FullEnd(revision) => Body::FullEnd(proto::FullEnd { revision: revision.0 }),
            Utterance::Reached(revision) => Body::Heartbeat(proto::Heartbeat { revision: revision.0 }),
            Utterance::Farewell { by, relationship } => Body::Removed(proto::Removed {
                by: by.to_string(),
                relationship: relationship.as_bytes().to_vec(),
            }),
        })
    }
}

/// Our first words: who we are, in which life, and what we hold of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub cluster: ClusterName,
    pub epoch: u64,
    pub held: Option<Position>,
    /// Sequence and digest of the peer's bundle.
    pub bundle: Option<(Option<u64>, Vec<u8>)>,
}

impl From<Greeting> for Message {
    fn from(said: Greeting) -> Self {
        let held =
            said.held.map(|Position { epoch, revision }| proto::Position { epoch, revision: revision.0 });
        let bundle = said.bundle.map(|(sequence, sha256)| proto::HeldBundle { sequence, sha256 });
        let cluster = said.cluster.to_string();
        wire::message(Body::Hello(proto::Hello {
            protocol: PROTOCOL,
            cluster,
            epoch: said.epoch,
            held,
            bundle,
        }))
    }
}

/// What one peer has been told on this stream, and when it may be told more.
#[derive(Debug)]
pub struct Speaker {
    peer: ClusterName,
    /// How far the peer has been sent our exports.
    sent: Option<Revision>,
    /// The exports may have changed since.
    dirty: bool,
    pace: TokenBucket,
}

/// What is to be said at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flush {
    pub said: Vec<Utterance>,
    /// Exports that did not fit.
    pub left_out: usize,
}

impl Speaker {
    /// A stream begins; `held` is what the peer holds of this life of ours.
    pub fn new(peer: ClusterName, held: Option<Revision>, updates: Rate, now: Instant) -> Self {
        Self { peer, sent: held, dirty: true, pace: TokenBucket::new(updates, now) }
    }

    /// There is another snapshot.
    pub fn note_change(&mut self) {
        self.dirty = true;
    }

    /// When `flush` is due, if there may be something to say.
    pub fn due_at(&self, now: Instant) -> Option<Instant> {
        self.dirty.then(|| self.pace.ready_at(now))
    }

    /// What was reached, for the peer to know whether it has everything.
    ///
    /// Before our sources have spoken nothing is claimed; the stream is alive nevertheless.
    pub fn heartbeat(&self) -> Utterance {
        Utterance::Reached(self.sent.unwrap_or_default())
    }

    /// Everything that has changed, all of it at once; then the rate counts.
    pub fn flush(&mut self, snapshot: &Snapshot, exports: &mut ExportLog, now: Instant) -> Flush {
        self.dirty = false;
        // Before our sources have spoken, what we offer is not nothing but unknown (E24).
        if snapshot.generation == Generation::default() {
            return Flush::default();
        }
        let view = View::of(snapshot, &self.peer);
        let left_out = view.left_out;
        exports.update(view);
        let (mut said, sent) = utterances(exports.since(self.sent));
        if let Some(revision) = sent {
            self.sent = Some(revision);
            self.pace.take(now);
            said.push(self.heartbeat());
        }
        Flush { said, left_out }
    }
}

/// The words for a plan, and where they lead to, if anywhere.
fn utterances(plan: Plan) -> (Vec<Utterance>, Option<Revision>) {
    match plan {
        Plan::Full(revision, offers) => {
            let offers = offers.into_iter().map(|(revision, offer)| Utterance::Offered(revision, offer));
            let said = std::iter::once(Utterance::FullBegin).chain(offers);
            (said.chain([Utterance::FullEnd(revision)]).collect(), Some(revision))
        }
        Plan::Steps(steps) => {
            let sent = steps.last().map(|step| match step {
                Step::Offered(revision, _) | Step::Withdrawn(revision, _) => *revision,
            });
            let said = steps.into_iter().map(|step| match step {
                Step::Offered(revision, offer) => Utterance::Offered(revision, offer),
                Step::Withdrawn(revision, name) => Utterance::Withdrawn(revision, name),
            });
            (said.collect(), sent)
        }
    }
}
