//! Relationships in the store, in what we trust, in the catalog, and in the tasks of this process.
//!
//! A relationship is stored first and acted upon afterwards, so that a crash in between leaves what the
//! next start reads. Its end takes everything of the peer with it in one transaction: bundle, imports,
//! and at once every connection whose identity is of its trust domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use trust_bundle::{Bundle, TrustDomain};

use super::imports::Imports;
use super::membership;
use super::peers::{Known, PeerState};
use super::records::{BundleRecord, PeerRecord, SyncRecord};
use super::us::Us;
use crate::catalog::Event;
use crate::model::{ClusterName, Import, RelationshipState, ServiceName, Timestamp};
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
        let mut services: BTreeMap<ServiceName, Arc<Import>> = BTreeMap::new();
        let mut position = None;
        for entry in &listing.entries {
            match Place::try_from(&entry.key) {
                Ok(Place::ImportSync(_)) => position = Some(decode::<SyncRecord>(entry)?.value.position),
                Ok(Place::Import(_, service)) => {
                    services.insert(service, Arc::new(decode::<Import>(entry)?.value));
                }
                _ => tracing::warn!(key = %entry.key, "unknown key below imports"),
            }
        }
        Ok(Imports::new(peer.clone(), position, services))
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
        let transaction = also
            .delete_prefix(keys::imports_of(&name))
            .put(Place::Peer(name.clone()).key(), encode(&record))
            .put(Place::Bundle(domain.clone()).key(), encode(&bundle_record));
        let revision = self.deps.store.commit(transaction).await?;
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
        let key = Place::Peer(peer.name.clone()).key();
        let held = peer.record();
        let transaction = Transaction::new().when(key.clone(), held.revision).put(key, encode(&record));
        let revision = self.deps.store.commit(transaction).await?;
        peer.set_record(Known { record: record.clone(), revision });
        Ok(self.tell(Event::PeerChanged(record.peer)).await?)
    }

    /// The peer has ended the relationship: it is shown as such, and nothing of it is believed any more.
    pub(super) async fn ended_by_peer(&self, peer: &PeerState, at: Timestamp) -> Result<(), CommitError> {
        let mut record = peer.record().record;
        record.peer.state = RelationshipState::RemovedByPeer { at };
        let key = Place::Peer(peer.name.clone()).key();
        let transaction = Transaction::new()
            .when(key.clone(), peer.record().revision)
            .put(key, encode(&record))
            .delete(Place::Bundle(record.peer.trust_domain.clone()).key())
            .delete_prefix(keys::imports_of(&peer.name));
        let revision = self.deps.store.commit(transaction).await?;
        peer.set_record(Known { record: record.clone(), revision });
        self.sight(&peer.name, membership::Event::Forgotten).await;
        self.tell(Event::ImportsReplaced { peer: peer.name.clone(), imports: BTreeMap::new() }).await?;
        self.tell(Event::PeerChanged(record.peer.clone())).await?;
        self.distrust(&record.peer.trust_domain);
        Ok(())
    }

    /// Deletes a relationship and everything that came with it.
    pub(super) async fn delete(&self, peer: &PeerState) -> Result<(), CommitError> {
        let domain = peer.record().record.peer.trust_domain;
        let transaction = Transaction::new()
            .delete(Place::Peer(peer.name.clone()).key())
            .delete(Place::Bundle(domain.clone()).key())
            .delete_prefix(keys::imports_of(&peer.name));
        self.deps.store.commit(transaction).await?;
        self.peers.take(&peer.name);
        self.distrust(&domain);
        self.sight(&peer.name, membership::Event::Forgotten).await;
        Ok(self.tell(Event::PeerRemoved(peer.name.clone())).await?)
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
