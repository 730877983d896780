//! What the receiving half wants to have said, for the sending half to say.
//!
//! A newer acknowledgement takes the place of an older one, and refusals are few, so that a peer that
//! sends much and reads nothing costs no memory here.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::peering::proto::{self, Message, message::Body};
use crate::peering::wire;
use crate::store::Revision;

/// Refusals that wait to be said; the peer's operator needs no more to begin with.
const REFUSALS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Replies {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    acknowledge: Option<Revision>,
    refusals: Vec<(Revision, String)>,
}

impl Replies {
    pub(super) fn acknowledge(&self, revision: Revision) {
        self.waiting.lock().acknowledge = Some(revision);
        self.wake.notify_one();
    }

    pub(super) fn refuse(&self, revision: Revision, reason: String) {
        let mut waiting = self.waiting.lock();
        if waiting.refusals.len() < REFUSALS_MAX {
            waiting.refusals.push((revision, reason));
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Wakes when there is something to say.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes what is to be said, together with the bundle that is in use by now.
    pub(super) fn take(&self, bundle_sha256: Vec<u8>) -> Vec<Message> {
        let Waiting { acknowledge, refusals } = std::mem::take(&mut *self.waiting.lock());
        let refusals = refusals
            .into_iter()
            .map(|(revision, reason)| Body::Nack(proto::Nack { revision: revision.0, reason }));
        let ack = acknowledge.map(|revision| Body::Ack(proto::Ack { revision: revision.0, bundle_sha256 }));
        refusals.chain(ack).map(wire::message).collect()
    }
}
