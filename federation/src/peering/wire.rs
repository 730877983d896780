//! Between the wire and the model: everything that a peer says becomes a valid type, or is refused.
//!
//! A peer is a stranger with a certificate. What it names follows the grammar of our own names, what it
//! counts is bounded, and what it says in words is cut short and escaped before anybody reads it (T22).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::exports::{ENDPOINTS_PER_SERVICE_MAX, GROUPS_PER_SERVICE_MAX, Offer, PORTS_MAX};
use super::proto;
use crate::model::{
    AppProtocol, GatewayAddress, ImportedEndpoint, ImportedGroup, InvalidName, Label, Locality, ServiceKind,
    ServiceName, ServicePort, Timestamp, Transport,
};

/// Words of a peer that are shown, in characters before they are escaped.
const WORDS_MAX: usize = 256;
/// One part of a locality, as long as a Kubernetes label value.
const LOCALITY_PART_MAX: usize = 63;
/// Addresses that are looked at; more are an attack.
const ADDRESSES_SAID_MAX: usize = 64;

/// Why a service of a peer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidService {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("unknown kind of service")]
    Kind,
    #[error("{0} ports, at most {PORTS_MAX} are accepted")]
    TooManyPorts(usize),
    #[error("port {0} is not a port")]
    Port(u32),
    #[error("port {0} comes twice")]
    PortTwice(u32),
    #[error("unknown transport of port {0}")]
    Transport(u32),
    #[error("{0} places, at most {GROUPS_PER_SERVICE_MAX} are accepted")]
    TooManyGroups(usize),
    #[error("a locality is not made of at most 63 letters, digits, '-', '_' and '.'")]
    Locality,
    #[error("{0} addresses, at most {ENDPOINTS_PER_SERVICE_MAX} are accepted")]
    TooManyEndpoints(usize),
    #[error("an address has {0} bytes, neither 4 nor 16")]
    Address(usize),
    #[error("addresses are for headless services")]
    AddressesOfOneAddress,
}

impl TryFrom<proto::Service> for Offer {
    type Error = InvalidService;

    fn try_from(said: proto::Service) -> Result<Self, InvalidService> {
        let kind = kind(said.kind())?;
        if kind != ServiceKind::Headless && !said.endpoints.is_empty() {
            return Err(InvalidService::AddressesOfOneAddress);
        }
        Ok(Self {
            service: service_name(&said.namespace, &said.name)?,
            kind,
            ports: ports(said.ports)?,
            created: Timestamp::from_unix(said.created),
            groups: groups(said.groups)?,
            endpoints: endpoints(&said.endpoints)?,
        })
    }
}

/// Reads the two parts of a service's name.
pub fn service_name(namespace: &str, name: &str) -> Result<ServiceName, InvalidName> {
    Ok(ServiceName::new(Label::try_from(name)?, Label::try_from(namespace)?))
}

fn kind(said: proto::ServiceKind) -> Result<ServiceKind, InvalidService> {
    match said {
        proto::ServiceKind::ClusterSetIp => Ok(ServiceKind::ClusterSetIp),
        proto::ServiceKind::Headless => Ok(ServiceKind::Headless),
        proto::ServiceKind::Unspecified => Err(InvalidService::Kind),
    }
}

fn ports(said: Vec<proto::Port>) -> Result<Vec<ServicePort>, InvalidService> {
    if said.len() > PORTS_MAX {
        return Err(InvalidService::TooManyPorts(said.len()));
    }
    let ports: Vec<ServicePort> = said.into_iter().map(port).collect::<Result<_, _>>()?;
    let mut seen = BTreeSet::new();
    match ports.iter().find(|port| !seen.insert((port.port, port.transport))) {
        Some(twice) => Err(InvalidService::PortTwice(twice.port.into())),
        None => Ok(ports),
    }
}

fn port(said: proto::Port) -> Result<ServicePort, InvalidService> {
    let transport = match said.transport() {
        proto::Transport::Tcp => Transport::Tcp,
        proto::Transport::Udp => Transport::Udp,
        proto::Transport::Unspecified => return Err(InvalidService::Transport(said.port)),
    };
    if !said.name.is_empty() {
        Label::try_from(said.name.as_str())?;
    }
    let number = u16::try_from(said.port).ok().filter(|port| *port != 0);
    let port = number.ok_or(InvalidService::Port(said.port))?;
    // The sender has resolved it, so the word is one of ours; another is from a newer program.
    let protocol = protocol(&said.protocol);
    Ok(ServicePort { name: said.name, port, transport, protocol })
}

fn groups(said: Vec<proto::Group>) -> Result<Vec<ImportedGroup>, InvalidService> {
    if said.len() > GROUPS_PER_SERVICE_MAX {
        return Err(InvalidService::TooManyGroups(said.len()));
    }
    let group = |said: proto::Group| {
        let locality = Locality { region: said.region, zone: said.zone, sub_zone: said.sub_zone };
        let sound =
            [&locality.region, &locality.zone, &locality.sub_zone].into_iter().all(|part| is_locality(part));
        let group = ImportedGroup { locality, ready: said.ready, weight: said.weight };
        sound.then_some(group).ok_or(InvalidService::Locality)
    };
    said.into_iter().map(group).collect()
}

fn is_locality(part: &str) -> bool {
    part.len() <= LOCALITY_PART_MAX
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn endpoints(said: &[proto::Endpoint]) -> Result<Vec<ImportedEndpoint>, InvalidService> {
    if said.len() > ENDPOINTS_PER_SERVICE_MAX {
        return Err(InvalidService::TooManyEndpoints(said.len()));
    }
    said.iter().map(endpoint).collect()
}

fn endpoint(said: &proto::Endpoint) -> Result<ImportedEndpoint, InvalidService> {
    let hostname = Some(said.hostname.as_str()).filter(|name| !name.is_empty());
    let address = if let Ok(v4) = <[u8; 4]>::try_from(said.address.as_slice()) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(said.address.as_slice()) {
        IpAddr::from(v6).to_canonical()
    } else {
        return Err(InvalidService::Address(said.address.len()));
    };
    Ok(ImportedEndpoint { address, hostname: hostname.map(Label::try_from).transpose()? })
}

/// An offer as it is sent.
pub fn service(revision: u64, offer: &Offer) -> proto::Service {
    let kind = match offer.kind {
        ServiceKind::ClusterSetIp => proto::ServiceKind::ClusterSetIp,
        ServiceKind::Headless => proto::ServiceKind::Headless,
    };
    proto::Service {
        revision,
        namespace: offer.service.namespace.to_string(),
        name: offer.service.name.to_string(),
        kind: kind.into(),
        ports: offer.ports.iter().map(port_said).collect(),
        created: offer.created.unix(),
        groups: offer.groups.iter().map(group_said).collect(),
        endpoints: offer.endpoints.iter().map(endpoint_said).collect(),
    }
}

fn port_said(port: &ServicePort) -> proto::Port {
    let transport = match port.transport {
        Transport::Tcp => proto::Transport::Tcp,
        Transport::Udp => proto::Transport::Udp,
    };
    proto::Port {
        name: port.name.clone(),
        port: port.port.into(),
        transport: transport.into(),
        protocol: PROTOCOLS
            .iter()
            .find(|(known, _)| *known == port.protocol)
            .map_or("auto", |(_, word)| word)
            .to_owned(),
    }
}

/// The words for protocols; ours alone, so that no peer is asked to read names of ports.
const PROTOCOLS: &[(AppProtocol, &str)] = &[
    (AppProtocol::Http, "http"),
    (AppProtocol::Http2, "http2"),
    (AppProtocol::Grpc, "grpc"),
    (AppProtocol::Tcp, "tcp"),
    (AppProtocol::Tls, "tls"),
    (AppProtocol::Auto, "auto"),
];

fn protocol(word: &str) -> AppProtocol {
    PROTOCOLS.iter().find(|(_, known)| *known == word).map_or(AppProtocol::Auto, |(protocol, _)| *protocol)
}

fn group_said(group: &ImportedGroup) -> proto::Group {
    let Locality { region, zone, sub_zone } = group.locality.clone();
    proto::Group { region, zone, sub_zone, ready: group.ready, weight: group.weight }
}

fn endpoint_said(endpoint: &ImportedEndpoint) -> proto::Endpoint {
    let address = match endpoint.address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    proto::Endpoint {
        address,
        hostname: endpoint.hostname.as_ref().map(Label::to_string).unwrap_or_default(),
    }
}

/// Reads addresses; what is none is left out, so that a newer kind of address harms nobody.
pub fn gateways(said: &[String]) -> Vec<GatewayAddress> {
    said.iter().take(ADDRESSES_SAID_MAX).filter_map(|address| address.parse().ok()).collect()
}

pub fn gateways_said(addresses: &[GatewayAddress]) -> Vec<String> {
    addresses.iter().map(GatewayAddress::to_string).collect()
}

/// Words of a peer as they may be shown: bounded, on one line, without control characters.
pub fn shown(words: &str) -> String {
    words.chars().take(WORDS_MAX).flat_map(char::escape_debug).collect()
}

/// A message with this content.
pub fn message(body: proto::message::Body) -> proto::Message {
    proto::Message { critical: false, body: Some(body) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn said() -> proto::Service {
        let port = |port, protocol: &str| proto::Port {
            name: format!("p{port}"),
            port,
            transport: proto::Transport::Tcp.into(),
            protocol: protocol.to_owned(),
        };
        let group = proto::Group {
            region: "eu".into(),
            zone: "eu-a".into(),
            ready: 3,
            weight: 4,
            ..Default::default()
        };
        proto::Service {
            revision: 9,
            namespace: "shop".into(),
            name: "cart".into(),
            kind: proto::ServiceKind::Headless.into(),
            ports: vec![port(80, "http"), port(90, "grpc")],
            created: 5,
            groups: vec![group],
            endpoints: vec![proto::Endpoint { address: vec![10, 0, 0, 1], hostname: "db-0".into() }],
        }
    }

    fn refused(change: impl FnOnce(&mut proto::Service)) -> InvalidService {
        let mut said = said();
        change(&mut said);
        Offer::try_from(said).unwrap_err()
    }

    #[test]
    fn services_read_back_as_said() {
        let offer = Offer::try_from(said()).unwrap();
        assert_eq!(offer.service.to_string(), "cart.shop");
        assert_eq!(offer.ports[1].protocol, AppProtocol::Grpc);
        assert_eq!(service(9, &offer), said());
    }

    #[test]
    fn every_bound_and_grammar_is_kept() {
        for name in ["", "a.b", "UPPER", "a/b", "*", "a\u{1b}[2J", &"x".repeat(64)] {
            let name = name.to_owned();
            assert!(matches!(refused(|said| said.name = name), InvalidService::Name(_)));
        }
        assert!(matches!(refused(|said| said.namespace = "..".into()), InvalidService::Name(_)));
        assert_eq!(refused(|said| said.kind = 77), InvalidService::Kind);
        assert_eq!(refused(|said| said.ports[0].port = 0), InvalidService::Port(0));
        assert_eq!(refused(|said| said.ports[0].port = 65_536), InvalidService::Port(65_536));
        assert_eq!(refused(|said| said.ports[1].port = 80), InvalidService::PortTwice(80));
        assert_eq!(refused(|said| said.ports[0].transport = 0), InvalidService::Transport(80));
        assert!(matches!(refused(|said| said.ports[0].name = "a b".into()), InvalidService::Name(_)));
        let port = said().ports[0].clone();
        let many = PORTS_MAX + 1;
        assert_eq!(refused(|said| said.ports = vec![port; many]), InvalidService::TooManyPorts(many));
        let many = GROUPS_PER_SERVICE_MAX + 1;
        assert_eq!(
            refused(|said| said.groups = vec![proto::Group::default(); many]),
            InvalidService::TooManyGroups(many)
        );
        assert_eq!(refused(|said| said.groups[0].zone = "a\nb".into()), InvalidService::Locality);
        assert_eq!(refused(|said| said.groups[0].zone = "x".repeat(64)), InvalidService::Locality);
        assert_eq!(refused(|said| said.endpoints[0].address = vec![1, 2]), InvalidService::Address(2));
        let many = ENDPOINTS_PER_SERVICE_MAX + 1;
        assert_eq!(
            refused(|said| said.endpoints = vec![proto::Endpoint::default(); many]),
            InvalidService::TooManyEndpoints(many)
        );
        let one_address = proto::ServiceKind::ClusterSetIp.into();
        assert_eq!(refused(|said| said.kind = one_address), InvalidService::AddressesOfOneAddress);
    }

    #[test]
    fn a_word_of_a_newer_program_is_auto() {
        let mut said = said();
        said.ports[0].protocol = "quic-of-tomorrow".into();
        assert_eq!(Offer::try_from(said).unwrap().ports[0].protocol, AppProtocol::Auto);
    }

    #[test]
    fn words_of_a_peer_are_harmless_to_read() {
        assert_eq!(shown("all is well"), "all is well");
        assert_eq!(shown("a\n\u{1b}[31mb"), "a\\n\\u{1b}[31mb");
        assert_eq!(shown(&"x".repeat(10_000)).len(), WORDS_MAX);
    }

    #[test]
    fn addresses_that_cannot_be_read_are_left_out() {
        let said = ["192.0.2.1:15443", "nonsense", "", "gw.example.com:15443"].map(str::to_owned);
        assert_eq!(gateways_said(&gateways(&said)), ["192.0.2.1:15443", "gw.example.com:15443"]);
        assert!(gateways(&vec!["192.0.2.1:1".to_owned(); 1000]).len() <= ADDRESSES_SAID_MAX);
    }

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9-]{0,70}", ".{0,40}"]
    }

    prop_compose! {
        fn any_service()(
            namespace in texts(), name in texts(), kind in 0..4_i32, created in any::<i64>(),
            ports in proptest::collection::vec((texts(), 0..70_000_u32, 0..4_i32, texts()), 0..40),
            groups in proptest::collection::vec((texts(), texts(), any::<u32>(), any::<u64>()), 0..9),
            endpoints in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..20), texts()), 0..9),
        ) -> proto::Service {
            let port = |(name, port, transport, protocol)| proto::Port { name, port, transport, protocol };
            let group = |(region, zone, ready, weight)| proto::Group { region, zone, ready, weight, ..Default::default() };
            proto::Service {
                revision: 1, namespace, name, kind, created,
                ports: ports.into_iter().map(port).collect(),
                groups: groups.into_iter().map(group).collect(),
                endpoints: endpoints.into_iter().map(|(address, hostname)| proto::Endpoint { address, hostname }).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn no_service_makes_it_panic(said in any_service()) {
            if let Ok(offer) = Offer::try_from(said) {
                prop_assert_eq!(Offer::try_from(service(1, &offer)), Ok(offer));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(proto::Message { body: Some(proto::message::Body::Service(said)), .. }) = proto::Message::decode(&*bytes) {
                drop(Offer::try_from(said));
            }
        }

        #[test]
        fn words_stay_bounded_and_printable(words in ".{0,600}") {
            let shown = shown(&words);
            prop_assert!(shown.chars().count() <= WORDS_MAX * 10);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
