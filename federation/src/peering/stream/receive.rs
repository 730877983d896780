//! The receiving half: every message is judged, made durable, told, and acknowledged, in this order.

use std::collections::BTreeMap;

use futures::StreamExt;
use tonic::{Status, Streaming};

use super::{Session, StreamEnd, bundle};
use crate::catalog::Event;
use crate::clock;
use crate::pace::TokenBucket;
use crate::peering::conversation::{self, Heard};
use crate::peering::imports::{Changed, Imports};
use crate::peering::membership;
use crate::peering::proto::{self, Message, message::Body};
use crate::peering::us::instant;
use crate::peering::wire;
use crate::store::Revision;

/// Messages that are taken at once and stored together.
const BATCH_MAX: usize = 64;

/// What a message made us do; a peer may only ask for so much of it in a time.
enum Cost {
    Read,
    /// Storing, verifying, or a line in the log.
    More,
}

impl Session {
    /// Receives until the stream is stopped; `None` if it was.
    pub(super) async fn receive(
        &self,
        inbound: Streaming<Message>,
        imports: &mut Imports,
    ) -> Option<StreamEnd> {
        let mut batches = inbound.ready_chunks(BATCH_MAX);
        let mut intake = TokenBucket::new(self.us.deps.settings.intake, instant());
        loop {
            let silence = self.us.deps.settings.silence_max;
            // Only here the half may be stopped: a batch that was begun is finished.
            let batch = tokio::select! {
                () = self.stop.cancelled() => return None,
                batch = tokio::time::timeout(silence, batches.next()) => batch,
            };
            let costly = match batch {
                Err(_elapsed) => return Some(StreamEnd::Silent),
                Ok(None) => return Some(StreamEnd::Closed),
                Ok(Some(batch)) => match self.take(batch, imports).await {
                    Ok(costly) => costly,
                    Err(end) => return Some(end),
                },
            };
            if costly && !intake.take(instant()) {
                let ready = intake.ready_at(instant());
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    () = tokio::time::sleep_until(ready.into()) => {}
                }
                intake.take(instant());
            }
        }
    }

    /// Takes messages that came together; says whether that made more work than reading them (T16).
    async fn take(
        &self,
        batch: Vec<Result<Message, Status>>,
        imports: &mut Imports,
    ) -> Result<bool, StreamEnd> {
        // Worked on a copy, so that what could not be stored has not happened.
        let mut next = imports.draft();
        let mut changed = Changed::default();
        let (mut end, mut costly) = (None, false);
        for message in batch {
            match self.judge(message, &mut next, &mut changed).await {
                Ok(Cost::Read) => {}
                Ok(Cost::More) => costly = true,
                Err(ended) => {
                    end = Some(ended);
                    break;
                }
            }
        }
        let position = changed.position;
        if let Some(position) = position {
            if let Err(failed) = self.persist(&changed).await {
                imports.doubt(&changed);
                return Err(failed);
            }
            *imports = next;
            self.announce(imports, changed).await?;
            self.us.sight(&self.peer.name, membership::Event::Holds(position.revision)).await;
            *self.peer.received.lock() = (Some(position.revision), imports.services().len());
            self.replies.acknowledge(position.revision);
        } else {
            // Staged services count for nothing yet, but the next batch goes on with them.
            *imports = next;
        }
        match end {
            None => Ok(costly || position.is_some()),
            Some(StreamEnd::Removed) => {
                *imports = Imports::new(self.peer.name.clone(), None, BTreeMap::new());
                *self.peer.received.lock() = (None, 0);
                self.us.ended_by_peer(&self.peer, clock::timestamp_now()).await?;
                Err(StreamEnd::Removed)
            }
            Some(end) => Err(end),
        }
    }

    async fn judge(
        &self,
        message: Result<Message, Status>,
        imports: &mut Imports,
        changed: &mut Changed,
    ) -> Result<Cost, StreamEnd> {
        let Message { critical, body } = message?;
        let Some(body) = body else {
            return if critical { Err(StreamEnd::UnknownCritical) } else { Ok(Cost::Read) };
        };
        match conversation::hear(body, imports, changed)? {
            Heard::Exports => Ok(Cost::Read),
            Heard::Refused(revision, refusal) => {
                self.refuse(revision, refusal.to_string());
                Ok(Cost::More)
            }
            Heard::Reached(revision) => {
                self.us.sight(&self.peer.name, membership::Event::Reached(revision)).await;
                Ok(Cost::Read)
            }
            Heard::Farewell(said) if !conversation::ends(&said, &self.peer.record().record) => {
                Err(StreamEnd::Replaced)
            }
            Heard::Farewell(_) => {
                tracing::warn!(target: "isthmus::audit", peer = %self.peer.name, "the peer ended the relationship");
                Err(StreamEnd::Removed)
            }
            Heard::Other(body) => self.judge_other(body, imports).await,
        }
    }

    async fn judge_other(&self, body: Body, imports: &Imports) -> Result<Cost, StreamEnd> {
        match body {
            Body::Bundle(said) => self.take_bundle(said, imports).await?,
            Body::Gateways(said) => self.take_gateways(&said).await?,
            Body::Nack(said) => self.note_nack(&said),
            Body::Ack(said) => {
                self.note_ack(&said);
                return Ok(Cost::Read);
            }
            Body::Hello(_) => return Err(StreamEnd::Hello("hello was said twice".to_owned())),
            // Heard before.
            Body::Service(_)
            | Body::ServiceRemoved(_)
            | Body::FullBegin(_)
            | Body::FullEnd(_)
            | Body::Heartbeat(_)
            | Body::Removed(_) => return Ok(Cost::Read),
        }
        Ok(Cost::More)
    }

    async fn take_bundle(&self, said: proto::Bundle, imports: &Imports) -> Result<(), StreamEnd> {
        match bundle::take(&self.us, &self.peer, said).await {
            Ok(()) => {
                let held = imports.held().map_or(Revision::default(), |held| held.revision);
                self.replies.acknowledge(held);
                Ok(())
            }
            Err(bundle::NotTaken::Foreign(domain)) => {
                tracing::error!(target: "isthmus::audit", peer = %self.peer.name, claimed = %domain, "a peer sent a bundle of another trust domain");
                Err(StreamEnd::ForeignBundle(domain))
            }
            Err(bundle::NotTaken::Refused(refused)) => {
                tracing::error!(target: "isthmus::audit", peer = %self.peer.name, reason = %refused, "a bundle of a peer was refused");
                self.refuse(Revision::default(), refused.to_string());
                Ok(())
            }
            Err(bundle::NotTaken::Store(error)) => Err(error.into()),
        }
    }

    async fn take_gateways(&self, said: &proto::Gateways) -> Result<(), StreamEnd> {
        let mut record = self.peer.record().record;
        let gateways = self.us.deps.address_rules.admit(wire::gateways(&said.addresses), record.near);
        if gateways.len() < said.addresses.len() {
            let refused = said.addresses.len() - gateways.len();
            tracing::warn!(peer = %self.peer.name, refused, "gateway addresses of a peer are not dialled");
        }
        if record.peer.gateways != gateways {
            record.peer.gateways = gateways;
            self.us.change(&self.peer, record).await?;
        }
        Ok(())
    }

    fn note_ack(&self, said: &proto::Ack) {
        let mut noted = self.peer.said.lock();
        noted.revision = Some(Revision(said.revision));
        noted.bundle_sha256 = said.bundle_sha256.as_slice().try_into().ok();
    }

    fn note_nack(&self, said: &proto::Nack) {
        let reason = wire::shown(&said.reason);
        tracing::warn!(peer = %self.peer.name, revision = said.revision, reason, "the peer refused what we sent");
        self.peer.said.lock().refusal = Some(reason);
    }

    fn refuse(&self, revision: Revision, reason: String) {
        tracing::warn!(peer = %self.peer.name, %revision, reason, "refused what the peer sent");
        self.replies.refuse(revision, reason);
    }

    pub(super) async fn tell(&self, event: Event) -> Result<(), StreamEnd> {
        Ok(self.us.tell(event).await?)
    }
}
