//! Other clusters that this one has a relationship with.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trust_bundle::{SpiffeId, TrustDomain};

use super::{ClusterName, Host, Label, Timestamp};

/// How much what we know of a peer can be believed (design.md, section 6, "Bounded staleness").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    Fresh,
    Suspect,
    Expired,
}

/// Where a peer's gateway can be dialled: host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayAddress {
    pub host: Host,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not host:port, for example 192.0.2.7:15443, [2001:db8::7]:15443 or gw.example.com:15443")]
pub struct InvalidAddress(String);

impl FromStr for GatewayAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.chars().take(270).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            let valid = (address.port() != 0).then_some(address);
            return valid.map(Self::from).ok_or_else(invalid);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let host = Host::try_from(host).map_err(|_invalid| invalid())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        match host {
            Host::Name(_) => Ok(Self { host, port }),
            Host::Ip(_) => Err(invalid()), // an IPv6 address needs its brackets
        }
    }
}

impl From<SocketAddr> for GatewayAddress {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip().to_canonical()), port: address.port() }
    }
}

impl TryFrom<String> for GatewayAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<GatewayAddress> for String {
    fn from(address: GatewayAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => fmt::Display::fmt(&SocketAddr::new(*ip, self.port), f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// What a relationship has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelationshipState {
    Active,
    /// The peer's operator ended it: shown, no longer dialled, open to a new token.
    RemovedByPeer {
        at: Timestamp,
    },
}

/// A relationship with another cluster, as agreed at join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub name: ClusterName,
    pub trust_domain: TrustDomain,
    /// The only identity that may open links.
    pub gateway_id: SpiffeId,
    /// The only identity that may speak the peering stream.
    pub federation_id: SpiffeId,
    /// Where its gateways can be dialled; as the peer last said.
    pub gateways: Vec<GatewayAddress>,
    pub joined: Timestamp,
    pub state: RelationshipState,
    /// Namespaces in which the peer may join names that are already taken (T5).
    #[serde(default)]
    pub sameness: Vec<Label>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_addresses_read_back_as_written() {
        for good in ["192.0.2.7:15443", "[2001:db8::7]:15443", "gw.example.com:15443"] {
            assert_eq!(good.parse::<GatewayAddress>().unwrap().to_string(), good);
        }
        for bad in ["", "gw", "gw:", "gw:0", "gw:70000", "2001:db8::7:15443", "192.0.2.300:1", ":1", "a b:1"]
        {
            assert!(bad.parse::<GatewayAddress>().is_err(), "{bad:?}");
        }
    }
}
