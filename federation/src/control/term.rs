//! What the leader has for gateways: its newest state in encoded form, and where what they say goes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use trust_bundle::TrustStore;

use super::nodes::Nodes;
use super::state::{Digest, Parts, State};
use super::{Gateways, SigningRequest};
use crate::model::GatewayAddress;
use crate::peering::HandedOver;
use crate::snapshot::{Generation, Snapshot};

/// States that a gateway may come back with and be sent only what changed since.
const REMEMBERED_MAX: usize = 8;

/// Whether this process leads, as its control listener needs to know.
#[derive(Debug, Clone)]
pub enum Standing {
    Leading(Arc<Term>),
    /// Where the leader listens for gateways; empty if nobody is known to lead.
    Following {
        leaders: Vec<GatewayAddress>,
    },
}

/// What a term is made of; the composition root makes one each time this process takes the lead.
#[derive(Debug)]
pub struct TermDeps {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Our own bundle and those of all peers: what gateways shall trust.
    pub trust: TrustStore,
    pub signer: mpsc::Sender<SigningRequest>,
    pub gateways: Gateways,
    /// Connections of peers that gateways pass on; when it is full, they are dropped.
    pub handover: mpsc::Sender<HandedOver>,
    /// Redeems node tokens; none where no new gateway may come.
    pub nodes: Option<Nodes>,
}

/// The time for which this process leads.
pub struct Term {
    pub(super) deps: TermDeps,
    states: watch::Sender<Feed>,
}

/// The newest states, the newest last; empty before the sources have spoken.
#[derive(Debug, Clone, Default)]
pub(super) struct Feed {
    states: VecDeque<Arc<Parts>>,
}

impl Feed {
    pub(super) fn newest(&self) -> Option<&Arc<Parts>> {
        self.states.back()
    }

    /// The state that a gateway holds, if it is remembered.
    pub(super) fn with_digest(&self, digest: &Digest) -> Option<&Arc<Parts>> {
        self.states.iter().rev().find(|parts| parts.digest() == *digest)
    }

    fn push(&mut self, parts: Arc<Parts>) {
        if self.states.len() >= REMEMBERED_MAX {
            self.states.pop_front();
        }
        self.states.push_back(parts);
    }
}

impl Term {
    pub fn new(deps: TermDeps) -> Arc<Self> {
        Arc::new(Self { deps, states: watch::channel(Feed::default()).0 })
    }

    pub(super) fn feed(&self) -> watch::Receiver<Feed> {
        self.states.subscribe()
    }

    /// Encodes whatever is new, at the pace at which it can be encoded; goes on until it is dropped.
    pub(super) async fn encode(&self) {
        let (mut snapshots, mut trusted) = (self.deps.snapshots.clone(), self.deps.trust.subscribe());
        loop {
            trusted.borrow_and_update();
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if snapshot.generation > Generation::default() {
                self.publish(State::new(snapshot, &self.deps.trust)).await;
            }
            tokio::select! {
                Ok(()) = snapshots.changed() => {}
                Ok(()) = trusted.changed() => {}
                else => std::future::pending().await,
            }
        }
    }

    async fn publish(&self, state: State) {
        let before = self.states.borrow().newest().cloned();
        let held = before.clone();
        let encoded = spawn_blocking(move || Parts::encode(state, before.as_deref())).await;
        let parts = match encoded {
            Ok(parts) => Arc::new(parts),
            Err(error) => return tracing::error!(%error, "a state was not encoded"),
        };
        if held.is_some_and(|held| held.position() == parts.position()) {
            return;
        }
        self.deps.gateways.publish(parts.position());
        self.states.send_modify(|feed| feed.push(parts));
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term").finish_non_exhaustive()
    }
}
