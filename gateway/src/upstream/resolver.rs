//! Names of endpoints (`FQDN` slices) to addresses, remembered for a few seconds.
//!
//! The system's resolver tells no time to live, so a short one of ours has to do. An answer that could not
//! be renewed is used for a minute more: a name server in trouble shall not take endpoints with it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use federation::model::{Host, ObjectName};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::clock;

/// Resolves hosts of endpoints; a clone shares what is remembered.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<HashMap<ObjectName, Known>>,
    turn: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Arc<[IpAddr]>,
    since: Instant,
}

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {name}")]
pub struct Unresolved {
    name: ObjectName,
    #[source]
    source: io::Error,
}

impl Resolver {
    /// One address of a host; those of a name take turns.
    pub async fn resolve(&self, host: &Host, port: u16) -> Result<SocketAddr, Unresolved> {
        let name = match host {
            Host::Ip(ip) => return Ok(SocketAddr::new(*ip, port)),
            Host::Name(name) => name,
        };
        let known = self.shared.known.lock().get(name).cloned();
        let younger_than =
            |known: &Known, age: Duration| clock::now().saturating_duration_since(known.since) < age;
        let addresses = match known {
            Some(known) if younger_than(&known, FRESH_FOR) => known.addresses,
            stale => match lookup(name).await {
                Ok(addresses) => self.remember(name, addresses),
                Err(source) => match stale.filter(|known| younger_than(known, STALE_FOR)) {
                    Some(known) => known.addresses,
                    None => return Err(Unresolved { name: name.clone(), source }),
                },
            },
        };
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        Ok(SocketAddr::new(addresses[turn % addresses.len()], port))
    }

    fn remember(&self, name: &ObjectName, addresses: Arc<[IpAddr]>) -> Arc<[IpAddr]> {
        let now = clock::now();
        let mut known = self.shared.known.lock();
        if known.len() >= NAMES_MAX {
            known.retain(|_, known| now.duration_since(known.since) < FRESH_FOR);
        }
        if known.len() < NAMES_MAX {
            known.insert(name.clone(), Known { addresses: addresses.clone(), since: now });
        }
        addresses
    }
}

/// Never empty.
async fn lookup(name: &ObjectName) -> io::Result<Arc<[IpAddr]>> {
    let found = timeout(LOOKUP_TIME_MAX, tokio::net::lookup_host((name.as_str(), 0))).await;
    let found = found.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut addresses: Vec<_> = found.map(|address| address.ip()).take(ADDRESSES_MAX).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no addresses"));
    }
    Ok(addresses.into())
}

const FRESH_FOR: Duration = Duration::from_secs(5);
const STALE_FOR: Duration = Duration::from_secs(60);
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(3);
/// Names that are remembered; beyond that each request asks.
const NAMES_MAX: usize = 1024;
const ADDRESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.try_into().unwrap()
    }

    fn name(text: &str) -> ObjectName {
        text.try_into().unwrap()
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let found = Resolver::default().resolve(&host("2001:db8::7"), 80).await.unwrap();
        assert_eq!(found, "[2001:db8::7]:80".parse().unwrap());
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_remembered() {
        let resolver = Resolver::default();
        let found = resolver.resolve(&host("localhost"), 80).await.unwrap();
        assert!(found.ip().is_loopback());
        assert_eq!(resolver.shared.known.lock().len(), 1);
        assert!(resolver.resolve(&host("nowhere.invalid"), 80).await.is_err());
    }

    #[tokio::test]
    async fn addresses_of_a_name_take_turns_and_outlive_a_failing_lookup() {
        let resolver = Resolver::default();
        let unknown = name("nowhere.invalid");
        let addresses: Arc<[IpAddr]> = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap()).into();
        resolver.remember(&unknown, addresses);
        let set_age = |age| {
            resolver.shared.known.lock().get_mut(&unknown).unwrap().since = clock::now() - age;
        };
        set_age(FRESH_FOR * 2);
        let first = resolver.resolve(&host("nowhere.invalid"), 80).await.unwrap();
        let second = resolver.resolve(&host("nowhere.invalid"), 80).await.unwrap();
        assert_ne!(first, second);
        set_age(STALE_FOR);
        assert!(resolver.resolve(&host("nowhere.invalid"), 80).await.is_err());
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let resolver = Resolver::default();
        for n in 0..NAMES_MAX * 2 {
            resolver.remember(&name(&format!("n{n}.example")), [IpAddr::from([192, 0, 2, 1])].into());
        }
        assert_eq!(resolver.shared.known.lock().len(), NAMES_MAX);
    }
}
