//! Names that cross modules. Each is a DNS label or made of labels, so it is safe in a host name,
//! a key of the store, a metric label and a log line (notes/trust T15, T22).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest DNS label (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// Longest name of a Kubernetes object (RFC 1123 subdomain).
const OBJECT_NAME_BYTES_MAX: usize = 253;

/// Why a text is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("{0:?} is not a DNS label: 1 to 63 of a-z, 0-9 and '-', not at either end")]
    Label(String),
    #[error("{0:?} is not <name>.<namespace>")]
    Service(String),
    #[error("{0:?} is not an object name: DNS labels joined by '.', at most 253 bytes")]
    Object(String),
}

/// One lower-case DNS label (RFC 1123).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Arc<str>);

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl TryFrom<&str> for Label {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        if is_label(text) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName::Label(text.chars().take(80).collect()))
        }
    }
}

/// The name of a member of the federation; unique and never changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterName(Label);

impl ClusterName {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl TryFrom<&str> for ClusterName {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        Label::try_from(text).map(Self)
    }
}

/// A service in its namespace; the same name is the same service in every cluster (MCS sameness).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    pub namespace: Label,
    pub name: Label,
}

impl ServiceName {
    pub fn new(name: Label, namespace: Label) -> Self {
        Self { namespace, name }
    }
}

impl TryFrom<&str> for ServiceName {
    type Error = InvalidName;

    /// Reads `<name>.<namespace>`.
    fn try_from(text: &str) -> Result<Self, InvalidName> {
        let (name, namespace) =
            text.split_once('.').ok_or_else(|| InvalidName::Service(text.chars().take(140).collect()))?;
        Ok(Self { namespace: namespace.try_into()?, name: name.try_into()? })
    }
}

/// The name of a configuration object, which may be longer than a label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(Arc<str>);

impl ObjectName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for ObjectName {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        let valid = text.len() <= OBJECT_NAME_BYTES_MAX && text.split('.').all(is_label);
        if valid { Ok(Self(text.into())) } else { Err(InvalidName::Object(text.chars().take(260).collect())) }
    }
}

/// What one configuration object is called, whichever source it came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind as Kubernetes writes it, for example `HTTPRoute`.
    pub kind: Arc<str>,
    pub namespace: Label,
    pub name: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.try_into()
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.as_str().try_into()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.to_string()
    }
}

impl From<ClusterName> for Label {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

macro_rules! text_traits {
    ($($type:ident),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                text.try_into()
            }
        }
        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.as_str().try_into()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.as_str().to_owned()
            }
        }
    )+};
}

text_traits!(Label, ClusterName, ObjectName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_rfc_1123_says() {
        for good in ["a", "a-b", "0", "eu-west-1", &"x".repeat(63)] {
            assert_eq!(Label::try_from(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b", &"x".repeat(64)] {
            assert!(Label::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn service_names_read_back_as_written() {
        let name: ServiceName = "cart.shop".parse().unwrap();
        assert_eq!((name.name.as_str(), name.namespace.as_str()), ("cart", "shop"));
        assert_eq!(name.to_string(), "cart.shop");
        for bad in ["cart", "cart.shop.x", ".shop", "cart.", "Cart.shop"] {
            assert!(ServiceName::try_from(bad).is_err(), "{bad:?}");
        }
    }
}
