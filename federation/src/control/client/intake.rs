//! Takes states in: what is trusted first, then the snapshot that needs it, then what is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use trust_bundle::{Bundle, Registry, TrustDomain, TrustStore};

use super::super::state::{Delta, Held, InvalidState, Position, STATE_BYTES_MAX, State};
use crate::clock;
use crate::snapshot::{Generation, Snapshot};

/// What the gateway holds, and where it is published.
#[derive(Debug)]
pub(super) struct Intake {
    own: TrustDomain,
    trust: TrustStore,
    registry: Registry,
    snapshots: watch::Sender<Arc<Snapshot>>,
    held: Held,
    position: Option<Position>,
}

/// A change that is on its way in.
#[derive(Debug)]
pub(super) struct Arriving {
    position: Position,
    length: usize,
    bytes: BytesMut,
}

impl Arriving {
    pub(super) fn new(position: Position, length: usize) -> Self {
        // Not reserved as announced: room is made for what really comes.
        Self { position, length: length.min(STATE_BYTES_MAX), bytes: BytesMut::new() }
    }

    /// Whether more has come than was announced.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.len() + bytes.len() <= self.length && !bytes.is_empty();
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        !fits
    }

    pub(super) fn is_complete(&self) -> bool {
        self.bytes.len() == self.length
    }
}

/// A change with its outcome, ready to be published.
pub(super) struct Arrived {
    held: Held,
    position: Position,
    state: State,
}

impl Intake {
    pub(super) fn new(
        own: TrustDomain,
        trust: TrustStore,
        registry: Registry,
        snapshots: watch::Sender<Arc<Snapshot>>,
        state: Option<State>,
    ) -> Result<Self, InvalidState> {
        let (mut held, mut position) = (Held::default(), None);
        if let Some(state) = &state {
            held = Held::of(state, clock::unix_now())?;
            position = Some(Position { generation: state.generation(), digest: held.digest() });
            // Made of what is held, so that what a change leaves alone stays shared.
            snapshots.send_replace(held.state(state.generation())?.snapshot);
        }
        let intake = Self { own, trust, registry, snapshots, held, position };
        if let Some(state) = state {
            let refused = intake.believe(&state.bundles);
            intake.believe_at_last(refused);
        }
        Ok(intake)
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    pub(super) fn generation(&self) -> Generation {
        self.position.map(|position| position.generation).unwrap_or_default()
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Reads a complete change, away from the threads that serve requests.
    pub(super) fn read(
        &self,
        arriving: Arriving,
        full: bool,
    ) -> impl Future<Output = Result<Arrived, InvalidState>> + use<> {
        let held = if full { Held::default() } else { self.held.clone() };
        let Arriving { position, bytes, .. } = arriving;
        let bytes: Bytes = bytes.freeze();
        let reading = spawn_blocking(move || {
            let delta = Delta::parse(&bytes)?;
            let held = held.apply_announced(&delta, position.digest, clock::unix_now())?;
            let state = held.state(position.generation)?;
            Ok(Arrived { held, position, state })
        });
        async move { reading.await.unwrap_or_else(|ended| Err(InvalidState::Ended(ended.to_string()))) }
    }

    /// Publishes a state: no snapshot is seen before what it needs is trusted.
    pub(super) fn publish(&mut self, arrived: Arrived) {
        let Arrived { held, position, state } = arrived;
        let refused = self.believe(&state.bundles);
        self.snapshots.send_if_modified(|current| {
            let newer = state.snapshot.generation > current.generation;
            if newer {
                *current = Arc::clone(&state.snapshot);
            }
            newer
        });
        self.disbelieve(&state.bundles);
        self.believe_at_last(refused);
        (self.held, self.position) = (held, Some(position));
    }

    /// Puts in what is new; returns what could not be put yet.
    fn believe(&self, bundles: &BTreeMap<TrustDomain, Arc<Bundle>>) -> Vec<Arc<Bundle>> {
        let trusted = self.trust.load();
        let news = bundles.values().filter(|bundle| {
            trusted.bundle(bundle.trust_domain()).is_none_or(|held| held.digest() != bundle.digest())
        });
        news.filter(|bundle| self.trust.put(Bundle::clone(bundle)).is_err()).cloned().collect()
    }

    /// What is gone is no longer trusted, and its connections end.
    fn disbelieve(&self, bundles: &BTreeMap<TrustDomain, Arc<Bundle>>) {
        for bundle in self.trust.load().bundles() {
            let domain = bundle.trust_domain();
            if !bundles.contains_key(domain) && *domain != self.own {
                self.trust.remove(domain);
            }
        }
        self.cut();
    }

    /// A peer that has begun anew, with another authority or an older number, was judged by the leader.
    fn believe_at_last(&self, refused: Vec<Arc<Bundle>>) {
        for bundle in refused {
            if *bundle.trust_domain() != self.own {
                self.trust.remove(bundle.trust_domain());
            }
            if let Err(conflict) = self.trust.put(Bundle::clone(&bundle)) {
                tracing::error!(trust_domain = %bundle.trust_domain(), %conflict, "a bundle of the leader is not believed");
            }
            self.cut();
        }
    }

    fn cut(&self) {
        let trusted = self.trust.load();
        let cut = self.registry.cut(|open| open.peer().is_some_and(|peer| !trusted.vouches_for(peer)));
        if cut > 0 {
            tracing::info!(connections = cut, "cut, because their identity is no longer trusted");
        }
    }
}

impl std::fmt::Debug for Arrived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrived").field("position", &self.position).finish_non_exhaustive()
    }
}
