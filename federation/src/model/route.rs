//! Listeners and routes, as the Gateway API means them and whatever source wrote them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Label, ObjectKey, ObjectName, ServiceName, Timestamp};

/// A host name that may begin with `*.`, which stands for one or more labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname {
    wildcard: bool,
    name: ObjectName,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name, nor '*.' followed by one")]
pub struct InvalidHostname(String);

impl Hostname {
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The name without `*.`.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Does a lower-case host without a port match; `*.x` does not match `x`.
    pub fn matches(&self, host: &str) -> bool {
        if !self.wildcard {
            return host == self.name();
        }
        host.strip_suffix(self.name())
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|rest| !rest.is_empty())
    }

    /// The narrower of two host names that overlap, or none if they do not.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let within = |inner: &Self, outer: &Self| {
            inner == outer
                || (outer.wildcard
                    && (outer.matches(inner.name()) || inner.wildcard && inner.name == outer.name))
        };
        if within(self, other) { Some(self.clone()) } else { within(other, self).then(|| other.clone()) }
    }
}

impl TryFrom<&str> for Hostname {
    type Error = InvalidHostname;

    fn try_from(text: &str) -> Result<Self, InvalidHostname> {
        let lower = text.to_ascii_lowercase();
        let (wildcard, name) = match lower.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, lower.as_str()),
        };
        let name = ObjectName::try_from(name)
            .map_err(|_invalid| InvalidHostname(text.chars().take(260).collect()))?;
        Ok(Self { wildcard, name })
    }
}

impl TryFrom<String> for Hostname {
    type Error = InvalidHostname;

    fn try_from(text: String) -> Result<Self, InvalidHostname> {
        text.as_str().try_into()
    }
}

impl From<Hostname> for String {
    fn from(hostname: Hostname) -> Self {
        hostname.to_string()
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a listener of a `Gateway` speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListenerProtocol {
    Http,
}

/// One listener of a `Gateway`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The `Gateway` that it belongs to.
    pub gateway: ObjectKey,
    pub name: Label,
    /// None is the address that the static configuration names for gateways.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub protocol: ListenerProtocol,
    /// None takes every host that no other listener of the port names.
    pub hostname: Option<Hostname>,
}

/// Which listeners a route asks to be attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRef {
    pub gateway: ObjectKey,
    pub section: Option<Label>,
    pub port: Option<u16>,
}

/// An `HTTPRoute`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    pub key: ObjectKey,
    /// Decides precedence between equal matches: the oldest wins.
    pub created: Timestamp,
    pub parents: Vec<ParentRef>,
    /// Empty takes every host of the listener.
    pub hostnames: Vec<Hostname>,
    pub rules: Vec<HttpRule>,
}

/// Matches are alternatives; none matches every request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRule {
    pub matches: Vec<HttpMatch>,
    pub backends: Vec<Backend>,
}

/// All that is said must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpMatch {
    pub path: PathMatch,
    pub headers: Vec<HeaderMatch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatch {
    Exact(String),
    /// By whole segments; without a trailing slash, so the root is empty.
    Prefix(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Lower-case.
    pub name: String,
    pub value: String,
}

/// A share of a rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub weight: u32,
    pub target: BackendTarget,
}

/// Where a backend reference leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendTarget {
    /// A core `Service`: only this cluster's own endpoints.
    Service { service: ServiceName, port: u16 },
    /// A `ServiceImport`: the merged service.
    Import { service: ServiceName, port: Option<u16> },
    /// Cannot be served: its share of requests is answered 500 (notes/conformance 5.4).
    Invalid { reason: Arc<str> },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        text.try_into().unwrap()
    }

    #[test]
    fn a_wildcard_takes_one_or_more_labels() {
        let wildcard = host("*.example.com");
        assert!(wildcard.matches("a.example.com") && wildcard.matches("a.b.example.com"));
        assert!(!wildcard.matches("example.com") && !wildcard.matches("aexample.com"));
        assert!(host("Example.COM").matches("example.com"));
    }

    #[test]
    fn overlapping_host_names_yield_the_narrower() {
        for (a, b, expected) in [
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("x.a.com", "*.a.com", Some("x.a.com")),
            ("*.a.com", "*.b.a.com", Some("*.b.a.com")),
            ("*.a.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "a.com", None),
            ("x.a.com", "y.a.com", None),
        ] {
            assert_eq!(host(a).intersection(&host(b)), expected.map(host), "{a} {b}");
        }
    }
}
