//! What the catalog must remember longer than a process lives; pure.
//!
//! Three things decide the same after a restart as before it: when a file's document was first seen
//! (precedence and conflicts go by age), which address a service has, and who contributed first to a
//! name (T5). Each is planned as a write; an answer becomes an event only once its write is durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AddressPool, Catalog, Effects, Event, NameClaim, Source};
use crate::model::{ClusterName, ObjectKey, ServiceName, Timestamp};
use crate::store::keys::Place;
use crate::store::{Entry, InvalidValue, OPERATIONS_MAX, Stored, Transaction, codec};

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

/// What is remembered, as far as it is durable.
#[derive(Debug)]
pub struct Recollection {
    pool: AddressPool,
    first_seen: BTreeMap<ObjectKey, Sight>,
    /// First seen or gone since the last write.
    unwritten: BTreeSet<ObjectKey>,
    /// A write that failed may have happened: it goes first, as it was, before anything else is given.
    doubted: Option<Write>,
}

/// When a document was first seen, and in which file it is; none before its source has told.
#[derive(Debug)]
struct Sight {
    at: Timestamp,
    file: Option<Arc<str>>,
}

/// What is to be made durable, piece by piece.
#[derive(Debug)]
pub struct Owed(VecDeque<Piece>);

#[derive(Debug)]
enum Piece {
    Doubted,
    Seen(Vec<ObjectKey>),
    Allocate(Vec<ServiceName>),
    Claim(Vec<NameClaim>),
    Release(Vec<ServiceName>),
}

/// One write; once it is durable, `Recollection::kept` says what follows.
#[derive(Debug, Clone)]
pub struct Write {
    pub transaction: Transaction,
    seen: Vec<ObjectKey>,
    pool: Option<AddressPool>,
    events: Vec<Event>,
}

impl Recollection {
    pub fn new(pool: AddressPool) -> Self {
        Self { pool, first_seen: BTreeMap::new(), unwritten: BTreeSet::new(), doubted: None }
    }

    /// Takes back what was made durable in a former life; an entry of another kind is none of ours.
    pub fn recall(&mut self, entry: &Entry) -> Result<Option<Event>, InvalidValue> {
        let Ok(place) = Place::try_from(&entry.key) else { return Ok(None) };
        Ok(match place {
            Place::Document(key) => {
                let seen: FirstSeen = codec::decode(&entry.value)?;
                self.first_seen.insert(key, Sight { at: seen.at, file: None });
                None
            }
            Place::Address(service) => {
                let Number { number } = codec::decode(&entry.value)?;
                let kept = self.pool.restore(service.clone(), number);
                kept.then(|| allocated(&service, self.pool.addresses(number)))
            }
            Place::Claim(service) => {
                let Claim { peer } = codec::decode(&entry.value)?;
                Some(Event::NameClaimed { service, peer })
            }
            _ => None,
        })
    }

    /// A file's document is as old as its first sight, until it goes; other sources know the age of
    /// what they say.
    pub fn date(&mut self, event: &mut Event) {
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

    /// What has to be written for these effects, in pieces that a store takes.
    pub fn owed(&self, effects: &Effects) -> Owed {
        let seen: Vec<_> = self.unwritten.iter().cloned().collect();
        let seen = seen.chunks(OPERATIONS_MAX).map(|keys| Piece::Seen(keys.to_vec()));
        let allocate = effects.allocate.chunks(OPERATIONS_MAX / 2);
        let claim = effects.claim.chunks(OPERATIONS_MAX);
        let release = effects.release.chunks(OPERATIONS_MAX);
        let doubted = self.doubted.iter().map(|_| Piece::Doubted);
        let pieces = doubted
            .chain(seen)
            .chain(allocate.map(|services| Piece::Allocate(services.to_vec())))
            .chain(claim.map(|claims| Piece::Claim(claims.to_vec())))
            .chain(release.map(|services| Piece::Release(services.to_vec())));
        Owed(pieces.collect())
    }

    /// The next write; it reckons with all that was kept before.
    pub fn next(&self, owed: &mut Owed, catalog: &Catalog) -> Option<Write> {
        Some(match owed.0.pop_front()? {
            Piece::Doubted => self.doubted.clone()?,
            Piece::Seen(keys) => self.write_seen(keys),
            Piece::Allocate(services) => self.allocate(&services, catalog),
            Piece::Claim(claims) => claim(claims),
            Piece::Release(services) => release(services),
        })
    }

    /// The write is durable: returns what the catalog is told.
    pub fn kept(&mut self, write: Write) -> Vec<Event> {
        self.doubted = None;
        for key in &write.seen {
            self.unwritten.remove(key);
        }
        if let Some(pool) = write.pool {
            self.pool = pool;
        }
        write.events
    }

    /// The write failed, and may have happened all the same.
    pub fn doubted(&mut self, write: Write) {
        self.doubted = Some(write);
    }

    fn write_seen(&self, keys: Vec<ObjectKey>) -> Write {
        let transaction = keys.iter().fold(Transaction::new(), |transaction, object| {
            let key = Place::Document(object.clone()).key();
            match self.first_seen.get(object) {
                Some(sight) => transaction.put(key, encoded(&FirstSeen { at: sight.at })),
                None => transaction.delete(key),
            }
        });
        Write { transaction, seen: keys, pool: None, events: Vec::new() }
    }

    fn allocate(&self, services: &[ServiceName], catalog: &Catalog) -> Write {
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
        Write { transaction, seen: Vec::new(), pool: Some(pool), events }
    }
}

impl Write {
    /// What follows from it.
    pub fn into_events(self) -> Vec<Event> {
        self.events
    }
}

fn claim(claims: Vec<NameClaim>) -> Write {
    let mut transaction = Transaction::new();
    let mut events = Vec::new();
    for NameClaim { service, peer } in claims {
        let value = encoded(&Claim { peer: peer.clone() });
        transaction = transaction.put(Place::Claim(service.clone()).key(), value);
        events.push(Event::NameClaimed { service, peer });
    }
    Write { transaction, seen: Vec::new(), pool: None, events }
}

fn release(services: Vec<ServiceName>) -> Write {
    let delete = |transaction: Transaction, service: &ServiceName| {
        transaction.delete(Place::Claim(service.clone()).key())
    };
    let transaction = services.iter().fold(Transaction::new(), delete);
    let events = services.into_iter().map(Event::NameReleased).collect();
    Write { transaction, seen: Vec::new(), pool: None, events }
}

fn allocated(service: &ServiceName, addresses: Vec<IpAddr>) -> Event {
    Event::AddressesAllocated { service: service.clone(), addresses }
}

fn encoded<T: Stored>(value: &T) -> Vec<u8> {
    codec::encode(value).expect("numbers and names are JSON")
}
