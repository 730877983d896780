//! What the parts of a state are called.

use std::fmt;
use std::sync::Arc;

use trust_bundle::TrustDomain;

use crate::model::{ClusterName, Listener, ServiceName};

/// Longest key: an import's has three labels, a listener's an object name, a label and an address.
const KEY_BYTES_MAX: usize = 512;

/// The name of a part: printable, without spaces. A newer sender may have kinds that we do not know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the key of a part")]
pub struct InvalidKey(String);

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Cluster,
    Bundle(TrustDomain),
    Service(ServiceName),
    Import(ClusterName, ServiceName),
    Peer(ClusterName),
    Listener,
    Unknown,
}

impl Key {
    pub(super) fn cluster() -> Self {
        Self("cluster".into())
    }

    pub(super) fn bundle(domain: &TrustDomain) -> Self {
        Self(format!("bundle/{domain}").into())
    }

    pub(super) fn service(name: &ServiceName) -> Self {
        Self(format!("service/{}/{}", name.namespace, name.name).into())
    }

    pub(super) fn import(peer: &ClusterName, name: &ServiceName) -> Self {
        Self(format!("import/{peer}/{}/{}", name.namespace, name.name).into())
    }

    pub(super) fn peer(name: &ClusterName) -> Self {
        Self(format!("peer/{name}").into())
    }

    pub(super) fn listener(listener: &Listener) -> Self {
        let Listener { gateway, name, address, .. } = listener;
        let address = address.map_or_else(|| "any".to_owned(), |address| address.to_string());
        Self(format!("listener/{}/{}/{name}/{address}", gateway.namespace, gateway.name).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the kind; a known kind with a name that is none is an error.
    pub(super) fn kind(&self) -> Result<Kind, InvalidKey> {
        let invalid = || InvalidKey(self.0.to_string());
        let (kind, rest) = self.0.split_once('/').unwrap_or((&self.0, ""));
        let service = |text: &str| {
            let (namespace, name) = text.split_once('/').ok_or_else(invalid)?;
            let label = |text: &str| text.try_into().map_err(|_invalid| invalid());
            Ok(ServiceName::new(label(name)?, label(namespace)?))
        };
        let cluster = |text: &str| ClusterName::try_from(text).map_err(|_invalid| invalid());
        Ok(match kind {
            "cluster" if &*self.0 == "cluster" => Kind::Cluster,
            "bundle" => {
                let domain = TrustDomain::try_from(rest).ok().filter(|domain| domain.as_str() == rest);
                Kind::Bundle(domain.ok_or_else(invalid)?)
            }
            "service" => Kind::Service(service(rest)?),
            "import" => {
                let (peer, rest) = rest.split_once('/').ok_or_else(invalid)?;
                Kind::Import(cluster(peer)?, service(rest)?)
            }
            "peer" => Kind::Peer(cluster(rest)?),
            "listener" => Kind::Listener,
            _ => Kind::Unknown,
        })
    }
}

impl TryFrom<&str> for Key {
    type Error = InvalidKey;

    fn try_from(text: &str) -> Result<Self, InvalidKey> {
        let valid = (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(Self(text.into())) } else { Err(InvalidKey(text.chars().take(80).collect())) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
