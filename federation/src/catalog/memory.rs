//! What the catalog must remember longer than a process lives, kept in the store.
//!
//! Three things decide the same after a restart as before it: when a file's document was first seen
//! (precedence and conflicts go by age), which address a service has, and who contributed first to a
//! name (T5). An answer becomes an event only once it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{AddressPool, Catalog, Effects, Event, Source};
use crate::model::{ClusterName, ObjectKey, ServiceName, Timestamp};
use crate::store::keys::{self, Place};
use crate::store::{CommitError, Entry, Fault, OPERATIONS_MAX, Store, Stored, Transaction, codec, list_all};

/// When a file's document was first seen, at `document/<kind>/<ns>/<name>`.
#[derive(Debug, Serialize, Deserialize)]
struct FirstSeen {
    at: Timestamp,
}

/// A service's number in the pool, at `address/<ns>/<svc>`.
#[derive(Debug, Serialize, Deserialize)]
struct Number {
    number: u32,
}

/// Who contributed first to a name, at `claim/<ns>/<svc>`.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    peer: ClusterName,
}

impl Stored for FirstSeen {
    const KIND: &'static str = "first-seen";
}

impl Stored for Number {
    const KIND: &'static str = "address";
}

impl Stored for Claim {
    const KIND: &'static str = "claim";
}

/// The store's part of the catalog.
#[derive(Debug)]
pub(super) struct Memory {
    store: Arc<dyn Store>,
    pool: AddressPool,
    first_seen: BTreeMap<ObjectKey, Sight>,
    /// First seen or gone since the last write.
    unwritten: BTreeSet<ObjectKey>,
}

/// When a document was first seen, and in which file it is; none before its source has told.
#[derive(Debug)]
struct Sight {
    at: Timestamp,
    file: Option<Arc<str>>,
}

impl Memory {
    /// Reads back what was remembered; the events tell it to the catalog.
    pub(super) async fn recall(
        store: Arc<dyn Store>,
        pool: AddressPool,
    ) -> Result<(Self, Vec<Event>), Fault> {
        let mut memory = Self { store, pool, first_seen: BTreeMap::new(), unwritten: BTreeSet::new() };
        let mut events = Vec::new();
        for prefix in [keys::documents(), keys::addresses(), keys::claims()] {
            for entry in list_all(&*memory.store, &prefix).await?.entries {
                events.extend(memory.recall_entry(&entry));
            }
        }
        Ok((memory, events))
    }

    fn recall_entry(&mut self, entry: &Entry) -> Option<Event> {
        match Place::try_from(&entry.key).ok()? {
            Place::Document(key) => {
                let seen: FirstSeen = readable(entry)?;
                self.first_seen.insert(key, Sight { at: seen.at, file: None });
                None
            }
            Place::Address(service) => {
                let Number { number } = readable(entry)?;
                let kept = self.pool.restore(service.clone(), number);
                kept.then(|| allocated(&service, self.pool.addresses(number)))
            }
            Place::Claim(service) => {
                let Claim { peer } = readable(entry)?;
                Some(Event::NameClaimed { service, peer })
            }
            _ => None,
        }
    }

    /// A file's document is as old as its first sight, until it goes; other sources know the age of
    /// what they say.
    pub(super) fn date(&mut self, event: &mut Event) {
        match event {
            Event::ObjectApplied { source: Source::File { path, .. }, key, created, .. } => {
                let sight = self.first_seen.entry(key.clone()).or_insert_with(|| {
                    self.unwritten.insert(key.clone());
                    Sight { at: *created, file: None }
                });
                sight.file = Some(Arc::clone(path));
                *created = sight.at;
            }
            // A document that moved has been told from its new file before.
            Event::ObjectRemoved { source: Source::File { path, .. }, key }
                if self.first_seen.get(key).is_some_and(|sight| sight.file.as_ref() == Some(path)) =>
            {
                self.first_seen.remove(key);
                self.unwritten.insert(key.clone());
            }
            _ => {}
        }
    }

    /// Makes durable what the catalog asks for; the events answer it.
    pub(super) async fn remember(
        &mut self,
        effects: &Effects,
        catalog: &Catalog,
    ) -> Result<Vec<Event>, Fault> {
        self.write_first_seen().await?;
        let mut events = Vec::new();
        for services in effects.allocate.chunks(OPERATIONS_MAX / 2) {
            events.extend(self.allocate(services, catalog).await?);
        }
        for claims in effects.claim.chunks(OPERATIONS_MAX) {
            let mut transaction = Transaction::new();
            for claim in claims {
                let value = encoded(&Claim { peer: claim.peer.clone() });
                transaction = transaction.put(Place::Claim(claim.service.clone()).key(), value);
                events.push(Event::NameClaimed { service: claim.service.clone(), peer: claim.peer.clone() });
            }
            self.commit(transaction).await?;
        }
        Ok(events)
    }

    async fn write_first_seen(&mut self) -> Result<(), Fault> {
        let keys: Vec<_> = self.unwritten.iter().cloned().collect();
        for keys in keys.chunks(OPERATIONS_MAX) {
            let mut transaction = Transaction::new();
            for object in keys {
                let key = Place::Document(object.clone()).key();
                transaction = match self.first_seen.get(object) {
                    Some(sight) => transaction.put(key, encoded(&FirstSeen { at: sight.at })),
                    None => transaction.delete(key),
                };
            }
            self.commit(transaction).await?;
        }
        self.unwritten.clear();
        Ok(())
    }

    async fn allocate(&mut self, services: &[ServiceName], catalog: &Catalog) -> Result<Vec<Event>, Fault> {
        // The pool changes only with the store: if the commit fails, nothing was given.
        let mut pool = self.pool.clone();
        let mut transaction = Transaction::new();
        let mut events = Vec::new();
        for service in services {
            let Ok(given) = pool.allocate(service, |name| catalog.is_named(name)) else {
                events.push(allocated(service, Vec::new()));
                continue;
            };
            if let Some(released) = given.released {
                transaction = transaction.delete(Place::Address(released.clone()).key());
                events.push(Event::AddressesReleased(released));
            }
            let place = Place::Address(service.clone()).key();
            transaction = transaction.put(place, encoded(&Number { number: given.number }));
            events.push(allocated(service, pool.addresses(given.number)));
        }
        self.commit(transaction).await?;
        self.pool = pool;
        Ok(events)
    }

    async fn commit(&self, transaction: Transaction) -> Result<(), Fault> {
        match self.store.commit(transaction).await {
            Ok(_) => Ok(()),
            Err(CommitError::Fault(fault)) => Err(fault),
            Err(other) => Err(Fault::Unavailable(other.to_string())),
        }
    }
}

fn allocated(service: &ServiceName, addresses: Vec<IpAddr>) -> Event {
    Event::AddressesAllocated { service: service.clone(), addresses }
}

fn encoded<T: Stored>(value: &T) -> Vec<u8> {
    codec::encode(value).expect("numbers and names are JSON")
}

fn readable<T: Stored>(entry: &Entry) -> Option<T> {
    let read = codec::decode(&entry.value);
    read.inspect_err(
        |error| warn!(key = entry.key.as_str(), %error, "a stored value cannot be read; it is left out"),
    )
    .ok()
}
