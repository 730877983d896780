//! What is said on the stream, as valid types: every bound and grammar is checked here; pure.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message as _;

use super::proto::{self, from_federation, from_gateway};
use super::state::{Digest, Position, STATE_BYTES_MAX};
use super::{Path, ReplicaName, Report, Unbound};
use crate::model::{ClusterName, GatewayAddress};
use crate::snapshot::Generation;
use trust_bundle::{CSR_BYTES_MAX, SpiffeId};

/// What this program speaks.
pub(super) const PROTOCOL: u32 = 1;
/// Bytes of a state in one message.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// The largest message: a chunk, or a report of all sockets that cannot be had.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Addresses of one gateway, or of all leaders.
const ADDRESSES_MAX: usize = 32;
/// Sockets in one report; what is more is not shown.
const SOCKETS_MAX: usize = 256;
/// Bytes of each text that a person reads.
const TEXT_BYTES_MAX: usize = 300;
/// Certificates of an answer; as many as any peer accepts.
const CHAIN_MAX: usize = trust_bundle::CHAIN_CERTIFICATES_MAX;

/// What breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("a message without content")]
    Empty,
    #[error("it cannot be read: {0}")]
    Malformed(String),
    #[error("protocol {0} is spoken here by nobody")]
    Protocol(u32),
    #[error("{0} is not what it should be")]
    Field(&'static str),
    #[error("{0} comes at the wrong time")]
    OutOfOrder(&'static str),
}

/// What a gateway says.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewaySays {
    Hello(Hello),
    Report(Report),
    Sign {
        number: u64,
        id: SpiffeId,
        csr: Vec<u8>,
    },
    Applied {
        held: Position,
        serving: Generation,
    },
    Resync {
        reason: String,
    },
    Heartbeat,
    /// Of a newer program.
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    pub replica: ReplicaName,
    pub held: Option<Position>,
    pub addresses: Vec<GatewayAddress>,
}

/// What a federation process says.
#[derive(Debug, Clone, PartialEq)]
pub enum FederationSays {
    NotLeader { leaders: Vec<GatewayAddress> },
    Update { base: Option<Position>, position: Position, length: usize },
    Chunk(Vec<u8>),
    Signed { number: u64, answer: Result<Vec<Vec<u8>>, String> },
    Heartbeat,
    Unknown,
}

/// Reads what a gateway says, from bytes that may be anybody's.
pub fn read_from_gateway(bytes: &[u8]) -> Result<GatewaySays, Violation> {
    proto::FromGateway::decode(bytes).map_err(malformed)?.try_into()
}

/// Reads what a federation process says, from bytes that may be anybody's.
pub fn read_from_federation(bytes: &[u8]) -> Result<FederationSays, Violation> {
    proto::FromFederation::decode(bytes).map_err(malformed)?.try_into()
}

fn malformed(error: prost::DecodeError) -> Violation {
    Violation::Malformed(text(&error.to_string()))
}

impl TryFrom<proto::FromGateway> for GatewaySays {
    type Error = Violation;

    fn try_from(said: proto::FromGateway) -> Result<Self, Violation> {
        use from_gateway::Body;
        let Some(body) = said.body else { return Ok(Self::Unknown) };
        Ok(match body {
            Body::Hello(hello) => Self::Hello(hello.try_into()?),
            Body::Report(report) => match report.body {
                Some(body) => Self::Report(body.try_into()?),
                None => Self::Unknown,
            },
            Body::Sign(proto::Sign { number, id, csr }) => {
                let id = SpiffeId::try_from(id.as_str()).map_err(|_invalid| Violation::Field("id"))?;
                if csr.len() > CSR_BYTES_MAX {
                    return Err(Violation::Field("csr"));
                }
                Self::Sign { number, id, csr }
            }
            Body::Applied(proto::Applied { held, serving }) => {
                let held = position(held.ok_or(Violation::Field("held"))?)?;
                Self::Applied { held, serving: Generation(serving) }
            }
            Body::Resync(proto::Resync { reason }) => Self::Resync { reason: text(&reason) },
            Body::Heartbeat(proto::Heartbeat {}) => Self::Heartbeat,
        })
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = Violation;

    fn try_from(said: proto::Hello) -> Result<Self, Violation> {
        if said.protocol != PROTOCOL {
            return Err(Violation::Protocol(said.protocol));
        }
        let replica = said.replica.as_str().try_into().map_err(|_invalid| Violation::Field("replica"))?;
        let held = said.held.map(position).transpose()?;
        Ok(Self { replica, held, addresses: addresses(&said.addresses)? })
    }
}

impl TryFrom<proto::report::Body> for Report {
    type Error = Violation;

    fn try_from(said: proto::report::Body) -> Result<Self, Violation> {
        match said {
            proto::report::Body::Path(proto::Path { peer, up, round_trip_micros }) => {
                let peer =
                    ClusterName::try_from(peer.as_str()).map_err(|_invalid| Violation::Field("peer"))?;
                let round_trip = Duration::from_micros(round_trip_micros);
                Ok(Self::Path { peer, path: if up { Path::Up { round_trip } } else { Path::Down } })
            }
            proto::report::Body::Unbound(proto::Unbound { sockets }) => {
                let socket = |said: proto::Socket| {
                    let address: Result<SocketAddr, _> = said.address.parse();
                    let address = address.map_err(|_invalid| Violation::Field("address"))?;
                    let [owner, reason, remedy] =
                        [said.owner, said.reason, said.remedy].map(|said| text(&said));
                    Ok(Unbound { address, owner, reason, remedy })
                };
                Ok(Self::Unbound(
                    sockets.into_iter().take(SOCKETS_MAX).map(socket).collect::<Result<_, _>>()?,
                ))
            }
        }
    }
}

impl TryFrom<proto::FromFederation> for FederationSays {
    type Error = Violation;

    fn try_from(said: proto::FromFederation) -> Result<Self, Violation> {
        use from_federation::Body;
        let Some(body) = said.body else { return Ok(Self::Unknown) };
        Ok(match body {
            Body::NotLeader(proto::NotLeader { leaders }) => {
                Self::NotLeader { leaders: addresses(&leaders)? }
            }
            Body::Update(proto::Update { base, position: to, length }) => {
                let length = usize::try_from(length).ok().filter(|length| *length <= STATE_BYTES_MAX);
                Self::Update {
                    base: base.map(position).transpose()?,
                    position: position(to.ok_or(Violation::Field("position"))?)?,
                    length: length.ok_or(Violation::Field("length"))?,
                }
            }
            Body::Chunk(proto::Chunk { bytes }) => Self::Chunk(bytes),
            Body::Signed(proto::Signed { number, chain, refused }) => {
                let answer = match chain.len() {
                    0 => Err(text(&refused)),
                    1..=CHAIN_MAX => Ok(chain),
                    _ => return Err(Violation::Field("chain")),
                };
                Self::Signed { number, answer }
            }
            Body::Heartbeat(proto::Heartbeat {}) => Self::Heartbeat,
        })
    }
}

fn position(said: proto::Position) -> Result<Position, Violation> {
    let digest = Digest::try_from(said.digest.as_slice()).map_err(|_length| Violation::Field("digest"))?;
    Ok(Position { generation: Generation(said.generation), digest })
}

pub(super) fn position_said(position: Position) -> proto::Position {
    proto::Position { generation: position.generation.0, digest: position.digest.0.to_vec() }
}

fn addresses(said: &[String]) -> Result<Vec<GatewayAddress>, Violation> {
    if said.len() > ADDRESSES_MAX {
        return Err(Violation::Field("addresses"));
    }
    said.iter().map(|said| said.parse().map_err(|_invalid| Violation::Field("addresses"))).collect()
}

pub(super) fn addresses_said(addresses: &[GatewayAddress]) -> Vec<String> {
    addresses.iter().take(ADDRESSES_MAX).map(ToString::to_string).collect()
}

/// A text of the other side, bounded and without control characters, for logs and status.
pub(super) fn text(said: &str) -> String {
    said.chars().take(TEXT_BYTES_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) fn report_said(report: &Report) -> Option<from_gateway::Body> {
    let body = match report {
        Report::Path { peer, path } => {
            let (up, round_trip) = match path {
                Path::Up { round_trip } => (true, *round_trip),
                Path::Down => (false, Duration::ZERO),
            };
            let round_trip_micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
            proto::report::Body::Path(proto::Path { peer: peer.to_string(), up, round_trip_micros })
        }
        Report::Unbound(sockets) => {
            let socket = |unbound: &Unbound| proto::Socket {
                address: unbound.address.to_string(),
                owner: text(&unbound.owner),
                reason: text(&unbound.reason),
                remedy: text(&unbound.remedy),
            };
            proto::report::Body::Unbound(proto::Unbound {
                sockets: sockets.iter().take(SOCKETS_MAX).map(socket).collect(),
            })
        }
        Report::Applied { .. } => return None, // said with what is held
    };
    Some(from_gateway::Body::Report(proto::Report { body: Some(body) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(said: &Report) -> Result<GatewaySays, Violation> {
        read_from_gateway(&proto::FromGateway { body: report_said(said) }.encode_to_vec())
    }

    #[test]
    fn reports_read_back_as_said() {
        let peer: ClusterName = "cloud".try_into().unwrap();
        let round_trip = Duration::from_micros(1234);
        let unbound = Unbound {
            address: "[::1]:80".parse().unwrap(),
            owner: "cart.shop".into(),
            reason: "taken".into(),
            remedy: "free it".into(),
        };
        for said in [
            Report::Path { peer: peer.clone(), path: Path::Up { round_trip } },
            Report::Path { peer, path: Path::Down },
            Report::Unbound(vec![unbound]),
            Report::Unbound(Vec::new()),
        ] {
            assert_eq!(report(&said).unwrap(), GatewaySays::Report(said));
        }
    }

    #[test]
    fn what_breaks_a_bound_is_refused() {
        let hello = |change: fn(&mut proto::Hello)| {
            let mut hello = proto::Hello { protocol: PROTOCOL, replica: "a".into(), ..Default::default() };
            change(&mut hello);
            Hello::try_from(hello).unwrap_err()
        };
        assert_eq!(hello(|said| said.protocol = 7), Violation::Protocol(7));
        assert_eq!(hello(|said| said.replica = "a b".into()), Violation::Field("replica"));
        assert_eq!(hello(|said| said.addresses = vec!["nowhere".into()]), Violation::Field("addresses"));
        assert_eq!(hello(|said| said.addresses = vec!["a:1".into(); 33]), Violation::Field("addresses"));
        assert_eq!(hello(|said| said.held = Some(proto::Position::default())), Violation::Field("digest"));
        let update = |length| {
            let position = Some(position_said(Position::default()));
            let update = proto::Update { base: None, position, length };
            FederationSays::try_from(proto::FromFederation {
                body: Some(from_federation::Body::Update(update)),
            })
        };
        assert!(update(STATE_BYTES_MAX as u64).is_ok());
        assert_eq!(update(STATE_BYTES_MAX as u64 + 1), Err(Violation::Field("length")));
    }

    #[test]
    fn texts_are_harmless_to_read() {
        assert_eq!(text("a\n\u{1b}[31mb"), "a  [31mb");
        assert_eq!(text(&"x".repeat(5000)).len(), TEXT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(read_from_gateway(&bytes));
            drop(read_from_federation(&bytes));
        }
    }
}
