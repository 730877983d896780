//! `discovery.k8s.io` `EndpointSlice`; loopback addresses are legal here, hints are ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::InvalidObject;
use super::document::{Metadata, Read};
use crate::catalog::{EndpointSlice, Object};
use crate::model::{Endpoint, Host, Label, Locality, ObjectKey, Readiness, ServiceName};

/// As the API server has it.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 250;
/// The label that names the slice's service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Slices have a zone for each endpoint, but no region.
const REGION_LABEL: &str = "topology.kubernetes.io/region";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceObject {
    address_type: Option<String>,
    #[serde(default)]
    endpoints: Option<Vec<EndpointObject>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
struct EndpointObject {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<Conditions>,
    hostname: Option<String>,
    zone: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

/// What all endpoints of a slice share.
struct Shared {
    addresses: AddressType,
    ports: Arc<BTreeMap<String, u16>>,
    region: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AddressType {
    Ipv4,
    Ipv6,
    Fqdn,
}

pub(super) fn read(key: &ObjectKey, metadata: &Metadata, object: SliceObject) -> Result<Read, InvalidObject> {
    let service = service(key, metadata)?;
    let mut notes = Vec::new();
    let shared = Shared {
        addresses: address_type(object.address_type.as_deref())?,
        ports: Arc::new(ports(object.ports.unwrap_or_default(), &mut notes)?),
        region: metadata.label(REGION_LABEL).unwrap_or_default().to_owned(),
    };
    let written = object.endpoints.unwrap_or_default();
    if written.len() > ENDPOINTS_MAX {
        let reason = format!("more than {ENDPOINTS_MAX} endpoints; write several slices");
        return Err(InvalidObject::new("endpoints", reason));
    }
    let mut endpoints = Vec::with_capacity(written.len());
    for (index, endpoint) in written.into_iter().enumerate() {
        endpoint.read(&format!("endpoints[{index}]"), &shared, &mut endpoints)?;
    }
    let slice = EndpointSlice { service, namespace: key.namespace.clone(), endpoints };
    Ok(Read { object: Object::Endpoints(slice), notes })
}

fn service(key: &ObjectKey, metadata: &Metadata) -> Result<ServiceName, InvalidObject> {
    let path = "metadata.labels";
    let name = metadata
        .label(SERVICE_LABEL)
        .ok_or_else(|| InvalidObject::new(path, format!("must name the service in {SERVICE_LABEL}")))?;
    let name =
        Label::try_from(name).map_err(|e| InvalidObject::new(path, format!("{SERVICE_LABEL}: {e}")))?;
    Ok(ServiceName::new(name, key.namespace.clone()))
}

fn address_type(word: Option<&str>) -> Result<AddressType, InvalidObject> {
    match word {
        Some("IPv4") => Ok(AddressType::Ipv4),
        Some("IPv6") => Ok(AddressType::Ipv6),
        Some("FQDN") => Ok(AddressType::Fqdn),
        _ => Err(InvalidObject::new("addressType", "must be IPv4, IPv6 or FQDN")),
    }
}

fn ports(
    ports: Vec<Port>,
    notes: &mut Vec<(String, String)>,
) -> Result<BTreeMap<String, u16>, InvalidObject> {
    if ports.len() > PORTS_MAX {
        return Err(InvalidObject::new("ports", format!("more than {PORTS_MAX} ports")));
    }
    let mut by_name = BTreeMap::new();
    for (index, port) in ports.into_iter().enumerate() {
        let path = format!("ports[{index}]");
        let Some(number) = port.port else {
            notes.push((format!("{path}.port"), "is not there, so the port is not served".to_owned()));
            continue;
        };
        let name = port.name.unwrap_or_default();
        if number == 0 {
            return Err(InvalidObject::new(format!("{path}.port"), "must be 1 to 65535"));
        }
        if by_name.insert(name.clone(), number).is_some() {
            return Err(InvalidObject::new(format!("{path}.name"), format!("two ports are named {name:?}")));
        }
    }
    Ok(by_name)
}

impl EndpointObject {
    fn read(self, path: &str, shared: &Shared, into: &mut Vec<Arc<Endpoint>>) -> Result<(), InvalidObject> {
        if self.addresses.is_empty() || self.addresses.len() > ADDRESSES_MAX {
            let reason = format!("must hold 1 to {ADDRESSES_MAX} addresses");
            return Err(InvalidObject::new(format!("{path}.addresses"), reason));
        }
        let hostname = self.hostname.as_deref().filter(|name| !name.is_empty()).map(Label::try_from);
        let hostname = hostname.transpose().map_err(|e| InvalidObject::new(format!("{path}.hostname"), e))?;
        let locality = Locality {
            region: shared.region.clone(),
            zone: self.zone.unwrap_or_default(),
            sub_zone: String::new(),
        };
        for (index, address) in self.addresses.iter().enumerate() {
            let host = host(address, shared.addresses)
                .map_err(|reason| InvalidObject::new(format!("{path}.addresses[{index}]"), reason))?;
            into.push(Arc::new(Endpoint {
                host,
                ports: Arc::clone(&shared.ports),
                locality: locality.clone(),
                readiness: self.conditions.unwrap_or_default().readiness(),
                weight: 1,
                hostname: hostname.clone(),
            }));
        }
        Ok(())
    }
}

fn host(address: &str, kind: AddressType) -> Result<Host, String> {
    let host = Host::try_from(address).map_err(|e| e.to_string())?;
    let fits = match (&host, kind) {
        (Host::Ip(ip), AddressType::Ipv4) => ip.is_ipv4(),
        (Host::Ip(ip), AddressType::Ipv6) => ip.is_ipv6(),
        (Host::Name(_), AddressType::Fqdn) => true,
        _ => false,
    };
    if fits { Ok(host) } else { Err(format!("{host} is not of the slice's addressType")) }
}

impl Conditions {
    /// Not said means ready (Kubernetes API, EndpointConditions).
    fn readiness(self) -> Readiness {
        let ready = self.ready.unwrap_or(true);
        let serving = self.serving.unwrap_or(ready);
        match (ready, serving && self.terminating == Some(true)) {
            (true, _) => Readiness::Ready,
            (false, true) => Readiness::Draining,
            (false, false) => Readiness::NotReady,
        }
    }
}
