//! Which of the sockets that somebody else opened is the one that is wanted.
//!
//! The address decides: a socket that has it already cannot be bound again, whatever it is called. The name
//! decides where any free port will do, and it explains a socket that was meant and does not fit.

use std::net::SocketAddr;

use federation::model::Transport;

/// A socket that somebody opened for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// `FileDescriptorName=` of the unit.
    pub name: String,
    pub transport: Transport,
    pub address: SocketAddr,
    /// An IPv6 socket that takes IPv4 clients too: they would come under addresses that nobody wrote down.
    pub dual_stack: bool,
}

/// A socket that the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want<'a> {
    pub name: &'a str,
    pub transport: Transport,
    pub address: SocketAddr,
}

/// The place of the offer to take; of several the one with the name.
pub(super) fn pick<'a>(offers: impl Iterator<Item = &'a Offer> + Clone, want: &Want<'_>) -> Option<usize> {
    let fitting = offers.enumerate().filter(|(_, offer)| fits(offer, want));
    let named = fitting.clone().find(|(_, offer)| offer.name == want.name);
    named.or_else(|| fitting.clone().next()).map(|(at, _)| at)
}

/// Why a socket that was meant for this is not it.
pub(super) fn objection<'a>(mut offers: impl Iterator<Item = &'a Offer>, want: &Want<'_>) -> Option<String> {
    let meant = offers.find(|offer| {
        offer.transport == want.transport && (offer.name == want.name || offer.address == want.address)
    })?;
    let Offer { name, address, .. } = meant;
    Some(if meant.dual_stack && covers(*address, want.address) {
        format!(
            "the inherited socket {name:?} at {address} takes IPv4 and IPv6; write BindIPv6Only=ipv6-only, and ListenStream={} into its unit",
            want.address
        )
    } else {
        format!(
            "the inherited socket {name:?} is at {address}; write ListenStream={} into its unit, or that address into isthmus.yaml",
            want.address
        )
    })
}

fn fits(offer: &Offer, want: &Want<'_>) -> bool {
    if offer.transport != want.transport || offer.dual_stack {
        return false;
    }
    let free_port = want.address.port() == 0 && offer.name == want.name;
    offer.address == want.address || (free_port && offer.address.ip() == want.address.ip())
}

/// Would both be in the way of each other.
fn covers(offered: SocketAddr, wanted: SocketAddr) -> bool {
    offered.port() == wanted.port() && offered.ip().is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name transport address [dual]`
    fn offers(lines: &[&str]) -> Vec<Offer> {
        let parse = |line: &&str| {
            let mut words = line.split_whitespace();
            let mut next = || words.next().unwrap();
            let (name, transport, address) = (next().to_owned(), next(), next().parse().unwrap());
            Offer { name, transport: self::transport(transport), address, dual_stack: words.next().is_some() }
        };
        lines.iter().map(parse).collect()
    }

    fn transport(text: &str) -> Transport {
        if text == "udp" { Transport::Udp } else { Transport::Tcp }
    }

    #[test]
    fn the_address_decides_and_the_name_where_the_port_is_free() {
        let held = [
            "mesh tcp 127.0.0.1:15080",
            "dns tcp 127.0.0.1:15053",
            "dns udp 127.0.0.1:15053",
            "east-west tcp 0.0.0.0:15443",
            "isthmus.socket tcp 127.0.0.1:15000",
            "admin tcp 127.0.0.1:15001",
            "mesh tcp [::1]:15080",
            "ingress tcp [::]:80 dual",
            "old tcp 10.0.0.1:80",
            "ingress tcp 10.0.0.1:80",
        ];
        for (name, kind, address, expected) in [
            ("mesh", "tcp", "127.0.0.1:15080", Some(0)),
            ("dns", "tcp", "127.0.0.1:15053", Some(1)),
            ("dns", "udp", "127.0.0.1:15053", Some(2)),
            ("east-west", "tcp", "0.0.0.0:15443", Some(3)),
            // Nobody named it, and it is at the right place.
            ("admin", "tcp", "127.0.0.1:15000", Some(4)),
            // Any free port.
            ("admin", "tcp", "127.0.0.1:0", Some(5)),
            ("mesh", "tcp", "[::1]:0", Some(6)),
            ("control", "tcp", "127.0.0.1:0", None),
            // Named, and at another place.
            ("east-west", "tcp", "10.0.0.1:15443", None),
            ("mesh", "udp", "127.0.0.1:15080", None),
            ("ingress", "tcp", "[::]:80", None),
            ("ingress", "tcp", "0.0.0.0:80", None),
            // Of two at one place (SO_REUSEPORT) the one that says so.
            ("ingress", "tcp", "10.0.0.1:80", Some(9)),
        ] {
            let want = Want { name, transport: transport(kind), address: address.parse().unwrap() };
            assert_eq!(pick(offers(&held).iter(), &want), expected, "{want:?}");
        }
    }

    #[test]
    fn a_socket_that_was_meant_and_does_not_fit_is_explained() {
        let held = offers(&["east-west tcp [::]:15443 dual", "mesh tcp 127.0.0.1:80"]);
        let said = |name: &str, address: &str| {
            let want = Want { name, transport: Transport::Tcp, address: address.parse().unwrap() };
            objection(held.iter(), &want)
        };
        assert!(said("east-west", "0.0.0.0:15443").unwrap().contains("BindIPv6Only=ipv6-only"));
        assert!(said("mesh", "127.0.0.1:15080").unwrap().contains("ListenStream=127.0.0.1:15080"));
        assert_eq!(said("admin", "127.0.0.1:15000"), None);
    }
}
