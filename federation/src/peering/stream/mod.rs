//! The peering stream: what two clusters tell each other for as long as their relationship lasts.
//!
//! ```text
//!   Hello ⇄ Hello                      who, which life, what is held of each other
//!   send:    bundle, gateways, then everything or the steps since what is held; changes; heartbeats
//!   receive: judge ─► make durable ─► tell catalog and membership ─► acknowledge
//! ```
//! There is one stream for each pair of clusters, whoever dialled it (`seat`). Both halves run side by
//! side, so that two peers that have much to say never wait for each other. A stream ends at a message
//! boundary: what was begun to be stored is stored, and told. It ends before the certificates that it
//! was authenticated with do; the dialler has made the next one by then.

mod bundle;
mod hello;
mod persist;
mod receive;
mod replies;
mod send;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use trust_bundle::Connection;

use super::imports::{Imports, Violation};
use super::membership;
use super::peers::{PeerState, Seated};
use super::proto::Message;
use super::us::Us;
use crate::clock;
use crate::store::{CommitError, Fault, Revision};
use replies::Replies;

pub(super) use hello::{Introduction, hear, say};

/// The version of the protocol that this program speaks.
pub(super) const PROTOCOL: u32 = 1;
/// The largest message (notes/trust 4.4).
pub(super) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Messages that wait for the connection; more would only hide that the peer is slow.
pub(super) const OUTBOUND_MAX: usize = 32;
/// How long each side has for its first message.
pub(super) const HELLO_TIME: Duration = Duration::from_secs(5);

/// One stream, after both have said hello.
pub(super) struct Session {
    us: Arc<Us>,
    seated: Seated,
    peer: Arc<PeerState>,
    theirs: Introduction,
    outbound: mpsc::Sender<Message>,
    replies: Replies,
    /// Ends both halves.
    stop: CancellationToken,
}

/// What a stream runs on.
pub(super) struct Line {
    pub(super) inbound: Streaming<Message>,
    /// Our entry in the registry, which may be cut.
    pub(super) connection: Arc<Connection>,
    /// When the first of the two certificates ceases to be valid.
    pub(super) valid_until: UnixTime,
}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum StreamEnd {
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
        Self::Lost(super::wire::shown(status.message()))
    }
}

impl Session {
    pub(super) fn new(
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
    pub(super) async fn run(mut self, mut imports: OwnedMutexGuard<Imports>, line: Line) -> StreamEnd {
        let Line { inbound, connection, valid_until } = line;
        imports.begin(self.theirs.epoch);
        let mut farewells = std::mem::replace(&mut self.seated.farewells, mpsc::channel(1).1);
        let held = imports.held().filter(|held| held.epoch == self.theirs.epoch);
        let holds = held.map_or(Revision::default(), |held| held.revision);
        self.us.sight(&self.peer.name, membership::Event::Holds(holds)).await;
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
