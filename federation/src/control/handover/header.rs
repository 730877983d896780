//! The PROXY protocol header, version 2, as one of our gateways writes it; strict and pure.
//!
//! A source over TCP and the name of the service in the authority field: anything else is refused, and
//! so is a header that is longer than these two need.

use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Addresses, Builder, Command, IPv4, IPv6, Protocol, Type, Version};

use crate::model::ClusterName;
use crate::peering::PeeringService;

/// The signature, version, family and length come first.
pub const PREFIX_BYTES: usize = 16;
/// Two IPv6 addresses and the longest name fit three times.
pub const HEADER_BYTES_MAX: usize = 512;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub source: SocketAddr,
    pub service: PeeringService,
}

/// Why bytes are not the header of one of our gateways.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    #[error("not a PROXY protocol header of version 2: {0}")]
    Malformed(String),
    #[error("a header of {0} bytes, at most {HEADER_BYTES_MAX} are read")]
    TooLong(usize),
    #[error("it names no source that speaks TCP")]
    NoSource,
    #[error("it is for no service of this cluster")]
    NoService,
}

/// How long a header is, by its first [`PREFIX_BYTES`].
pub fn length(prefix: &[u8]) -> Result<usize, InvalidHeader> {
    let malformed = || InvalidHeader::Malformed("no signature".to_owned());
    let prefix: &[u8; PREFIX_BYTES] =
        prefix.get(..PREFIX_BYTES).and_then(|prefix| prefix.try_into().ok()).ok_or_else(malformed)?;
    if !prefix.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(malformed());
    }
    let length = PREFIX_BYTES + usize::from(u16::from_be_bytes([prefix[14], prefix[15]]));
    if length > HEADER_BYTES_MAX { Err(InvalidHeader::TooLong(length)) } else { Ok(length) }
}

/// Reads a whole header.
pub fn read(bytes: &[u8], cluster: &ClusterName) -> Result<Header, InvalidHeader> {
    if bytes.len() != length(bytes)? {
        return Err(InvalidHeader::Malformed("it is cut off, or something follows".to_owned()));
    }
    let header = ppp::v2::Header::try_from(bytes);
    let header = header.map_err(|error| InvalidHeader::Malformed(error.to_string()))?;
    if header.command != Command::Proxy || header.protocol != Protocol::Stream {
        return Err(InvalidHeader::NoSource);
    }
    let (ip, port): (IpAddr, u16) = match header.addresses {
        Addresses::IPv4(IPv4 { source_address, source_port, .. }) => (source_address.into(), source_port),
        Addresses::IPv6(IPv6 { source_address, source_port, .. }) => (source_address.into(), source_port),
        Addresses::Unspecified | Addresses::Unix(_) => return Err(InvalidHeader::NoSource),
    };
    let source = SocketAddr::new(ip.to_canonical(), port);
    let mut service = None;
    for field in header.tlvs() {
        let field = field.map_err(|error| InvalidHeader::Malformed(error.to_string()))?;
        if field.kind == Type::Authority as u8 {
            let named =
                services().into_iter().find(|known| name(*known, cluster).as_bytes() == &*field.value);
            // Named twice is named by somebody else than us.
            if service.replace(named.ok_or(InvalidHeader::NoService)?).is_some() {
                return Err(InvalidHeader::NoService);
            }
        }
    }
    Ok(Header { source, service: service.ok_or(InvalidHeader::NoService)? })
}

/// Writes what [`read`] reads.
pub fn write(source: SocketAddr, service: PeeringService, cluster: &ClusterName) -> Vec<u8> {
    let source = SocketAddr::new(source.ip().to_canonical(), source.port());
    // Where it was going is known from the service; the format wants an address of the same family.
    let destination: SocketAddr = match source {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, (source, destination))
        .write_tlv(Type::Authority, name(service, cluster).as_bytes())
        .and_then(Builder::build)
        .expect("two addresses and one name are a short header")
}

fn services() -> [PeeringService; 2] {
    [PeeringService::Federation, PeeringService::Join]
}

fn name(service: PeeringService, cluster: &ClusterName) -> String {
    let service = match service {
        PeeringService::Federation => "federation",
        PeeringService::Join => "join",
    };
    format!("{service}.{cluster}.isthmus.internal")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster() -> ClusterName {
        "cloud".try_into().unwrap()
    }

    fn header() -> Vec<u8> {
        write("192.0.2.7:4711".parse().unwrap(), PeeringService::Federation, &cluster())
    }

    #[test]
    fn headers_read_back_as_written() {
        for source in ["192.0.2.7:4711", "[2001:db8::7]:1"] {
            for service in services() {
                let source = source.parse().unwrap();
                assert_eq!(
                    read(&write(source, service, &cluster()), &cluster()),
                    Ok(Header { source, service })
                );
            }
        }
        let mapped = write("[::ffff:192.0.2.7]:1".parse().unwrap(), PeeringService::Join, &cluster());
        assert_eq!(read(&mapped, &cluster()).unwrap().source, "192.0.2.7:1".parse().unwrap());
    }

    #[test]
    fn whatever_is_no_header_of_ours_is_refused() {
        let refused = |change: fn(&mut Vec<u8>)| {
            let mut bytes = header();
            change(&mut bytes);
            read(&bytes, &cluster()).unwrap_err()
        };
        assert!(matches!(refused(|bytes| bytes.clear()), InvalidHeader::Malformed(_)));
        assert!(matches!(refused(|bytes| bytes[0] = b'P'), InvalidHeader::Malformed(_)));
        assert!(matches!(refused(|bytes| bytes.push(0)), InvalidHeader::Malformed(_)));
        assert!(matches!(refused(|bytes| bytes.truncate(20)), InvalidHeader::Malformed(_)));
        assert!(matches!(refused(|bytes| bytes[12] = 0x31), InvalidHeader::Malformed(_)), "version 3");
        assert_eq!(refused(|bytes| bytes[12] = 0x20), InvalidHeader::NoSource, "LOCAL");
        assert_eq!(refused(|bytes| bytes[13] = 0x12), InvalidHeader::NoSource, "UDP");
        assert_eq!(
            refused(|bytes| bytes[14] = 0xff),
            InvalidHeader::TooLong(16 + 0xff00 + header()[15] as usize)
        );
        assert_eq!(read(&header(), &"onprem".try_into().unwrap()), Err(InvalidHeader::NoService));
        let nameless = refused(|bytes| {
            bytes.truncate(28);
            bytes[15] = 12;
        });
        assert_eq!(nameless, InvalidHeader::NoService);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            drop(read(&bytes, &cluster()));
            let mut spoilt = header();
            let at = at.index(spoilt.len());
            spoilt[at] = byte;
            drop(read(&spoilt, &cluster()));
        }
    }
}
