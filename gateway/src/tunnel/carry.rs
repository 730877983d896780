//! One opaque stream from its client to its destination, and its line in the access log.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::copy::{Copied, copy, reset};
use super::open::{Opened, open};
use crate::answer::Refusal;
use crate::clock;
use crate::connection::{ConnectionIo, Entry, Transport};
use crate::context::Caller;
use crate::destination::Destination;
use crate::plane::Plane;
use crate::recording::{self, Trail};
use crate::snapshot::View;
use crate::telemetry::{Flag, ResponseFlags};

/// A stream whose destination is known.
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    plane: &'a Plane,
    view: &'a View,
    destination: &'a Destination,
    entry: Arc<Entry>,
    caller: Caller,
    began: SystemTime,
    started: Instant,
}

impl<'a> Errand<'a> {
    pub(crate) fn new(
        plane: &'a Plane,
        view: &'a View,
        destination: &'a Destination,
        entry: Arc<Entry>,
        caller: Caller,
    ) -> Self {
        let (began, started) = (clock::wall(), clock::now());
        Self { plane, view, destination, entry, caller, began, started }
    }

    /// Connects to the far end; what fails here is recorded.
    pub(crate) async fn open(&self) -> Result<Opened, Refusal> {
        let opened = match self.plane.admit(self.entry.kind.entrance()) {
            Ok(admission) => open(self.plane, self.view, self.destination, &self.caller, admission).await,
            Err(refusal) => Err(refusal),
        };
        match &opened {
            Ok(opened) => {
                let record = self.trail(Some(opened), None, ResponseFlags::NONE).record(0, 0, None);
                self.plane.metrics.opened(self.view, &record);
            }
            Err(refusal) => {
                let record = self.trail(None, Some(refusal), ResponseFlags::NONE).record(0, 0, None);
                recording::finish(self.plane, self.view, &record);
            }
        }
        opened
    }

    /// Copies until the stream has ended, and records it.
    pub(crate) async fn copy<S: Transport>(&self, io: ConnectionIo<S>, mut opened: Opened) {
        let Some(far) = opened.stream.take() else { return };
        let link = far.link().cloned();
        let (Copied { received, sent }, ended) = copy(io, far).await;
        let flags = match &ended {
            Ok(()) => ResponseFlags::NONE,
            Err(_) => ResponseFlags::from(Flag::LocalReset),
        };
        let upstream_identity = link.as_ref().and_then(|link| link.peer()).map(|peer| peer.id());
        let trail = Trail { upstream_identity, ..self.trail(Some(&opened), None, flags) };
        let record = trail.record(received, sent, None);
        recording::finish(self.plane, self.view, &record);
    }

    fn trail<'b>(
        &'b self,
        opened: Option<&'b Opened>,
        refusal: Option<&'b Refusal>,
        flags: ResponseFlags,
    ) -> Trail<'b> {
        Trail {
            view: self.view,
            entry: &self.entry,
            caller: &self.caller,
            began: self.began,
            started: self.started,
            destination: Some(self.destination),
            target: opened.map(|opened| (&opened.target, opened.why)),
            upstream_identity: None,
            attempts: opened.map_or(0, |opened| opened.tried.len() + 1),
            refusal,
            flags,
        }
    }
}

/// Connects a client that gets no answer but bytes, and closes on it where that cannot be done.
pub(crate) async fn carry<S: Transport>(
    plane: &Plane,
    view: &View,
    destination: &Destination,
    io: ConnectionIo<S>,
) {
    let entry = io.facts().entry().clone();
    let caller = Caller::of_client(&entry, &view.snapshot.cluster.trust_domain);
    let errand = Errand::new(plane, view, destination, entry, caller);
    match errand.open().await {
        Ok(opened) => errand.copy(io, opened).await,
        Err(_recorded) => reset(io.get_ref()),
    }
}
