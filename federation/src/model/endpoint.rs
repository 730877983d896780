//! One address that serves a service in this cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Label, Locality, ObjectName};

/// An IP address, or a name that the resolver of this cluster knows (an `FQDN` slice).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    Ip(IpAddr),
    Name(ObjectName),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a host name")]
pub struct InvalidHost(String);

impl TryFrom<&str> for Host {
    type Error = InvalidHost;

    fn try_from(text: &str) -> Result<Self, InvalidHost> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // All digits and dots is an address with a typing error, not a name.
        if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(InvalidHost(text.chars().take(260).collect()));
        }
        let name = ObjectName::try_from(name.as_str());
        name.map(Self::Name).map_err(|_invalid| InvalidHost(text.chars().take(260).collect()))
    }
}

impl TryFrom<String> for Host {
    type Error = InvalidHost;

    fn try_from(text: String) -> Result<Self, InvalidHost> {
        text.as_str().try_into()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.to_string()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => fmt::Display::fmt(ip, f),
            Self::Name(name) => fmt::Display::fmt(name, f),
        }
    }
}

/// What its source says of an endpoint; probes come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    Ready,
    /// Terminating, but still serving: a last resort.
    Draining,
    NotReady,
}

/// One address of a service, with the number behind each of the service's port names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub host: Host,
    /// Port name to port number; endpoints of one slice share it.
    pub ports: Arc<BTreeMap<String, u16>>,
    pub locality: Locality,
    pub readiness: Readiness,
    /// At least 1.
    pub weight: u32,
    /// The pod's own name under a headless service.
    pub hostname: Option<Label>,
}

impl Endpoint {
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.get(name).copied()
    }
}
