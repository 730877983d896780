//! Which number of the pool a service has.
//!
//! A number is given once and kept while any cluster names the service, also over restarts: clients
//! and resolvers hold addresses for longer than anybody promises. Numbers of names that nobody uses
//! any more are given away only when nothing else is left. Pure: making a number durable is the
//! driver's work, and comes before anybody is told the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::model::ServiceName;

/// The network's own address and the first one (a router, by custom) are never given.
const FIRST_NUMBER: u32 = 2;
/// More than this many names in one cluster is a mistake; it also bounds an IPv6 pool.
const NUMBERS_MAX: u32 = 1 << 20;
/// A pool must hold at least one service: a /30 does.
const HOST_BITS_MIN: u8 = 2;

/// The addresses of each gateway, and which service has which.
#[derive(Debug, Clone)]
pub struct AddressPool {
    net: IpNet,
    /// Of further gateways; a service has the same number in all of them.
    more: Vec<IpNet>,
    numbers: BTreeMap<ServiceName, u32>,
    taken: BTreeSet<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is too small for a pool of virtual addresses: use /30 (IPv6: /126) or larger")]
pub struct InvalidPool(IpNet);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {capacity} addresses of {net} are in use")]
pub struct PoolExhausted {
    pub net: IpNet,
    pub capacity: u32,
}

/// A number that a service was given, and who had to give it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    pub number: u32,
    pub released: Option<ServiceName>,
}

impl AddressPool {
    pub fn new(net: IpNet) -> Result<Self, InvalidPool> {
        if net.max_prefix_len() - net.prefix_len() < HOST_BITS_MIN {
            return Err(InvalidPool(net));
        }
        Ok(Self { net: net.trunc(), more: Vec::new(), numbers: BTreeMap::new(), taken: BTreeSet::new() })
    }

    /// With the pools of further gateways, none smaller than the first.
    pub fn and(self, more: impl IntoIterator<Item = IpNet>) -> Result<Self, InvalidPool> {
        let bits = |net: &IpNet| net.max_prefix_len() - net.prefix_len();
        let more: Vec<_> = more.into_iter().map(|net| net.trunc()).filter(|net| *net != self.net).collect();
        match more.iter().find(|net| bits(net) < bits(&self.net)) {
            Some(small) => Err(InvalidPool(*small)),
            None => Ok(Self { more, ..self }),
        }
    }

    /// How many services the pool can hold.
    pub fn capacity(&self) -> u32 {
        self.end() - FIRST_NUMBER
    }

    /// One past the last number; the last address of the network is left out (broadcast).
    fn end(&self) -> u32 {
        let host_bits = u32::from(self.net.max_prefix_len() - self.net.prefix_len());
        1_u32.checked_shl(host_bits).map_or(NUMBERS_MAX, |size| (size - 1).min(NUMBERS_MAX))
    }

    /// Takes back what was allocated before; false if the pool has no such number, or gave it away.
    #[must_use]
    pub fn restore(&mut self, service: ServiceName, number: u32) -> bool {
        let fits = (FIRST_NUMBER..self.end()).contains(&number);
        if !fits || self.numbers.contains_key(&service) || !self.taken.insert(number) {
            return false;
        }
        self.numbers.insert(service, number);
        true
    }

    /// Gives the service its number, or the one that it has.
    pub fn allocate(
        &mut self,
        service: &ServiceName,
        is_named: impl Fn(&ServiceName) -> bool,
    ) -> Result<Allocation, PoolExhausted> {
        if let Some(number) = self.numbers.get(service) {
            return Ok(Allocation { number: *number, released: None });
        }
        let (number, released) = match self.free_number() {
            Some(number) => (number, None),
            None => {
                let unused = self.numbers.iter().find(|(name, _)| !is_named(name));
                let (name, number) =
                    unused.ok_or(PoolExhausted { net: self.net, capacity: self.capacity() })?;
                (*number, Some(name.clone()))
            }
        };
        if let Some(name) = &released {
            self.numbers.remove(name);
        }
        self.numbers.insert(service.clone(), number);
        self.taken.insert(number);
        Ok(Allocation { number, released })
    }

    fn free_number(&self) -> Option<u32> {
        let next = self.taken.last().map_or(FIRST_NUMBER, |last| last + 1);
        if next < self.end() {
            return Some(next);
        }
        (FIRST_NUMBER..self.end()).find(|number| !self.taken.contains(number))
    }

    /// The addresses of a number that this pool gave, one at each gateway.
    pub fn addresses(&self, number: u32) -> Vec<IpAddr> {
        std::iter::once(&self.net).chain(&self.more).map(|net| address(*net, number)).collect()
    }
}

fn address(net: IpNet, number: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from(u32::from(net.network()).wrapping_add(number))),
        IpNet::V6(net) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(net.network()).wrapping_add(u128::from(number))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(net: &str) -> AddressPool {
        AddressPool::new(net.parse().unwrap()).unwrap()
    }

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    fn give(pool: &mut AddressPool, service: &str, named: &[&str]) -> Result<String, PoolExhausted> {
        let named: Vec<_> = named.iter().map(|n| name(n)).collect();
        let allocation = pool.allocate(&name(service), |name| named.contains(name))?;
        Ok(pool.addresses(allocation.number)[0].to_string())
    }

    #[test]
    fn network_first_and_broadcast_addresses_are_never_given() {
        for (net, expected) in [
            ("127.80.0.0/29", vec!["127.80.0.2", "127.80.0.3", "127.80.0.4", "127.80.0.5", "127.80.0.6"]),
            ("127.80.0.9/30", vec!["127.80.0.10"]),
            ("fd00::/126", vec!["fd00::2"]),
        ] {
            let mut pool = pool(net);
            let names: Vec<_> = (0..expected.len()).map(|n| format!("s{n}.shop")).collect();
            let named: Vec<_> = names.iter().map(String::as_str).collect();
            let given: Vec<_> = names.iter().map(|n| give(&mut pool, n, &named).unwrap()).collect();
            assert_eq!(given, expected);
            assert_eq!(pool.capacity() as usize, expected.len());
            assert!(give(&mut pool, "one-more.shop", &named).is_err(), "{net}");
        }
        assert!(AddressPool::new("127.80.0.0/31".parse().unwrap()).is_err());
        assert_eq!(pool("fd00::/64").capacity(), NUMBERS_MAX - FIRST_NUMBER);
        assert_eq!(pool("0.0.0.0/0").capacity(), NUMBERS_MAX - FIRST_NUMBER);
    }

    #[test]
    fn a_service_has_an_address_at_each_gateway() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let of = |more: &[&str]| pool("10.1.16.0/24").and(more.iter().map(|text| net(text)));
        let shown = |more: &[&str]| format!("{:?}", of(more).unwrap().addresses(2));
        assert_eq!(shown(&["10.1.17.0/24", "fd00::/64"]), "[10.1.16.2, 10.1.17.2, fd00::2]");
        assert_eq!(shown(&["10.1.16.9/24", "10.1.17.0/20"]), "[10.1.16.2, 10.1.16.2]");
        assert!(of(&["10.1.17.0/25"]).is_err(), "smaller than the first");
    }

    #[test]
    fn a_service_keeps_its_number() {
        let mut pool = pool("127.80.0.0/29");
        assert_eq!(give(&mut pool, "a.shop", &[]).unwrap(), "127.80.0.2");
        assert_eq!(give(&mut pool, "b.shop", &[]).unwrap(), "127.80.0.3");
        assert_eq!(give(&mut pool, "a.shop", &[]).unwrap(), "127.80.0.2");
    }

    #[test]
    fn numbers_of_unused_names_go_last() {
        let mut pool = pool("127.80.0.0/29");
        for service in ["a.x", "b.x", "c.x", "d.x", "e.x"] {
            give(&mut pool, service, &[]).unwrap();
        }
        let still_named = ["a.x", "c.x", "d.x", "e.x"];
        let allocation = pool.allocate(&name("f.x"), |n| still_named.contains(&&*n.to_string())).unwrap();
        assert_eq!(allocation, Allocation { number: 3, released: Some(name("b.x")) });
    }

    #[test]
    fn what_was_restored_is_not_given_again() {
        let mut pool = pool("127.80.0.0/29");
        assert!(pool.restore(name("a.x"), 2));
        assert!(!pool.restore(name("b.x"), 2), "one number, one service");
        assert!(!pool.restore(name("c.x"), 7) && !pool.restore(name("c.x"), 1), "outside the pool");
        assert_eq!(give(&mut pool, "d.x", &[]).unwrap(), "127.80.0.3");
        assert_eq!(give(&mut pool, "a.x", &[]).unwrap(), "127.80.0.2");
    }
}
