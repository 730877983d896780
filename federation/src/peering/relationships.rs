//! Relationships in the store, in what we trust, in the catalog, and in the tasks of this process.
//!
//! A relationship is stored first and acted upon afterwards, so that a crash in between leaves what the
//! next start reads. Its end takes everything of the peer with it in one transaction: bundle, imports,
//! and at once every connection whose identity is of its trust domain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::pki_types::UnixTime;
use trust_bundle::{Bundle, TrustDomain};

use super::conversation::{self, Loaded, Reread};
use super::imports::Imports;
use super::membership;
use super::peers::{Known, PeerState};
use super::records::{BundleRecord, PeerRecord};
use super::us::Us;
use crate::catalog::Event;
use crate::clock;
use crate::model::{ClusterName, RelationshipState, Timestamp};
use crate::store::keys::{self, Place};
use crate::store::{
    CommitError, Entry, Fault, InvalidValue, Key, LeaseId, Revision, Stored, Transaction, codec, list_all,
};

/// What is stored cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("cannot read {key}: {reason}")]
    Value { key: Key, reason: InvalidValue },
}

/// A stored value with the revision that it has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held<T> {
    pub(super) value: T,
    pub(super) revision: Revision,
    pub(super) lease: Option<LeaseId>,
}

impl<T: Stored> Held<T> {
    /// Puts another value in its place if nobody else has done so; it keeps its lease.
    pub(super) fn replaced_by(&self, place: &Place, value: &T) -> Transaction {
        let (key, bytes) = (place.key(), encode(value));
        let transaction = Transaction::new().when(key.clone(), self.revision);
        match self.lease {
            Some(lease) => transaction.put_leased(key, bytes, lease),
            None => transaction.put(key, bytes),
        }
    }
}

impl Us {
    /// Reads one value; `None` where there is none.
    pub(super) async fn read<T: Stored>(&self, place: &Place) -> Result<Option<Held<T>>, LoadError> {
        let entry = self.deps.store.get(&place.key()).await?;
        entry.map(|entry| decode(&entry)).transpose()
    }

    /// Reads all relationships; the catalog is told when the tasks begin.
    pub(super) async fn load(&self, now: UnixTime) -> Result<(), LoadError> {
        let listing = list_all(&*self.deps.store, &keys::peers()).await?;
        for entry in &listing.entries {
            let Held { value: record, revision, .. } = decode::<PeerRecord>(entry)?;
            if record.peer.state == RelationshipState::Active {
                self.load_bundle(&record, now).await?;
            }
            let imports = self.load_imports(&record.peer.name).await?;
            self.peers.put(PeerState::new(Known { record, revision }, imports, &self.stop));
        }
        Ok(())
    }

    async fn load_bundle(&self, record: &PeerRecord, now: UnixTime) -> Result<(), LoadError> {
        let domain = &record.peer.trust_domain;
        let Some(held) = self.read::<BundleRecord>(&Place::Bundle(domain.clone())).await? else {
            tracing::error!(peer = %record.peer.name, "the peer has no bundle and cannot be believed");
            return Ok(());
        };
        let trusted = match held.value.read(domain.clone(), now) {
            Ok(bundle) => self.deps.trust.put(bundle).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = trusted {
            tracing::error!(peer = %record.peer.name, reason, "the stored bundle of the peer is of no use");
        }
        Ok(())
    }

    async fn load_imports(&self, peer: &ClusterName) -> Result<Imports, LoadError> {
        let listing = list_all(&*self.deps.store, &keys::imports_of(peer)).await?;
        let loaded = conversation::load(peer, &listing.entries);
        let Loaded { imports, unknown } = loaded.map_err(|(key, reason)| LoadError::Value { key, reason })?;
        if unknown > 0 {
            tracing::warn!(%peer, unknown, "unknown keys below imports");
        }
        Ok(imports)
    }

    /// Tells catalog and membership of a peer with everything that is held of it.
    pub(super) async fn announce(&self, peer: &PeerState) -> Result<(), Fault> {
        let imports = peer.imports.lock().await.services().clone();
        self.tell(Event::PeerChanged(peer.record().record.peer)).await?;
        self.tell(Event::ImportsReplaced { peer: peer.name.clone(), imports }).await?;
        if peer.is_active() {
            self.sight(&peer.name, membership::Event::Known).await;
        }
        Ok(())
    }

    /// Makes a relationship: durable first, then trusted, then known to everybody here.
    ///
    /// The caller holds `changing` and adds what else must be true and change with it.
    pub(super) async fn establish(
        self: &Arc<Self>,
        record: PeerRecord,
        bundle: Bundle,
        also: Transaction,
    ) -> Result<Arc<PeerState>, CommitError> {
        let (name, domain) = (record.peer.name.clone(), record.peer.trust_domain.clone());
        let bundle_record = BundleRecord::of(&bundle, name.clone());
        let transaction = conversation::established(&record, &bundle_record, also);
        let committed = self.deps.store.commit(transaction).await;
        if committed.is_err()
            && let Some(former) = self.peers.get(&name)
        {
            former.doubt();
        }
        let revision = committed?;
        // A relationship that begins anew begins with the bundle of its join, whatever was held before.
        self.deps.trust.remove(&domain);
        if let Err(conflict) = self.deps.trust.put(bundle) {
            tracing::error!(peer = %name, %conflict, "a bundle that was checked is not taken");
        }
        let imports = Imports::new(name, None, BTreeMap::new());
        let peer = PeerState::new(Known { record, revision }, imports, &self.stop);
        self.peers.put(peer.clone());
        self.announce(&peer).await?;
        self.serve(&peer);
        Ok(peer)
    }

    /// Stores a changed relationship, unless it has changed otherwise meanwhile.
    pub(super) async fn change(&self, peer: &PeerState, record: PeerRecord) -> Result<(), CommitError> {
        let transaction = conversation::changed(&record, peer.record().revision);
        let revision = self.deps.store.commit(transaction).await.inspect_err(|_failed| peer.doubt())?;
        peer.set_record(Known { record: record.clone(), revision });
        Ok(self.tell(Event::PeerChanged(record.peer)).await?)
    }

    /// The peer has ended the relationship: it is shown as such, and nothing of it is believed any more.
    pub(super) async fn ended_by_peer(&self, peer: &PeerState, at: Timestamp) -> Result<(), CommitError> {
        let Known { record, revision } = peer.record();
        let (record, transaction) = conversation::ended(record, revision, at);
        let revision = self.deps.store.commit(transaction).await.inspect_err(|_failed| peer.doubt())?;
        Ok(self.show_ended(peer, Known { record, revision }).await?)
    }

    async fn show_ended(&self, peer: &PeerState, known: Known) -> Result<(), Fault> {
        let shown = known.record.peer.clone();
        peer.set_record(known);
        self.sight(&peer.name, membership::Event::Forgotten).await;
        self.tell(Event::ImportsReplaced { peer: peer.name.clone(), imports: BTreeMap::new() }).await?;
        self.tell(Event::PeerChanged(shown.clone())).await?;
        self.distrust(&shown.trust_domain);
        Ok(())
    }

    /// Before a stream begins: reads again what a failed write may have changed; says whether there still
    /// is this relationship.
    pub(super) async fn refresh(self: &Arc<Self>, peer: &PeerState) -> Result<bool, LoadError> {
        if !peer.doubted.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let _alone = self.changing.lock().await;
        let found = self.read::<PeerRecord>(&Place::Peer(peer.name.clone())).await?;
        let found = found.map(|held| (held.value, held.revision));
        let Known { record, revision } = peer.record();
        let goes_on = match conversation::reread((&record, revision), found) {
            Reread::Same => true,
            Reread::Changed(record, revision) if record.peer.state == RelationshipState::Active => {
                peer.set_record(Known { record: record.clone(), revision });
                self.tell(Event::PeerChanged(record.peer)).await?;
                true
            }
            Reread::Changed(record, revision) => {
                self.show_ended(peer, Known { record, revision }).await?;
                false
            }
            Reread::Anew(record, revision) => {
                self.distrust(&record.peer.trust_domain);
                self.load_bundle(&record, clock::unix_now()).await?;
                let imports = Imports::new(peer.name.clone(), None, BTreeMap::new());
                let anew = PeerState::new(Known { record, revision }, imports, &self.stop);
                self.peers.put(anew.clone());
                self.announce(&anew).await?;
                self.serve(&anew);
                false
            }
            Reread::Gone => {
                self.forget(peer).await?;
                false
            }
        };
        peer.doubted.store(false, Ordering::Relaxed);
        Ok(goes_on)
    }

    /// Deletes a relationship and everything that came with it.
    pub(super) async fn delete(&self, peer: &PeerState) -> Result<(), CommitError> {
        let record = peer.record().record;
        self.deps.store.commit(conversation::deleted(&record)).await.inspect_err(|_failed| peer.doubt())?;
        Ok(self.forget(peer).await?)
    }

    async fn forget(&self, peer: &PeerState) -> Result<(), Fault> {
        self.peers.take(&peer.name);
        self.distrust(&peer.record().record.peer.trust_domain);
        self.sight(&peer.name, membership::Event::Forgotten).await;
        self.tell(Event::PeerRemoved(peer.name.clone())).await
    }

    /// Believes a trust domain no longer, on connections that are open included.
    fn distrust(&self, domain: &TrustDomain) {
        self.deps.trust.remove(domain);
        let cut =
            self.deps.registry.cut(|open| open.peer().is_some_and(|peer| peer.trust_domain() == domain));
        tracing::info!(trust_domain = %domain, connections = cut, "no longer trusted");
    }
}

fn decode<T: Stored>(entry: &Entry) -> Result<Held<T>, LoadError> {
    match codec::decode(&entry.value) {
        Ok(value) => Ok(Held { value, revision: entry.revision, lease: entry.lease }),
        Err(reason) => Err(LoadError::Value { key: entry.key.clone(), reason }),
    }
}

/// Encodes one of our own records.
pub(super) fn encode<T: Stored>(value: &T) -> Vec<u8> {
    codec::encode(value).expect("our records are made of texts and numbers, with texts as keys")
}
