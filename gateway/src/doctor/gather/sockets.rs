//! Tries the sockets of the configuration: bound and closed at once.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use federation::config::Config;

use super::holders::holder;
use crate::doctor::facts::{Bind, SocketFact};

pub(super) fn configured(config: &Config) -> Vec<SocketFact> {
    let mut wanted = vec![
        ("gateway.mesh.address", config.gateway.mesh, false),
        ("gateway.eastWest.address", config.gateway.east_west, false),
        ("dns.address", config.dns, false),
        ("dns.address", config.dns, true),
        ("admin.address", config.admin, false),
    ];
    if config.control.wanted {
        wanted.push(("control.address", config.control.address, false));
    }
    let fact = |(setting, address, udp)| SocketFact { setting, address, udp, bind: attempt(address, udp) };
    wanted.into_iter().map(fact).collect()
}

/// The first address for a service, at any free port.
pub(super) fn pool(config: &Config) -> Option<(IpAddr, Bind)> {
    let address = config.gateway.virtual_pool.hosts().next()?;
    Some((address, attempt(SocketAddr::new(address, 0), false)))
}

fn attempt(address: SocketAddr, udp: bool) -> Bind {
    let bound = if udp { UdpSocket::bind(address).map(drop) } else { TcpListener::bind(address).map(drop) };
    match bound {
        Ok(()) => Bind::Free,
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => Bind::Taken(holder(address, udp)),
            io::ErrorKind::AddrNotAvailable => Bind::NoSuchAddress,
            io::ErrorKind::PermissionDenied => Bind::NotPermitted,
            _ => Bind::Failed(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_says_how_it_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(attempt(listener.local_addr().unwrap(), false), Bind::Taken(_)));
        assert_eq!(attempt("127.0.0.1:0".parse().unwrap(), true), Bind::Free);
        assert_eq!(attempt("192.0.2.1:0".parse().unwrap(), false), Bind::NoSuchAddress);
    }
}
