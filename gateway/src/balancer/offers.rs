//! All targets that a snapshot names for a destination, each with what it offers or why it offers nothing.
//!
//! Only what the snapshot says counts here; links, marks and attempts come on top at each pick.

use std::sync::Arc;

use federation::model::{
    Endpoint, Freshness, Import, ImportedGroup, Locality, Proximity, Readiness, ServicePort,
};
use federation::snapshot::{LocalService, ServiceView, Snapshot};

use super::{Target, Tier, Why};
use crate::destination::{Destination, Scope};

/// One target and what the snapshot says of it.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) target: Target,
    pub(super) tier: Tier,
    pub(super) terms: Result<Terms, Why>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) weight: u32,
    pub(super) draining: bool,
}

pub(super) fn all<'a>(
    snapshot: &'a Snapshot,
    destination: &'a Destination,
) -> Box<dyn Iterator<Item = Offer> + 'a> {
    let here = &snapshot.cluster.locality;
    let service = &destination.service;
    match &destination.scope {
        Scope::Local => Box::new(own(service, &destination.port, here)),
        Scope::Merged => {
            let merged = service.merged.as_ref();
            let exported_here = merged.is_some_and(|merged| merged.exported_here);
            let own = own(service, &destination.port, here).filter(move |_| exported_here);
            let imports = merged.into_iter().flat_map(|merged| &merged.imports);
            Box::new(own.chain(imports.map(move |import| peer(import, &destination.port, here))))
        }
        Scope::Cluster(cluster) => {
            let view = snapshot.peers.get(cluster);
            let import = view.and_then(|view| view.imports.get(&service.name));
            Box::new(import.into_iter().map(move |import| peer(import, &destination.port, here)))
        }
    }
}

fn own<'a>(
    service: &'a ServiceView,
    port: &ServicePort,
    here: &'a Locality,
) -> impl Iterator<Item = Offer> + 'a + use<'a> {
    let local = service.local.as_ref();
    let name = local.and_then(|local| name_of(local, port));
    let endpoints = local.into_iter().flat_map(|local| local.endpoints.iter());
    endpoints.map(move |endpoint| {
        let number = name.and_then(|name| endpoint.port(name));
        let target = Target::Endpoint {
            host: endpoint.host.clone(),
            port: number.unwrap_or_default(),
            locality: Arc::new(endpoint.locality.clone()),
        };
        let tier = Tier::Own(here.proximity(&endpoint.locality));
        Offer { target, tier, terms: number.ok_or(Why::NoPort).and_then(|_| own_terms(endpoint)) }
    })
}

/// Another cluster may have named the port first; here the number says which one is meant.
fn name_of<'a>(local: &'a LocalService, port: &ServicePort) -> Option<&'a str> {
    let same = |own: &&ServicePort| own.port == port.port && own.transport == port.transport;
    local.service.ports.iter().find(same).map(|own| own.name.as_str())
}

fn own_terms(endpoint: &Endpoint) -> Result<Terms, Why> {
    match endpoint.readiness {
        Readiness::NotReady => Err(Why::NotReady),
        _ if endpoint.weight == 0 => Err(Why::NoWeight),
        readiness => Ok(Terms { weight: endpoint.weight, draining: readiness == Readiness::Draining }),
    }
}

fn peer(import: &Import, port: &ServicePort, here: &Locality) -> Offer {
    let ready = |group: &&ImportedGroup| group.ready > 0;
    let nearest = import.groups.iter().filter(ready).map(|group| here.proximity(&group.locality)).min();
    let offered = import.ports.iter().any(|own| own.port == port.port && own.transport == port.transport);
    let terms = match import.ready() {
        _ if !offered => Err(Why::NoPort),
        _ if import.freshness == Freshness::Expired => Err(Why::ImportExpired),
        0 => Err(Why::NoReadyEndpoint),
        ready => Ok(Terms { weight: ready, draining: false }),
    };
    let tier = Tier::Peer(nearest.unwrap_or(Proximity::Elsewhere));
    Offer { target: Target::Cluster(import.peer.clone()), tier, terms }
}
