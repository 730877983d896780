//! What a peer's messages have changed, made durable and then told to the catalog.

use std::sync::Arc;

use super::{Session, StreamEnd};
use crate::catalog::Event;
use crate::model::{Import, ServiceName};
use crate::peering::imports::{Changed, Imports};
use crate::peering::records::SyncRecord;
use crate::peering::relationships::encode;
use crate::store::keys::Place;
use crate::store::{OPERATIONS_MAX, TRANSACTION_BYTES_MAX, Transaction, VALUE_BYTES_MAX};

/// More changes than this are told as everything at once, which costs the catalog less.
const TOLD_ONE_BY_ONE_MAX: usize = 32;
/// What the first and the last of several transactions need beside the services.
const OPERATIONS_SPARE: usize = 4;

impl Session {
    /// Stores changes, and the position that they lead to, before anybody hears of them.
    pub(super) async fn persist(&self, after: &Imports, changed: Changed) -> Result<(), StreamEnd> {
        let sync = Place::ImportSync(self.peer.name.clone()).key();
        let known = Place::Peer(self.peer.name.clone()).key();
        let chunks = self.chunks(&changed);
        let last = chunks.len() - 1;
        for (index, mut transaction) in chunks.into_iter().enumerate() {
            // Not for a relationship that has ended, or has begun anew, meanwhile.
            transaction = transaction.when(known.clone(), self.peer.record().revision);
            transaction = match changed.position {
                Some(position) if index == last => {
                    transaction.put(sync.clone(), encode(&SyncRecord { position }))
                }
                // Between the first and the last it is neither the old nor the new: a restart asks for all.
                _ if index == 0 => transaction.delete(sync.clone()),
                _ => transaction,
            };
            self.us.deps.store.commit(transaction).await?;
        }
        self.announce(after, changed).await
    }

    /// Always at least one, which may have nothing but the position to store.
    fn chunks(&self, changed: &Changed) -> Vec<Transaction> {
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
            chunks.push(self.with(chunk, name, import));
        }
        chunks
    }

    fn with(
        &self,
        transaction: Transaction,
        name: &ServiceName,
        import: Option<&Arc<Import>>,
    ) -> Transaction {
        let key = Place::Import(self.peer.name.clone(), name.clone()).key();
        match import {
            Some(import) => transaction.put(key, encode(&**import)),
            None => transaction.delete(key),
        }
    }

    async fn announce(&self, after: &Imports, changed: Changed) -> Result<(), StreamEnd> {
        let peer = self.peer.name.clone();
        if changed.put.len() + changed.removed.len() > TOLD_ONE_BY_ONE_MAX {
            let imports = after.services().clone();
            return self.tell(Event::ImportsReplaced { peer, imports }).await;
        }
        for service in changed.removed {
            self.tell(Event::ImportRemoved { peer: peer.clone(), service }).await?;
        }
        for import in changed.put.into_values() {
            self.tell(Event::ImportChanged(import)).await?;
        }
        Ok(())
    }
}
