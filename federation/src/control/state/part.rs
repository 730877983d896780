//! The parts as JSON: what is shared within a service is written once.
//!
//! Imports of a merged service are named by cluster and written in parts of their own, so that a
//! change of one import sends neither the service's own endpoints nor the other peers' imports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trust_bundle::TrustDomain;

use crate::model::{
    ClusterName, Endpoint, Export, Freshness, Host, HttpRoute, Import, Label, Listener, Locality, Peer,
    Readiness, Service, ServiceKind, ServiceName, ServicePort,
};
use crate::snapshot::{ListenerView, LocalCluster, LocalService, MergedService, PeerView, ServiceView};

/// Why a part is not what its key says.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidPart {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("an endpoint names ports or a place that the part does not have")]
    Table,
    #[error("an endpoint has no weight")]
    Weight,
    #[error("it is of something else than its key says")]
    Misnamed,
}

#[derive(Serialize, Deserialize)]
struct ClusterPart {
    name: ClusterName,
    trust_domain: TrustDomain,
    #[serde(default)]
    locality: Place,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateways: Option<u32>,
}

/// A locality that may grow members without an older gateway refusing it.
#[derive(Serialize, Deserialize, Default, PartialEq, Eq, PartialOrd, Ord, Clone)]
#[serde(default)]
struct Place {
    #[serde(skip_serializing_if = "String::is_empty")]
    region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sub_zone: String,
}

#[derive(Serialize, Deserialize)]
struct ServicePart {
    name: ServiceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local: Option<LocalPart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    merged: Option<MergedPart>,
}

#[derive(Serialize, Deserialize)]
struct LocalPart {
    service: Service,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    export: Option<Export>,
    /// Endpoints name their ports and places by number in these.
    #[serde(default)]
    ports: Vec<Arc<BTreeMap<String, u16>>>,
    #[serde(default)]
    places: Vec<Place>,
    #[serde(default)]
    endpoints: Vec<EndpointPart>,
}

#[derive(Serialize, Deserialize)]
struct EndpointPart {
    host: Host,
    #[serde(default, skip_serializing_if = "is_default")]
    ports: usize,
    #[serde(default, skip_serializing_if = "is_default")]
    place: usize,
    #[serde(default = "ready", skip_serializing_if = "is_ready")]
    readiness: Readiness,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<Label>,
}

/// A merged service, its imports still by name.
#[derive(Serialize, Deserialize)]
struct MergedPart {
    kind: ServiceKind,
    ports: Vec<ServicePort>,
    #[serde(default)]
    exported_here: bool,
    #[serde(default)]
    imports: Vec<ClusterName>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct PeerPart {
    peer: Peer,
    freshness: Freshness,
    #[serde(default)]
    exported_to: BTreeSet<ServiceName>,
}

#[derive(Serialize, Deserialize)]
struct ListenerPart {
    listener: Listener,
    #[serde(default)]
    routes: Vec<Arc<HttpRoute>>,
}

fn is_default(number: &usize) -> bool {
    *number == 0
}

fn ready() -> Readiness {
    Readiness::Ready
}

fn is_ready(readiness: &Readiness) -> bool {
    *readiness == Readiness::Ready
}

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

pub(super) fn write_cluster(cluster: &LocalCluster) -> Vec<u8> {
    write(&ClusterPart {
        name: cluster.name.clone(),
        trust_domain: cluster.trust_domain.clone(),
        locality: place(&cluster.locality),
        gateways: cluster.gateways,
    })
}

pub(super) fn read_cluster(json: &[u8]) -> Result<LocalCluster, InvalidPart> {
    let ClusterPart { name, trust_domain, locality, gateways } = serde_json::from_slice(json)?;
    Ok(LocalCluster { name, trust_domain, locality: self::locality(locality), gateways })
}

pub(super) fn write_service(view: &ServiceView) -> Vec<u8> {
    let merged = view.merged.as_ref().map(|merged| MergedPart {
        kind: merged.kind,
        ports: merged.ports.clone(),
        exported_here: merged.exported_here,
        imports: merged.imports.iter().map(|import| import.peer.clone()).collect(),
        addresses: merged.addresses.clone(),
    });
    write(&ServicePart { name: view.name.clone(), local: view.local.as_ref().map(local_part), merged })
}

/// A service as its part says it; `import` finds the contribution of a cluster.
pub(super) fn read_service<E: From<InvalidPart>>(
    name: &ServiceName,
    json: &[u8],
    import: impl Fn(&ClusterName) -> Result<Arc<Import>, E>,
) -> Result<ServiceView, E> {
    let part: ServicePart = serde_json::from_slice(json).map_err(InvalidPart::from)?;
    let service_name = part.local.as_ref().map_or(name, |local| &local.service.name);
    if part.name != *name || service_name != name {
        return Err(InvalidPart::Misnamed.into());
    }
    let merged = part.merged.map(|merged| {
        let MergedPart { kind, ports, exported_here, imports, addresses } = merged;
        let imports = imports.iter().map(import).collect::<Result<_, E>>()?;
        Ok::<_, E>(MergedService { kind, ports, exported_here, imports, addresses })
    });
    let local = part.local.map(LocalPart::read).transpose()?;
    Ok(ServiceView { name: part.name, local, merged: merged.transpose()? })
}

pub(super) fn write_import(import: &Import) -> Vec<u8> {
    write(import)
}

pub(super) fn read_import(
    peer: &ClusterName,
    name: &ServiceName,
    json: &[u8],
) -> Result<Import, InvalidPart> {
    let import: Import = serde_json::from_slice(json)?;
    if import.peer == *peer && import.service == *name { Ok(import) } else { Err(InvalidPart::Misnamed) }
}

pub(super) fn write_peer(view: &PeerView) -> Vec<u8> {
    let PeerView { peer, freshness, exported_to, imports: _in_their_own_parts } = view;
    write(&PeerPart { peer: peer.clone(), freshness: *freshness, exported_to: exported_to.clone() })
}

pub(super) fn read_peer(
    name: &ClusterName,
    json: &[u8],
    imports: BTreeMap<ServiceName, Arc<Import>>,
) -> Result<PeerView, InvalidPart> {
    let PeerPart { peer, freshness, exported_to } = serde_json::from_slice(json)?;
    if peer.name != *name {
        return Err(InvalidPart::Misnamed);
    }
    Ok(PeerView { peer, freshness, exported_to, imports })
}

pub(super) fn write_listener(view: &ListenerView) -> Vec<u8> {
    write(&ListenerPart { listener: view.listener.clone(), routes: view.routes.clone() })
}

pub(super) fn read_listener(json: &[u8]) -> Result<ListenerView, InvalidPart> {
    let ListenerPart { listener, routes } = serde_json::from_slice(json)?;
    Ok(ListenerView { listener, routes })
}

fn write(part: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(part).expect("names, numbers and texts always serialise")
}

fn place(locality: &Locality) -> Place {
    let Locality { region, zone, sub_zone } = locality.clone();
    Place { region, zone, sub_zone }
}

fn locality(place: Place) -> Locality {
    let Place { region, zone, sub_zone } = place;
    Locality { region, zone, sub_zone }
}

fn local_part(local: &LocalService) -> LocalPart {
    let (mut ports, mut places) = (Table::default(), Table::default());
    let endpoints = local.endpoints.iter().map(|endpoint| EndpointPart {
        host: endpoint.host.clone(),
        ports: ports.number(&endpoint.ports),
        place: places.number(&place(&endpoint.locality)),
        readiness: endpoint.readiness,
        weight: endpoint.weight,
        hostname: endpoint.hostname.clone(),
    });
    let endpoints = endpoints.collect();
    let (ports, places) = (ports.rows, places.rows);
    LocalPart { service: local.service.clone(), export: local.export.clone(), ports, places, endpoints }
}

impl LocalPart {
    fn read(self) -> Result<LocalService, InvalidPart> {
        let Self { service, export, ports, places, endpoints } = self;
        let places: Vec<_> = places.into_iter().map(locality).collect();
        let endpoint = |part: EndpointPart| {
            let EndpointPart { host, ports: port_row, place, readiness, weight, hostname } = part;
            if weight == 0 {
                return Err(InvalidPart::Weight);
            }
            let ports = Arc::clone(ports.get(port_row).ok_or(InvalidPart::Table)?);
            let locality = places.get(place).ok_or(InvalidPart::Table)?.clone();
            Ok(Arc::new(Endpoint { host, ports, locality, readiness, weight, hostname }))
        };
        let endpoints = endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(LocalService { service, endpoints, export })
    }
}

/// Numbers equal things in the order in which they come.
struct Table<T> {
    rows: Vec<T>,
    numbers: BTreeMap<T, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), numbers: BTreeMap::new() }
    }
}

impl<T: Ord + Clone> Table<T> {
    fn number(&mut self, row: &T) -> usize {
        if let Some(number) = self.numbers.get(row) {
            return *number;
        }
        self.rows.push(row.clone());
        self.numbers.insert(row.clone(), self.rows.len() - 1);
        self.rows.len() - 1
    }
}
