//! The sending half: our bundle, our gateways, our exports to this peer, heartbeats, replies.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::{Session, StreamEnd};
use crate::pace::TokenBucket;
use crate::peering::exports::{Plan, Step, View};
use crate::peering::proto::{self, message::Body};
use crate::peering::us::instant;
use crate::peering::wire;
use crate::snapshot::Generation;
use crate::store::Revision;

/// What the sending half remembers.
struct Sending {
    /// How far the peer has been sent our exports.
    sent: Option<Revision>,
    /// The exports may have changed since.
    dirty: bool,
    pace: TokenBucket,
}

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
        let pace = TokenBucket::new(self.us.deps.settings.updates, instant());
        let mut sending = Sending { sent: self.theirs.held, dirty: true, pace };
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                changed = snapshots.changed() => {
                    changed.map_err(|_closed| StreamEnd::Stopping)?;
                    sending.dirty = true;
                }
                () = sleep_until(sending.pace.ready_at(instant())), if sending.dirty => {
                    snapshots.mark_unchanged();
                    self.flush(&mut sending).await?;
                }
                changed = bundles.changed() => {
                    changed.map_err(|_closed| StreamEnd::Stopping)?;
                    self.send_bundle().await?;
                }
                () = self.replies.wait() => self.send_replies().await?,
                _ = heartbeats.tick() => self.send_heartbeat(sending.sent).await?,
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

    /// Sends what has changed, all of it at once; then the rate counts.
    async fn flush(&self, sending: &mut Sending) -> Result<(), StreamEnd> {
        let Some(plan) = self.plan(sending.sent) else {
            sending.dirty = false;
            return Ok(());
        };
        sending.dirty = false;
        let sent = match plan {
            Plan::Full(revision, offers) => {
                self.say(Body::FullBegin(proto::FullBegin {})).await?;
                for (revision, offer) in offers {
                    self.say(Body::Service(wire::service(revision.0, &offer))).await?;
                }
                self.say(Body::FullEnd(proto::FullEnd { revision: revision.0 })).await?;
                Some(revision)
            }
            Plan::Steps(steps) => self.send_steps(steps).await?,
        };
        if let Some(revision) = sent {
            sending.sent = Some(revision);
            sending.pace.take(instant());
            // What was reached is said at once, so that the receiver knows whether it has everything.
            self.send_heartbeat(sending.sent).await?;
        }
        Ok(())
    }

    /// Computes the way from what was sent to what is offered now; `None` before there is anything.
    fn plan(&self, sent: Option<Revision>) -> Option<Plan> {
        let snapshot = self.us.deps.snapshot.borrow().clone();
        if snapshot.generation == Generation::default() {
            return None;
        }
        let view = View::of(&snapshot, &self.peer.name);
        if view.left_out > 0 {
            tracing::warn!(peer = %self.peer.name, left_out = view.left_out, "too many exports for one peer");
        }
        let mut exports = self.peer.exports.lock();
        exports.update(view);
        Some(exports.since(sent))
    }

    async fn send_steps(&self, steps: Vec<Step>) -> Result<Option<Revision>, StreamEnd> {
        let mut sent = None;
        for step in steps {
            let (revision, body) = match step {
                Step::Offered(revision, offer) => {
                    (revision, Body::Service(wire::service(revision.0, &offer)))
                }
                Step::Withdrawn(revision, name) => {
                    let (namespace, name) = (name.namespace.to_string(), name.name.to_string());
                    (
                        revision,
                        Body::ServiceRemoved(proto::ServiceRemoved { revision: revision.0, namespace, name }),
                    )
                }
            };
            self.say(body).await?;
            sent = Some(revision);
        }
        Ok(sent)
    }

    async fn send_heartbeat(&self, sent: Option<Revision>) -> Result<(), StreamEnd> {
        // Before our sources have spoken nothing is claimed; the stream is alive nevertheless.
        let revision = sent.unwrap_or_default().0;
        self.say(Body::Heartbeat(proto::Heartbeat { revision })).await
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
        let by = self.us.deps.cluster.to_string();
        self.say(Body::Removed(proto::Removed { by })).await?;
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

async fn sleep_until(then: Instant) {
    tokio::time::sleep_until(then.into()).await;
}
