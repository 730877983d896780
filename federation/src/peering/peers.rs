//! The peers that this process knows, and what its tasks share about each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use trust_bundle::{SpiffeId, TrustDomain};

use super::exports::ExportLog;
use super::imports::Imports;
use super::records::PeerRecord;
use super::seat::{Claim, Dialled};
use super::us::random;
use crate::model::{ClusterName, Freshness, RelationshipState};
use crate::store::Revision;

/// All peers, by name.
#[derive(Debug, Default)]
pub(super) struct Peers {
    by_name: Mutex<BTreeMap<ClusterName, Arc<PeerState>>>,
}

impl Peers {
    pub(super) fn get(&self, name: &ClusterName) -> Option<Arc<PeerState>> {
        self.by_name.lock().get(name).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<PeerState>> {
        self.by_name.lock().values().cloned().collect()
    }

    /// The active peer that this identity may speak for.
    pub(super) fn speaker(&self, id: &SpiffeId) -> Option<Arc<PeerState>> {
        self.all().into_iter().find(|peer| {
            let record = peer.record().record;
            record.peer.federation_id == *id && record.peer.state == RelationshipState::Active
        })
    }

    pub(super) fn of_trust_domain(&self, trust_domain: &TrustDomain) -> Option<Arc<PeerState>> {
        self.all().into_iter().find(|peer| peer.record().record.peer.trust_domain == *trust_domain)
    }

    /// Puts a peer in, in place of what was known under its name; that one's tasks end.
    pub(super) fn put(&self, peer: Arc<PeerState>) {
        if let Some(former) = self.by_name.lock().insert(peer.name.clone(), peer) {
            former.over.cancel();
        }
    }

    pub(super) fn take(&self, name: &ClusterName) -> Option<Arc<PeerState>> {
        let peer = self.by_name.lock().remove(name);
        if let Some(peer) = &peer {
            peer.over.cancel();
        }
        peer
    }
}

/// One peer.
#[derive(Debug)]
pub(super) struct PeerState {
    pub(super) name: ClusterName,
    known: watch::Sender<Known>,
    /// Held by the one stream that may receive.
    pub(super) imports: Arc<tokio::sync::Mutex<Imports>>,
    /// The life of `exports`, whose revisions belong to it: a relationship that begins anew begins
    /// another one, or a peer that still holds the former would take the two for one.
    pub(super) epoch: u64,
    pub(super) exports: Mutex<ExportLog>,
    seat: watch::Sender<Option<Seat>>,
    seats: AtomicU64,
    pub(super) said: Mutex<Said>,
    /// How far we have the peer's exports, and how many.
    pub(super) received: Mutex<(Option<Revision>, usize)>,
    pub(super) freshness: Mutex<Freshness>,
    /// A write of the relationship failed and may have happened all the same: it is read again before
    /// the next stream.
    pub(super) doubted: AtomicBool,
    /// The relationship is over, or has been replaced.
    pub(super) over: CancellationToken,
}

/// A relationship as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    pub(super) record: PeerRecord,
    pub(super) revision: Revision,
}

/// What the peer has told us of what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) revision: Option<Revision>,
    pub(super) bundle_sha256: Option<[u8; 32]>,
    pub(super) refusal: Option<String>,
}

/// The stream that is in place.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    number: u64,
    pub(super) claim: Claim,
    cancel: CancellationToken,
    /// Where the last message of the relationship is asked for.
    farewell: tokio::sync::mpsc::Sender<oneshot::Sender<()>>,
}

impl PeerState {
    pub(super) fn new(known: Known, imports: Imports, stop: &CancellationToken) -> Arc<Self> {
        let received = (imports.held().map(|held| held.revision), imports.services().len());
        Arc::new(Self {
            received: Mutex::new(received),
            name: known.record.peer.name.clone(),
            known: watch::Sender::new(known),
            imports: Arc::new(tokio::sync::Mutex::new(imports)),
            epoch: u64::from_be_bytes(random()),
            exports: Mutex::default(),
            seat: watch::Sender::new(None),
            seats: AtomicU64::new(0),
            said: Mutex::default(),
            freshness: Mutex::new(Freshness::Suspect),
            doubted: AtomicBool::new(false),
            over: stop.child_token(),
        })
    }

    pub(super) fn record(&self) -> Known {
        self.known.borrow().clone()
    }

    pub(super) fn set_record(&self, known: Known) {
        self.known.send_replace(known);
    }

    /// A write of the relationship has failed.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// Wakes when the relationship, or where the peer can be dialled, has changed.
    pub(super) fn records(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    pub(super) fn is_active(&self) -> bool {
        self.known.borrow().record.peer.state == RelationshipState::Active
    }

    /// Wakes when a stream takes its place or leaves it.
    pub(super) fn seats(&self) -> watch::Receiver<Option<Seat>> {
        self.seat.subscribe()
    }

    /// Takes the place of the one stream, unless another one has the better claim.
    pub(super) fn take_seat(self: &Arc<Self>, us: &ClusterName, claim: Claim) -> Option<Seated> {
        let number = self.seats.fetch_add(1, Ordering::Relaxed);
        let (farewell, farewells) = tokio::sync::mpsc::channel(1);
        let cancel = self.over.child_token();
        let seat = Seat { number, claim, cancel: cancel.clone(), farewell };
        let taken = self.seat.send_if_modified(|there| {
            let free = there.as_ref().is_none_or(|there| claim.beats(there.claim, us, &self.name));
            if free && let Some(former) = there.replace(seat) {
                former.cancel.cancel();
            }
            free
        });
        taken.then(|| Seated { peer: self.clone(), number, cancel, farewells })
    }
}

impl Seat {
    pub(super) fn dialled(&self) -> Dialled {
        self.claim.dialled
    }

    /// Asks the stream to say goodbye; returns what wakes once it is said or the stream is gone.
    pub(super) fn say_farewell(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        // Full means that it has been asked already.
        drop(self.farewell.try_send(done));
        wait
    }
}

/// The place of the one stream, for as long as this is held.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) peer: Arc<PeerState>,
    number: u64,
    /// Another stream has taken the place, or the relationship is over.
    pub(super) cancel: CancellationToken,
    pub(super) farewells: tokio::sync::mpsc::Receiver<oneshot::Sender<()>>,
}

impl Seated {
    /// Notes the peer's epoch once it has said it.
    pub(super) fn set_epoch(&self, epoch: u64) {
        self.peer.seat.send_if_modified(|there| {
            if let Some(seat) = there.as_mut().filter(|seat| seat.number == self.number) {
                seat.claim.epoch = Some(epoch);
            }
            false
        });
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.peer.seat.send_if_modified(|there| {
            let ours = there.as_ref().is_some_and(|seat| seat.number == self.number);
            if ours {
                *there = None;
            }
            ours
        });
    }
}
