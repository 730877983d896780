//! Where each thing is kept: the layout of the store (notes/trust 7.5).
//!
//! ```text
//! /isthmus/v1/meta                           cluster and trust domain
//!            /trust/ca/state                 the root rotation
//!            /trust/td/<td>                  a bundle with its sequence
//!            /trust/block/<spki>             a blocked authority
//!            /trust/epoch                    rises with each revocation
//!            /trust/ack/<replica>            what a replica's verifier uses (lease)
//!            /peer/<cluster>                 a relationship
//!            /join/<id>                      a join token's record (lease)
//!            /node/<id>                      a node token's record (lease)
//!            /import/<cluster>/sync          how far the peer's stream was received
//!            /import/<cluster>/svc/<ns>/<svc>
//!            /address/<ns>/<svc>             a service's number in the pool
//!            /claim/<ns>/<svc>               who contributed first to a name
//!            /document/<kind>/<ns>/<name>    when a file's document was first seen
//!            /applied/<kind>/<ns>/<name>     a document that `isthmus apply` brought
//!            /control/leader                 the federation process that leads (lease)
//!            /control/epoch                  rises each time that one begins to lead
//! ```
//!
//! Every name in a key is valid by its type, and none of them can hold a '/', so no name can reach
//! into another's place. Another store prefix than `/isthmus/v1/` is the business of the etcd store.

use trust_bundle::{AuthorityId, TokenId, TrustDomain};

use super::key::{Key, Prefix};
use crate::model::{ClusterName, Label, ObjectKey, ObjectName, ServiceName};

/// All that is ours.
pub const ROOT: &str = "/isthmus/v1/";

/// One place in the layout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Meta,
    CaState,
    Bundle(TrustDomain),
    Blocked(AuthorityId),
    TrustEpoch,
    Acknowledgement(Label),
    Peer(ClusterName),
    Join(TokenId),
    Node(TokenId),
    ImportSync(ClusterName),
    Import(ClusterName, ServiceName),
    Address(ServiceName),
    Claim(ServiceName),
    Document(ObjectKey),
    Applied(ObjectKey),
    Leader,
    Epoch,
}

/// A key that is not in the layout; a newer program may have put it there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no place in the layout")]
pub struct UnknownPlace(pub Key);

impl Place {
    pub fn key(&self) -> Key {
        let path = match self {
            Self::Meta => "meta".to_owned(),
            Self::CaState => "trust/ca/state".to_owned(),
            Self::Bundle(domain) => format!("trust/td/{domain}"),
            Self::Blocked(authority) => format!("trust/block/{authority}"),
            Self::TrustEpoch => "trust/epoch".to_owned(),
            Self::Acknowledgement(replica) => format!("trust/ack/{replica}"),
            Self::Peer(cluster) => format!("peer/{cluster}"),
            Self::Join(id) => format!("join/{id}"),
            Self::Node(id) => format!("node/{id}"),
            Self::ImportSync(peer) => format!("import/{peer}/sync"),
            Self::Import(peer, service) => {
                format!("import/{peer}/svc/{}/{}", service.namespace, service.name)
            }
            Self::Address(service) => format!("address/{}/{}", service.namespace, service.name),
            Self::Claim(service) => format!("claim/{}/{}", service.namespace, service.name),
            Self::Document(object) => format!("document/{}", object_path(object)),
            Self::Applied(object) => format!("applied/{}", object_path(object)),
            Self::Leader => "control/leader".to_owned(),
            Self::Epoch => "control/epoch".to_owned(),
        };
        Key::new(&format!("{ROOT}{path}")).expect("names have no slash, are visible ASCII and are bounded")
    }

    fn read(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.split('/').collect();
        Some(match segments.as_slice() {
            ["meta"] => Self::Meta,
            ["trust", "ca", "state"] => Self::CaState,
            ["trust", "td", domain] => Self::Bundle((*domain).try_into().ok()?),
            ["trust", "block", digest] => Self::Blocked(digest.parse().ok()?),
            ["trust", "epoch"] => Self::TrustEpoch,
            ["trust", "ack", replica] => Self::Acknowledgement(name(replica)?),
            ["peer", cluster] => Self::Peer(name(cluster)?),
            ["join", id] => Self::Join(id.parse().ok()?),
            ["node", id] => Self::Node(id.parse().ok()?),
            ["import", peer, "sync"] => Self::ImportSync(name(peer)?),
            ["import", peer, "svc", ns, svc] => Self::Import(name(peer)?, service(ns, svc)?),
            ["address", ns, svc] => Self::Address(service(ns, svc)?),
            ["claim", ns, svc] => Self::Claim(service(ns, svc)?),
            ["document", kind, ns, object] => Self::Document(read_object(kind, ns, object)?),
            ["applied", kind, ns, object] => Self::Applied(read_object(kind, ns, object)?),
            ["control", "leader"] => Self::Leader,
            ["control", "epoch"] => Self::Epoch,
            _ => return None,
        })
    }
}

impl TryFrom<&Key> for Place {
    type Error = UnknownPlace;

    fn try_from(key: &Key) -> Result<Self, UnknownPlace> {
        let path = key.as_str().strip_prefix(ROOT);
        // A second spelling of a place would be a second record of one thing.
        let spelled_so = |place: &Self| place.key() == *key;
        path.and_then(Self::read).filter(spelled_so).ok_or_else(|| UnknownPlace(key.clone()))
    }
}

pub fn everything() -> Prefix {
    prefix("")
}

pub fn bundles() -> Prefix {
    prefix("trust/td/")
}

pub fn blocked() -> Prefix {
    prefix("trust/block/")
}

pub fn acknowledgements() -> Prefix {
    prefix("trust/ack/")
}

pub fn peers() -> Prefix {
    prefix("peer/")
}

pub fn joins() -> Prefix {
    prefix("join/")
}

pub fn nodes() -> Prefix {
    prefix("node/")
}

pub fn imports() -> Prefix {
    prefix("import/")
}

pub fn imports_of(peer: &ClusterName) -> Prefix {
    prefix(&format!("import/{peer}/"))
}

pub fn addresses() -> Prefix {
    prefix("address/")
}

pub fn claims() -> Prefix {
    prefix("claim/")
}

pub fn documents() -> Prefix {
    prefix("document/")
}

pub fn applied() -> Prefix {
    prefix("applied/")
}

pub fn control() -> Prefix {
    prefix("control/")
}

fn prefix(path: &str) -> Prefix {
    Prefix::new(&format!("{ROOT}{path}")).expect("names have no slash, are visible ASCII and are bounded")
}

fn object_path(object: &ObjectKey) -> String {
    // The kind is any text that a document gives; what can be no kind is kept apart from all that are.
    let kind = if is_kind(&object.kind) { &*object.kind } else { "_" };
    format!("{kind}/{}/{}", object.namespace, object.name)
}

/// Kinds of the Kubernetes API are names of at most 63 letters and digits.
const KIND_BYTES_MAX: usize = 63;

fn is_kind(text: &str) -> bool {
    (1..=KIND_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn read_object(kind: &str, namespace: &str, object: &str) -> Option<ObjectKey> {
    let name = ObjectName::try_from(object).ok().filter(|_name| is_kind(kind))?;
    Some(ObjectKey { kind: kind.into(), namespace: self::name(namespace)?, name })
}

fn service(namespace: &str, service: &str) -> Option<ServiceName> {
    Some(ServiceName::new(name(service)?, name(namespace)?))
}

fn name<'a, T: TryFrom<&'a str>>(segment: &'a str) -> Option<T> {
    T::try_from(segment).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places() -> Vec<(&'static str, Place)> {
        let peer = || ClusterName::try_from("cloud").unwrap();
        let cart = || ServiceName::try_from("cart.shop").unwrap();
        let route = || ObjectKey {
            kind: "HTTPRoute".into(),
            namespace: "shop".try_into().unwrap(),
            name: "cart.v2".try_into().unwrap(),
        };
        vec![
            ("meta", Place::Meta),
            ("trust/ca/state", Place::CaState),
            ("trust/td/cloud.example.org", Place::Bundle("cloud.example.org".try_into().unwrap())),
            (
                "trust/block/0707070707070707070707070707070707070707070707070707070707070707",
                Place::Blocked(AuthorityId::from([7; 32])),
            ),
            ("trust/epoch", Place::TrustEpoch),
            ("trust/ack/gw-0", Place::Acknowledgement("gw-0".try_into().unwrap())),
            ("peer/cloud", Place::Peer(peer())),
            (
                "join/ffffffffffffffffffffffffffffffff",
                Place::Join(TokenId::try_from(&[255; 16][..]).unwrap()),
            ),
            ("import/cloud/sync", Place::ImportSync(peer())),
            ("import/cloud/svc/shop/cart", Place::Import(peer(), cart())),
            ("address/shop/cart", Place::Address(cart())),
            ("document/HTTPRoute/shop/cart.v2", Place::Document(route())),
            ("applied/HTTPRoute/shop/cart.v2", Place::Applied(route())),
            ("control/leader", Place::Leader),
            ("control/epoch", Place::Epoch),
        ]
    }

    #[test]
    fn the_layout_is_that_of_the_notes() {
        for (path, place) in places() {
            assert_eq!(place.key().as_str(), format!("{ROOT}{path}"));
            assert_eq!(Place::try_from(&place.key()), Ok(place));
        }
    }

    #[test]
    fn what_is_not_in_the_layout_is_unknown() {
        for path in
            ["x", "peer/A", "peer/a/b", "join/ff", "import/cloud/svc/shop", "trust/td/UPPER", "address/a"]
        {
            let key = Key::new(&format!("{ROOT}{path}")).unwrap();
            assert_eq!(Place::try_from(&key), Err(UnknownPlace(key)));
        }
        let elsewhere = Key::new("/other/meta").unwrap();
        assert!(Place::try_from(&elsewhere).is_err());
    }

    #[test]
    fn prefixes_cover_their_places_alone() {
        let (a, ab) = (ClusterName::try_from("a").unwrap(), ClusterName::try_from("ab").unwrap());
        assert!(imports_of(&a).contains(&Place::ImportSync(a.clone()).key()));
        assert!(!imports_of(&a).contains(&Place::ImportSync(ab).key()));
        for (_path, place) in places() {
            assert!(everything().contains(&place.key()));
            let is_peer = matches!(place, Place::Peer(_));
            assert_eq!(peers().contains(&place.key()), is_peer, "{place:?}");
        }
    }

    proptest! {
        #[test]
        fn every_kind_of_document_has_a_place(kind in ".{0,80}", name in "[a-z0-9]{1,63}(\\.[a-z0-9]{1,63}){0,3}") {
            let Ok(name) = ObjectName::try_from(name.as_str()) else { return Ok(()) };
            let object = ObjectKey { kind: kind.as_str().into(), namespace: "x".repeat(63).as_str().try_into().unwrap(), name };
            let place = Place::Document(object);
            let known = Place::try_from(&place.key());
            prop_assert_eq!(known.ok(), is_kind(&kind).then_some(place));
        }

        #[test]
        fn keys_and_places_are_one_to_one(path in "(peer|import|address|join|document|trust)(/[a-z0-9.-]{1,9}){1,4}") {
            let Ok(key) = Key::new(&format!("{ROOT}{path}")) else { return Ok(()) };
            if let Ok(place) = Place::try_from(&key) {
                prop_assert_eq!(place.key(), key);
            }
        }
    }
}
