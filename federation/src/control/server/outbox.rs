//! What one gateway is owed: heartbeats, answers, and the way to the newest state; pure.
//!
//! A transfer that is under way is finished; then the way from what was sent to what is newest by then
//! is the next one. So a gateway is never owed more than one change, however slow it is.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::control::message::{CHUNK_BYTES, position_said};
use crate::control::proto::from_federation::Body;
use crate::control::proto::{Chunk, Heartbeat, Signed, Update};
use crate::control::state::{Chunks, Parts, Position, diff};

/// Answers that wait; there are no more requests under way at a time.
pub(super) const ANSWERS_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// What the gateway holds once all that was begun has arrived.
    sent: Option<Arc<Parts>>,
    transfer: Option<Transfer>,
    answers: VecDeque<Signed>,
    heartbeat: bool,
}

#[derive(Debug)]
struct Transfer {
    begin: Option<Update>,
    chunks: Chunks,
}

impl Outbox {
    /// What the gateway said that it holds is still known here.
    pub(super) fn holds(&mut self, held: Arc<Parts>) {
        self.sent = Some(held);
    }

    /// Begins to send the newest state, unless something is being sent or nothing is new.
    ///
    /// `stands_at` is where a gateway is that has told its position and was sent nothing yet.
    pub(super) fn offer(&mut self, newest: &Arc<Parts>, stands_at: Option<Position>) {
        let at = stands_at.or_else(|| self.sent.as_ref().map(|sent| sent.position()));
        if self.transfer.is_some() || self.sent.is_some() && at == Some(newest.position()) {
            return;
        }
        let delta = match &self.sent {
            Some(sent) => diff(sent, newest),
            None => newest.full(),
        };
        let begin = Update {
            base: self.sent.as_ref().map(|sent| position_said(sent.position())),
            position: Some(position_said(newest.position())),
            length: delta.length() as u64,
        };
        self.transfer = Some(Transfer { begin: Some(begin), chunks: delta.chunks() });
        self.sent = Some(Arc::clone(newest));
    }

    /// The gateway has nothing that a change could be made of.
    pub(super) fn resync(&mut self) {
        self.sent = None;
        self.transfer = None;
    }

    pub(super) fn answer(&mut self, answer: Signed) {
        self.answers.push_back(answer);
    }

    pub(super) fn beat(&mut self) {
        self.heartbeat = true;
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.heartbeat && self.answers.is_empty() && self.transfer.is_none()
    }

    /// The next message; heartbeats and answers go between the chunks of a large state.
    pub(super) fn next(&mut self) -> Option<Body> {
        if std::mem::take(&mut self.heartbeat) {
            return Some(Body::Heartbeat(Heartbeat {}));
        }
        if let Some(answer) = self.answers.pop_front() {
            return Some(Body::Signed(answer));
        }
        let transfer = self.transfer.as_mut()?;
        if let Some(begin) = transfer.begin.take() {
            if begin.length == 0 {
                self.transfer = None;
            }
            return Some(Body::Update(begin));
        }
        let bytes = transfer.chunks.next(CHUNK_BYTES);
        if transfer.chunks.is_empty() {
            self.transfer = None;
        }
        Some(Body::Chunk(Chunk { bytes: bytes.to_vec() }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::state::State;
    use crate::model::Locality;
    use crate::snapshot::{Generation, LocalCluster, Snapshot};

    fn parts(generation: u64, region: &str) -> Arc<Parts> {
        let cluster = LocalCluster {
            name: "a".try_into().unwrap(),
            trust_domain: "a.example".try_into().unwrap(),
            locality: Locality { region: region.to_owned(), ..Locality::default() },
            gateways: None,
        };
        let snapshot = Snapshot { generation: Generation(generation), ..Snapshot::empty(Arc::new(cluster)) };
        Arc::new(Parts::encode(State { snapshot: Arc::new(snapshot), bundles: BTreeMap::new() }, None))
    }

    fn said(outbox: &mut Outbox) -> Vec<&'static str> {
        let word = |body: Body| match body {
            Body::Update(update) if update.base.is_none() => "full",
            Body::Update(_) => "change",
            Body::Chunk(_) => "chunk",
            Body::Heartbeat(_) => "heartbeat",
            Body::Signed(_) => "signed",
            Body::NotLeader(_) => "not leader",
        };
        std::iter::from_fn(|| outbox.next()).map(word).collect()
    }

    #[test]
    fn a_slow_gateway_is_owed_one_change() {
        let large = "x".repeat(3 * CHUNK_BYTES);
        let mut outbox = Outbox::default();
        outbox.offer(&parts(1, &large), None);
        assert!(matches!(outbox.next(), Some(Body::Update(_))));
        for generation in 2..100 {
            outbox.offer(&parts(generation, &large), None);
        }
        outbox.beat();
        assert_eq!(said(&mut outbox), ["heartbeat", "chunk", "chunk", "chunk", "chunk"]);
        outbox.offer(&parts(100, "small"), None);
        assert_eq!(said(&mut outbox), ["change", "chunk"]);
        outbox.offer(&parts(100, "small"), None);
        assert!(outbox.is_empty());
    }

    #[test]
    fn another_generation_of_the_same_content_costs_no_chunk() {
        let mut outbox = Outbox::default();
        outbox.holds(parts(1, "x"));
        let newest = parts(2, "x");
        outbox.offer(&newest, Some(parts(1, "x").position()));
        assert_eq!(said(&mut outbox), ["change"]);
        outbox.offer(&newest, None);
        assert!(outbox.is_empty());
    }

    #[test]
    fn who_lost_its_place_gets_everything() {
        let mut outbox = Outbox::default();
        outbox.holds(parts(1, "x"));
        outbox.offer(&parts(2, "y"), None);
        outbox.resync();
        assert!(outbox.is_empty());
        outbox.offer(&parts(2, "y"), None);
        assert_eq!(said(&mut outbox), ["full", "chunk"]);
    }
}
