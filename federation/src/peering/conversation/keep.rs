//! What is made durable of a relationship, in which transactions, and what is told afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Event;
use crate::model::{ClusterName, Import, RelationshipState, ServiceName, Timestamp};
use crate::peering::imports::{Changed, Imports};
use crate::peering::records::{BundleRecord, PeerRecord, SyncRecord};
use crate::store::keys::{self, Place};
use crate::store::{
    Entry, InvalidValue, OPERATIONS_MAX, Revision, Stored, TRANSACTION_BYTES_MAX, Transaction,
    VALUE_BYTES_MAX, codec,
};

/// More changes than this are told as everything at once, which costs the catalog less.
const TOLD_ONE_BY_ONE_MAX: usize = 32;
/// What the first and the last of several transactions need beside the services.
const OPERATIONS_SPARE: usize = 4;

/// The transactions that make changes durable, and the position that they lead to; to be committed in
/// this order before anybody hears of them.
pub fn transactions(peer: &ClusterName, relationship: Revision, changed: &Changed) -> Vec<Transaction> {
    let sync = Place::ImportSync(peer.clone()).key();
    let known = Place::Peer(peer.clone()).key();
    let mut chunks = chunks(peer, changed);
    let last = chunks.len() - 1;
    for (index, chunk) in chunks.iter_mut().enumerate() {
        // Not for a relationship that has ended, or has begun anew, meanwhile.
        let transaction = std::mem::take(chunk).when(known.clone(), relationship);
        *chunk = match changed.position {
            Some(position) if index == last => {
                transaction.put(sync.clone(), encode(&SyncRecord { position }))
            }
            // Between the first and the last it is neither the old nor the new: a restart asks for all.
            _ if index == 0 => transaction.delete(sync.clone()),
            _ => transaction,
        };
    }
    chunks
}

/// Always at least one, which may have nothing but the position to store.
fn chunks(peer: &ClusterName, changed: &Changed) -> Vec<Transaction> {
    let mut chunks = vec![Transaction::new()];
    let removed = changed.removed.iter().map(|name| (name, None));
    let put = changed.put.iter().map(|(name, import)| (name, Some(import)));
    for (name, import) in removed.chain(put) {
        let mut chunk = chunks.pop().unwrap_or_default();
        if chunk.len() + OPERATIONS_SPARE >= OPERATIONS_MAX
            || chunk.bytes() + 2 * VALUE_BYTES_MAX >= TRANSACTION_BYTES_MAX
        {
            chunks.push(std::mem::take(&mut chunk));
        }
        chunks.push(with(chunk, peer, name, import));
    }
    chunks
}

fn with(
    transaction: Transaction,
    peer: &ClusterName,
    name: &ServiceName,
    import: Option<&Arc<Import>>,
) -> Transaction {
    let key = Place::Import(peer.clone(), name.clone()).key();
    match import {
        Some(import) => transaction.put(key, encode(&**import)),
        None => transaction.delete(key),
    }
}

/// What the catalog is told once the changes are durable.
pub fn news(peer: &ClusterName, after: &Imports, changed: Changed) -> Vec<Event> {
    if changed.put.len() + changed.removed.len() > TOLD_ONE_BY_ONE_MAX {
        let imports = after.services().clone();
        return vec![Event::ImportsReplaced { peer: peer.clone(), imports }];
    }
    let removed =
        changed.removed.into_iter().map(|service| Event::ImportRemoved { peer: peer.clone(), service });
    removed.chain(changed.put.into_values().map(Event::ImportChanged)).collect()
}

/// A relationship begins, with nothing of a former one.
pub fn established(record: &PeerRecord, bundle: &BundleRecord, also: Transaction) -> Transaction {
    let Peered { peer, bundle: place } = Peered::of(record);
    also.delete_prefix(keys::imports_of(&record.peer.name))
        .put(peer.key(), encode(record))
        .put(place.key(), encode(bundle))
}

/// What is agreed in a relationship changed, unless it has changed otherwise meanwhile.
pub fn changed(record: &PeerRecord, held: Revision) -> Transaction {
    let key = Place::Peer(record.peer.name.clone()).key();
    Transaction::new().when(key.clone(), held).put(key, encode(record))
}

/// The peer has ended the relationship: it is shown as such, and nothing of it stays.
pub fn ended(mut record: PeerRecord, held: Revision, at: Timestamp) -> (PeerRecord, Transaction) {
    record.peer.state = RelationshipState::RemovedByPeer { at };
    let transaction = changed(&record, held)
        .delete(Peered::of(&record).bundle.key())
        .delete_prefix(keys::imports_of(&record.peer.name));
    (record, transaction)
}

/// A relationship goes, with everything that came with it.
pub fn deleted(record: &PeerRecord) -> Transaction {
    let Peered { peer, bundle } = Peered::of(record);
    Transaction::new()
        .delete(peer.key())
        .delete(bundle.key())
        .delete_prefix(keys::imports_of(&record.peer.name))
}

/// Where a relationship is kept.
struct Peered {
    peer: Place,
    bundle: Place,
}

impl Peered {
    fn of(record: &PeerRecord) -> Self {
        let peer = Place::Peer(record.peer.name.clone());
        Self { peer, bundle: Place::Bundle(record.peer.trust_domain.clone()) }
    }
}

/// What was read back of a peer's exports, and the entries that are none of ours.
#[derive(Debug)]
pub struct Loaded {
    pub imports: Imports,
    pub unknown: usize,
}

/// Reads back what is held of a peer.
pub fn load(peer: &ClusterName, entries: &[Entry]) -> Result<Loaded, (crate::store::Key, InvalidValue)> {
    let mut services: BTreeMap<ServiceName, Arc<Import>> = BTreeMap::new();
    let (mut position, mut unknown) = (None, 0);
    for entry in entries {
        match Place::try_from(&entry.key) {
            Ok(Place::ImportSync(_)) => position = Some(read::<SyncRecord>(entry)?.position),
            Ok(Place::Import(_, service)) => drop(services.insert(service, Arc::new(read::<Import>(entry)?))),
            _ => unknown += 1,
        }
    }
    Ok(Loaded { imports: Imports::new(peer.clone(), position, services), unknown })
}

fn read<T: Stored>(entry: &Entry) -> Result<T, (crate::store::Key, InvalidValue)> {
    codec::decode(&entry.value).map_err(|reason| (entry.key.clone(), reason))
}

/// Encodes one of our own records.
fn encode<T: Stored>(value: &T) -> Vec<u8> {
    codec::encode(value).expect("our records are made of texts and numbers, with texts as keys")
}

/// What a relationship is found to be, after a write of it failed and may have happened all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reread {
    Same,
    /// What is agreed in it is another than was known.
    Changed(PeerRecord, Revision),
    /// It is another relationship with the same peer.
    Anew(PeerRecord, Revision),
    Gone,
}

/// Compares what is known of a relationship with what the store says.
pub fn reread(known: (&PeerRecord, Revision), found: Option<(PeerRecord, Revision)>) -> Reread {
    match found {
        None => Reread::Gone,
        Some((_, revision)) if revision == known.1 => Reread::Same,
        Some((record, revision)) if record.relationship == known.0.relationship => {
            Reread::Changed(record, revision)
        }
        Some((record, revision)) => Reread::Anew(record, revision),
    }
}
