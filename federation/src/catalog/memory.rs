//! The store's part of the catalog: reads back what is remembered, and makes durable what must be.

use std::sync::Arc;

use tracing::warn;

use super::{AddressPool, Catalog, Effects, Event, Recollection};
use crate::store::keys;
use crate::store::{CommitError, Fault, Store, Transaction, list_all};

#[derive(Debug)]
pub(super) struct Memory {
    store: Arc<dyn Store>,
    recollection: Recollection,
}

impl Memory {
    /// Reads back what was remembered; the events tell it to the catalog.
    pub(super) async fn recall(
        store: Arc<dyn Store>,
        pool: AddressPool,
    ) -> Result<(Self, Vec<Event>), Fault> {
        let mut recollection = Recollection::new(pool);
        let mut events = Vec::new();
        for prefix in [keys::documents(), keys::addresses(), keys::claims()] {
            for entry in list_all(&*store, &prefix).await?.entries {
                match recollection.recall(&entry) {
                    Ok(event) => events.extend(event),
                    Err(error) => {
                        warn!(key = entry.key.as_str(), %error, "a stored value cannot be read; it is left out");
                    }
                }
            }
        }
        Ok((Self { store, recollection }, events))
    }

    pub(super) fn date(&mut self, event: &mut Event) {
        self.recollection.date(event);
    }

    /// Makes durable what the catalog asks for; the events answer it.
    ///
    /// What was kept before a fault is told all the same.
    pub(super) async fn remember(
        &mut self,
        effects: &Effects,
        catalog: &Catalog,
    ) -> (Vec<Event>, Result<(), Fault>) {
        let mut events = Vec::new();
        let mut owed = self.recollection.owed(effects);
        while let Some(write) = self.recollection.next(&mut owed, catalog) {
            if let Err(fault) = self.commit(write.transaction.clone()).await {
                self.recollection.doubted(write);
                return (events, Err(fault));
            }
            events.extend(self.recollection.kept(write));
        }
        (events, Ok(()))
    }

    async fn commit(&self, transaction: Transaction) -> Result<(), Fault> {
        match self.store.commit(transaction).await {
            Ok(_) => Ok(()),
            Err(CommitError::Fault(fault)) => Err(fault),
            Err(other) => Err(Fault::Unavailable(other.to_string())),
        }
    }
}
