//! Which addresses of a peer's gateways we are willing to dial; pure (T6).
//!
//! A peer says where its gateways are, and a hostile one says `127.0.0.1` or `169.254.169.254` to make
//! us knock at our own doors. So addresses that only mean something near us are refused, unless the
//! join itself ran over an address of that kind: two clusters on one machine, or on one link. A name is
//! judged by what it resolves to, at the moment of dialling.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{GatewayAddress, Host};

/// Addresses that are kept for one peer.
pub const ADDRESSES_MAX: usize = 16;

/// The kinds of near addresses that a relationship may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    pub loopback: bool,
    pub link_local: bool,
    /// Inside a range that this cluster owns.
    pub own: bool,
}

/// What is refused, and whose ranges are ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// For example the pool of virtual addresses.
    pub own_ranges: Vec<IpNet>,
}

/// Why an address of a peer is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAddress {
    #[error("a loopback address leads to this machine")]
    Loopback,
    #[error("a link-local address leads to a neighbour of this machine")]
    LinkLocal,
    #[error("the address is inside a range of this cluster")]
    Own,
    #[error("the address can be nobody's")]
    Nobody,
}

impl AddressRules {
    /// What joining over this address makes acceptable.
    pub fn near(&self, joined_over: IpAddr) -> Near {
        let address = joined_over.to_canonical();
        Near {
            loopback: address.is_loopback(),
            link_local: is_link_local(address),
            own: self.is_own(address),
        }
    }

    /// Judges an address that is about to be dialled.
    pub fn check(&self, address: IpAddr, near: Near) -> Result<(), RefusedAddress> {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(RefusedAddress::Nobody);
        }
        if address.is_loopback() && !near.loopback {
            return Err(RefusedAddress::Loopback);
        }
        if is_link_local(address) && !near.link_local {
            return Err(RefusedAddress::LinkLocal);
        }
        // Loopback that is allowed is not ours alone, even if a pool lies in it.
        if self.is_own(address) && !near.own && !address.is_loopback() {
            return Err(RefusedAddress::Own);
        }
        Ok(())
    }

    /// Keeps what may be dialled of what a peer says; names are kept, and judged when they are resolved.
    pub fn admit(&self, said: Vec<GatewayAddress>, near: Near) -> Vec<GatewayAddress> {
        let mut admitted: Vec<GatewayAddress> = Vec::new();
        for address in said {
            let fine = match &address.host {
                Host::Ip(ip) => self.check(*ip, near).is_ok(),
                Host::Name(_) => true,
            };
            if fine && !admitted.contains(&address) && admitted.len() < ADDRESSES_MAX {
                admitted.push(address);
            }
        }
        admitted
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own_ranges.iter().any(|range| range.contains(&address))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    const V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => (address.to_bits() ^ V6.0.to_bits()) >> (128 - V6.1) == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> AddressRules {
        AddressRules { own_ranges: vec!["10.96.0.0/12".parse().unwrap(), "127.80.0.0/20".parse().unwrap()] }
    }

    #[test]
    fn near_addresses_are_refused_in_every_spelling() {
        for (address, expected) in [
            ("192.0.2.7", Ok(())),
            ("2001:db8::7", Ok(())),
            ("10.1.2.3", Ok(())),
            ("127.0.0.1", Err(RefusedAddress::Loopback)),
            ("127.80.0.9", Err(RefusedAddress::Loopback)),
            ("::1", Err(RefusedAddress::Loopback)),
            ("::ffff:127.0.0.1", Err(RefusedAddress::Loopback)),
            ("169.254.169.254", Err(RefusedAddress::LinkLocal)),
            ("::ffff:169.254.169.254", Err(RefusedAddress::LinkLocal)),
            ("fe80::1", Err(RefusedAddress::LinkLocal)),
            ("febf::1", Err(RefusedAddress::LinkLocal)),
            ("10.100.0.1", Err(RefusedAddress::Own)),
            ("::ffff:10.100.0.1", Err(RefusedAddress::Own)),
            ("0.0.0.0", Err(RefusedAddress::Nobody)),
            ("::", Err(RefusedAddress::Nobody)),
            ("224.0.0.1", Err(RefusedAddress::Nobody)),
            ("255.255.255.255", Err(RefusedAddress::Nobody)),
        ] {
            assert_eq!(rules().check(address.parse().unwrap(), Near::default()), expected, "{address}");
        }
    }

    #[test]
    fn a_join_over_loopback_makes_loopback_acceptable_and_nothing_else() {
        let near = rules().near("127.0.0.1".parse().unwrap());
        assert_eq!(near, Near { loopback: true, ..Near::default() });
        assert_eq!(rules().check("127.1.2.3".parse().unwrap(), near), Ok(()));
        assert_eq!(rules().check("169.254.0.1".parse().unwrap(), near), Err(RefusedAddress::LinkLocal));
        assert_eq!(rules().check("10.100.0.1".parse().unwrap(), near), Err(RefusedAddress::Own));
        assert_eq!(rules().near("192.0.2.7".parse().unwrap()), Near::default());
    }

    #[test]
    fn what_a_peer_says_is_filtered_and_bounded() {
        let said = |text: &str| text.parse::<GatewayAddress>().unwrap();
        let many = (1..40).map(|n| said(&format!("192.0.2.{n}:15443")));
        let mixed = [said("127.0.0.1:1"), said("gw.example.com:15443"), said("192.0.2.1:15443")];
        let admitted = rules().admit(mixed.into_iter().chain(many).collect(), Near::default());
        assert_eq!(admitted.len(), ADDRESSES_MAX);
        assert_eq!(
            admitted[..3],
            [said("gw.example.com:15443"), said("192.0.2.1:15443"), said("192.0.2.2:15443")]
        );
    }
}
