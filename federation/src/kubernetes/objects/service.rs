//! Core `Service`.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::InvalidObject;
use super::document::Read;
use crate::catalog::Object;
use crate::model::{
    AppProtocol, Label, ObjectKey, Service, ServiceKind, ServiceName, ServicePort, Transport,
};

/// Far beyond any real service; a peer has to carry all of them.
const PORTS_MAX: usize = 250;

#[derive(Debug, Deserialize)]
pub(super) struct ServiceObject {
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    port: u16,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

pub(super) fn read(key: &ObjectKey, object: ServiceObject) -> Result<Read, InvalidObject> {
    let name = name(key)?;
    if object.spec.r#type.as_deref() == Some("ExternalName") {
        return Ok(Object::ExternalName(name).into());
    }
    let kind = match object.spec.cluster_ip.as_deref() {
        Some("None") => ServiceKind::Headless,
        _ => ServiceKind::ClusterSetIp,
    };
    let written = object.spec.ports.unwrap_or_default();
    if written.len() > PORTS_MAX {
        return Err(InvalidObject::new("spec.ports", format!("more than {PORTS_MAX} ports")));
    }
    let mut notes = Vec::new();
    let mut ports = Vec::new();
    for (index, port) in written.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        match transport(port.protocol.as_deref()) {
            Some(transport) => ports.push(port.read(&path, transport, written.len())?),
            None => {
                notes.push((format!("{path}.protocol"), "is not served: only TCP and UDP are".to_owned()))
            }
        }
    }
    check_distinct(&ports)?;
    if ports.is_empty() && kind == ServiceKind::ClusterSetIp {
        return Err(InvalidObject::new("spec.ports", "there is no port that can be served"));
    }
    Ok(Read { object: Object::Service(Service { name, kind, ports }), notes })
}

/// A service's name is one label, as it is part of a host name.
pub(super) fn name(key: &ObjectKey) -> Result<ServiceName, InvalidObject> {
    let name = Label::try_from(key.name.as_str()).map_err(|e| InvalidObject::new("metadata.name", e))?;
    Ok(ServiceName::new(name, key.namespace.clone()))
}

pub(super) fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

impl Port {
    fn read(&self, path: &str, transport: Transport, of: usize) -> Result<ServicePort, InvalidObject> {
        let name = self.name.clone().unwrap_or_default();
        if name.is_empty() && of > 1 {
            return Err(InvalidObject::new(
                format!("{path}.name"),
                "is needed where a service has several ports",
            ));
        }
        if !name.is_empty() {
            Label::try_from(name.as_str()).map_err(|e| InvalidObject::new(format!("{path}.name"), e))?;
        }
        if self.port == 0 {
            return Err(InvalidObject::new(format!("{path}.port"), "must be 1 to 65535"));
        }
        let protocol = AppProtocol::detect(self.app_protocol.as_deref(), &name);
        Ok(ServicePort { name, port: self.port, transport, protocol })
    }
}

fn check_distinct(ports: &[ServicePort]) -> Result<(), InvalidObject> {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for port in ports {
        if !names.insert(&port.name) {
            return Err(InvalidObject::new("spec.ports", format!("two ports are named {:?}", port.name)));
        }
        if !numbers.insert((port.port, port.transport)) {
            return Err(InvalidObject::new("spec.ports", format!("port {} is there twice", port.port)));
        }
    }
    Ok(())
}
