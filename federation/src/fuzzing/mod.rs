//! What libFuzzer calls in this crate (`tests/fuzz/run`); in no ordinary build.
//!
//! Each target is given bytes of a stranger, an operator or a disk. It must not panic, and what it says
//! of them must hold: what is read is written back the same, and every bound is kept. What came in is
//! then taken as far as it goes: into the catalog, its snapshot, and the state that gateways are sent.

mod control;
mod documents;
mod peering;
mod query;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use trust_bundle::{SpiffeId, TrustDomain};

use crate::catalog::Catalog;
use crate::control::state::{Parts, State, decode};
use crate::model::{ClusterName, Locality, Peer, RelationshipState, Timestamp};
use crate::snapshot::{LocalCluster, Snapshot};

/// A name, as of its folder in the corpus, and what takes its inputs.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("peering", peering::messages),
    ("join", peering::join),
    ("proxy_header", control::proxy_header),
    ("control", control::messages),
    ("state", stored::state),
    ("store_key", stored::key),
    ("store_value", stored::value),
    ("documents", documents::documents),
    ("settings", documents::settings),
    ("names", documents::names),
    ("dns", query::dns),
];

/// The bundles of the corpus are valid then: 2026-11-22.
const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_795_350_000));

fn cluster(name: &str) -> ClusterName {
    ClusterName::try_from(name).expect("a name")
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::try_from(name).expect("a trust domain")
}

fn catalog() -> Catalog {
    let trust_domain = domain("onprem.example");
    Catalog::new(LocalCluster {
        name: cluster("onprem"),
        trust_domain,
        locality: Locality::default(),
        gateways: None,
    })
}

fn peer(name: &str) -> Peer {
    let trust_domain = domain("cloud.example");
    let id = |path| SpiffeId::new(&trust_domain, path).expect("an id");
    Peer {
        name: cluster(name),
        gateway_id: id("/isthmus/gateway"),
        federation_id: id("/isthmus/federation"),
        trust_domain,
        gateways: Vec::new(),
        joined: Timestamp::from_unix(0),
        state: RelationshipState::Active,
        sameness: Vec::new(),
    }
}

/// Every snapshot reaches a gateway as it is.
fn reaches_a_gateway(snapshot: Arc<Snapshot>) {
    let generation = snapshot.generation;
    let parts = Parts::encode(State { snapshot, bundles: [].into() }, None);
    let read = decode(&parts.full().to_bytes(), generation, NOW).expect("what we encode is a state");
    assert_eq!(read, *parts.state());
    assert_eq!(Parts::encode(read, None).digest(), parts.digest());
}

#[cfg(test)]
#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[test]
fn what_was_found_once_stays_mended() {
    replay::corpus(TARGETS);
}
