//! A stream while it lasts: both halves side by side, and what ends them.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use trust_bundle::Connection;

use super::replies::Replies;
use crate::clock;
use crate::peering::conversation::Introduction;
use crate::peering::imports::{Imports, Violation};
use crate::peering::membership;
use crate::peering::peers::{PeerState, Seated};
use crate::peering::proto::Message;
use crate::peering::us::Us;
use crate::peering::wire;
use crate::store::{CommitError, Fault};

/// One stream, after both have said hello.
pub(in crate::peering) struct Session {
    pub(super) us: Arc<Us>,
    seated: Seated,
    pub(super) peer: Arc<PeerState>,
    pub(super) theirs: Introduction,
    pub(super) outbound: mpsc::Sender<Message>,
    pub(super) replies: Replies,
    /// Ends both halves.
    pub(super) stop: CancellationToken,
}

/// What a stream runs on.
pub(in crate::peering) struct Line {
    pub(in crate::peering) inbound: Streaming<Message>,
    /// Our entry in the registry, which may be cut.
    pub(in crate::peering) connection: Arc<Connection>,
    /// When the first of the two certificates ceases to be valid.
    pub(in crate::peering) valid_until: UnixTime,
}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::peering) enum StreamEnd {
    #[error("the peer has closed the stream")]
    Closed,
    #[error("the connection is lost: {0}")]
    Lost(String),
    #[error("another stream with this peer has taken its place, or the relationship is over")]
    Replaced,
    #[error("the connection was cut because trust has changed")]
    Cut,
    #[error("a certificate has reached its end")]
    Expired,
    #[error("nothing came for too long")]
    Silent,
    #[error("the peer takes no messages")]
    Stalled,
    #[error("there is no hello, or not the one that was expected: {0}")]
    Hello(String),
    #[error("the peer ended the relationship")]
    Removed,
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the peer sent a bundle of {0:?}, which is not its own")]
    ForeignBundle(String),
    #[error("the peer sent something that must not be ignored and that this version does not know")]
    UnknownCritical,
    #[error("this process is going down")]
    Stopping,
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl From<Fault> for StreamEnd {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

impl From<Status> for StreamEnd {
    fn from(status: Status) -> Self {
        Self::Lost(wire::shown(status.message()))
    }
}

impl Session {
    pub(in crate::peering) fn new(
        us: Arc<Us>,
        seated: Seated,
        theirs: Introduction,
        outbound: mpsc::Sender<Message>,
    ) -> Self {
        let (peer, stop) = (seated.peer.clone(), seated.cancel.child_token());
        seated.set_epoch(theirs.epoch);
        Self { us, seated, peer, theirs, outbound, replies: Replies::default(), stop }
    }

    /// Runs both halves until one of them ends.
    pub(in crate::peering) async fn run(
        mut self,
        mut imports: OwnedMutexGuard<Imports>,
        line: Line,
    ) -> StreamEnd {
        let Line { inbound, connection, valid_until } = line;
        imports.begin(self.theirs.epoch);
        let mut farewells = std::mem::replace(&mut self.seated.farewells, mpsc::channel(1).1);
        let resumes = membership::Event::Resumes(imports.held_of_this_life());
        self.us.sight(&self.peer.name, resumes).await;
        let ended = |end: Option<StreamEnd>| {
            self.stop.cancel();
            end
        };
        let (received, sent, watched) = tokio::join!(
            async { ended(self.receive(inbound, &mut imports).await) },
            async { ended(self.send(&mut farewells).await) },
            async { ended(self.watch(&connection, valid_until).await) },
        );
        // The first to end has stopped the others, which then only say that they were stopped.
        [received, sent, watched].into_iter().flatten().next().unwrap_or(StreamEnd::Replaced)
    }

    /// Waits for what ends a stream from outside.
    async fn watch(&self, connection: &Connection, valid_until: UnixTime) -> Option<StreamEnd> {
        let left = valid_until.as_secs().saturating_sub(clock::unix_now().as_secs());
        tokio::select! {
            () = self.stop.cancelled() => None,
            () = connection.cut_token().cancelled() => Some(StreamEnd::Cut),
            () = tokio::time::sleep(Duration::from_secs(left)) => Some(StreamEnd::Expired),
        }
    }
}
