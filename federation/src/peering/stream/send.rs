//! The sending half: our bundle, our gateways, our exports to this peer, heartbeats, replies.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::{Session, StreamEnd};
use crate::peering::conversation::{Flush, Speaker, Utterance};
use crate::peering::proto::{self, message::Body};
use crate::peering::us::instant;
use crate::peering::wire;

impl Session {
    /// Sends until the stream is stopped; `None` if it was.
    pub(super) async fn send(
        &self,
        farewells: &mut mpsc::Receiver<oneshot::Sender<()>>,
    ) -> Option<StreamEnd> {
        self.send_all(farewells).await.err()
    }

    async fn send_all(&self, farewells: &mut mpsc::Receiver<oneshot::Sender<()>>) -> Result<(), StreamEnd> {
        let mut snapshots = self.us.deps.snapshot.clone();
        let mut bundles = self.us.deps.bundle.clone();
        bundles.mark_unchanged();
        self.begin().await?;
        let mut heartbeats = tokio::time::interval(self.us.deps.settings.heartbeat);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (name, updates) = (self.peer.name.clone(), self.us.deps.settings.updates);
        let mut speaker = Speaker::new(name, self.theirs.held, updates, instant());
        loop {
            let due = speaker.due_at(instant());
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                changed = snapshots.changed() => {
                    changed.map_err(|_closed| StreamEnd::Stopping)?;
                    speaker.note_change();
                }
                () = sleep_until(due) => {
                    snapshots.mark_unchanged();
                    self.flush(&mut speaker).await?;
                }
                changed = bundles.changed() => {
                    changed.map_err(|_closed| StreamEnd::Stopping)?;
                    self.send_bundle().await?;
                }
                () = self.replies.wait() => self.send_replies().await?,
                _ = heartbeats.tick() => self.put(speaker.heartbeat().into()).await?,
                Some(done) = farewells.recv() => self.send_farewell(done).await?,
            }
        }
    }

    async fn begin(&self) -> Result<(), StreamEnd> {
        let ours = self.us.bundle();
        if self.theirs.bundle_sequence > ours.sequence() {
            tracing::error!(
                peer = %self.peer.name, theirs = self.theirs.bundle_sequence, ours = ours.sequence(),
                "the peer holds a newer bundle of ours than we do; hint: was the store restored from a backup?"
            );
        }
        if self.theirs.bundle_sha256.as_deref() != Some(&ours.digest()[..]) {
            self.send_bundle().await?;
        } else {
            self.peer.said.lock().bundle_sha256 = Some(ours.digest());
        }
        let addresses = wire::gateways_said(&self.us.deps.advertise);
        self.say(Body::Gateways(proto::Gateways { addresses })).await
    }

    async fn send_bundle(&self) -> Result<(), StreamEnd> {
        let ours = self.us.bundle();
        self.say(Body::Bundle(proto::Bundle {
            trust_domain: ours.trust_domain().to_string(),
            sequence: ours.sequence(),
            jwks: ours.to_json(),
            sha256: ours.digest().to_vec(),
        }))
        .await
    }

    /// Sends what has changed, all of it at once.
    async fn flush(&self, speaker: &mut Speaker) -> Result<(), StreamEnd> {
        let snapshot = self.us.deps.snapshot.borrow().clone();
        let Flush { said, left_out } = speaker.flush(&snapshot, &mut self.peer.exports.lock(), instant());
        if left_out > 0 {
            tracing::warn!(peer = %self.peer.name, left_out, "too many exports for one peer");
        }
        for utterance in said {
            self.put(utterance.into()).await?;
        }
        Ok(())
    }

    async fn send_replies(&self) -> Result<(), StreamEnd> {
        let domain = self.peer.record().record.peer.trust_domain;
        let digest = self.us.deps.trust.load().bundle(&domain).map(|bundle| bundle.digest().to_vec());
        for reply in self.replies.take(digest.unwrap_or_default()) {
            self.put(reply).await?;
        }
        Ok(())
    }

    async fn send_farewell(&self, done: oneshot::Sender<()>) -> Result<(), StreamEnd> {
        let relationship = self.peer.record().record.relationship;
        self.put(Utterance::Farewell { by: self.us.deps.cluster.clone(), relationship }.into()).await?;
        // The peer closes when it has read it; whoever waits is woken when this half ends.
        self.stop.cancelled().await;
        // Whoever asked may have lost patience.
        let _lost_patience = done.send(());
        Ok(())
    }

    async fn say(&self, body: Body) -> Result<(), StreamEnd> {
        self.put(wire::message(body)).await
    }

    async fn put(&self, message: proto::Message) -> Result<(), StreamEnd> {
        tokio::select! {
            () = self.stop.cancelled() => Err(StreamEnd::Replaced),
            sent = self.outbound.send(message) => sent.map_err(|_closed| StreamEnd::Closed),
            () = tokio::time::sleep(self.us.deps.settings.silence_max) => Err(StreamEnd::Stalled),
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
