//! What a peer says, and what a stranger with a token does.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;

use super::{catalog, cluster, peer, reaches_a_gateway};
use crate::catalog::Event;
use crate::model::{Import, ServiceName};
use crate::peering::imports::{Changed, Imports, Violation};
use crate::peering::proto::message::Body;
use crate::peering::proto::{JoinRequest, Message, RedeemRequest, RedeemResponse};
use crate::peering::wire;
use crate::store::Revision;

/// As many characters as one may become that is escaped.
const ESCAPED_MAX: usize = 10;

/// A stream of messages, each behind its length.
pub(super) fn messages(bytes: &[u8]) {
    let mut imports = Imports::new(cluster("cloud"), None, BTreeMap::new());
    let mut stored: BTreeMap<ServiceName, Arc<Import>> = BTreeMap::new();
    let mut epoch = 1;
    imports.begin(epoch);
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (message, later) = behind.split_at(length);
        rest = later;
        let Ok(message) = Message::decode(message) else { continue };
        assert_eq!(Message::decode(&*message.encode_to_vec()).as_ref(), Ok(&message));
        let mut changed = Changed::default();
        if take(message.body, &mut imports, &mut changed).is_err() {
            // Nothing of what is staged survives its stream.
            epoch += 1;
            imports.begin(epoch);
        }
        for name in &changed.removed {
            assert!(stored.remove(name).is_some() && !changed.put.contains_key(name), "{name} was not there");
        }
        stored.extend(changed.put);
        assert_eq!(&stored, imports.services(), "what is stored is what is held");
    }
    let mut catalog = catalog();
    catalog.apply(Event::PeerChanged(peer("cloud")));
    catalog.apply(Event::ImportsReplaced { peer: cluster("cloud"), imports: stored });
    catalog.settle();
    reaches_a_gateway(catalog.snapshot().expect("the first snapshot is news"));
}

fn take(body: Option<Body>, imports: &mut Imports, changed: &mut Changed) -> Result<(), Violation> {
    match body {
        Some(Body::Service(said)) => drop(imports.service(said, changed)?),
        Some(Body::ServiceRemoved(said)) => imports.removed(&said, changed)?,
        Some(Body::FullBegin(_)) => imports.full_begin()?,
        Some(Body::FullEnd(said)) => imports.full_end(Revision(said.revision), changed)?,
        Some(Body::Gateways(said)) => addresses(&said.addresses),
        Some(Body::Nack(said)) => is_harmless(&wire::shown(&said.reason)),
        Some(Body::Removed(said)) => is_harmless(&wire::shown(&said.by)),
        _ => {}
    }
    Ok(())
}

fn addresses(said: &[String]) {
    let read = wire::gateways(said);
    assert_eq!(wire::gateways(&wire::gateways_said(&read)), read);
}

fn is_harmless(shown: &str) {
    assert!(shown.chars().count() <= 256 * ESCAPED_MAX && !shown.chars().any(char::is_control), "{shown:?}");
}

/// Both directions of a join.
pub(super) fn join(bytes: &[u8]) {
    if let Ok(said) = RedeemRequest::decode(bytes) {
        assert_eq!(RedeemRequest::decode(&*said.encode_to_vec()).as_ref(), Ok(&said));
        if let Ok(said) = JoinRequest::decode(&*said.request) {
            assert_eq!(JoinRequest::decode(&*said.encode_to_vec()).as_ref(), Ok(&said));
            addresses(&said.gateways);
        }
    }
    if let Ok(said) = RedeemResponse::decode(bytes) {
        assert_eq!(RedeemResponse::decode(&*said.encode_to_vec()).as_ref(), Ok(&said));
        addresses(&said.gateways);
    }
}
