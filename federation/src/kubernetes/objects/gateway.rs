//! Gateway API `Gateway`: listeners that we serve, and conditions for those that we do not.

use std::net::IpAddr;

use serde::Deserialize;

use super::InvalidObject;
use super::document::Read;
use crate::catalog::{Condition, ConditionKind, Gateway, GatewayListener, Object, RoutesFrom};
use crate::model::{Hostname, Label, Listener, ListenerProtocol, ObjectKey};

/// The one class that is served here.
const CLASS: &str = "isthmus";
/// As the API server has them.
const LISTENERS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 16;

#[derive(Debug, Deserialize)]
pub(super) struct GatewayObject {
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    gateway_class_name: String,
    #[serde(default)]
    addresses: Option<Vec<Address>>,
    listeners: Vec<ListenerObject>,
}

#[derive(Debug, Deserialize)]
struct Address {
    r#type: Option<String>,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListenerObject {
    name: String,
    hostname: Option<String>,
    port: u16,
    protocol: String,
    allowed_routes: Option<AllowedRoutes>,
}

#[derive(Debug, Default, Deserialize)]
struct AllowedRoutes {
    namespaces: Option<Namespaces>,
    kinds: Option<Vec<RouteKind>>,
}

#[derive(Debug, Deserialize)]
struct Namespaces {
    from: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RouteKind {
    group: Option<String>,
    kind: String,
}

pub(super) fn read(key: &ObjectKey, object: GatewayObject) -> Result<Read, InvalidObject> {
    let spec = object.spec;
    if spec.listeners.is_empty() || spec.listeners.len() > LISTENERS_MAX {
        return Err(InvalidObject::new(
            "spec.listeners",
            format!("must hold 1 to {LISTENERS_MAX} listeners"),
        ));
    }
    let mut faults = Vec::new();
    let addresses = addresses(spec.addresses.unwrap_or_default(), &mut faults)?;
    if spec.gateway_class_name != CLASS {
        let message = format!("gatewayClassName {:?} is not ours; hint: {CLASS}", spec.gateway_class_name);
        faults.push(Condition::fails(ConditionKind::Accepted, "NotOurs", message));
    }
    let mut listeners = Vec::new();
    for (index, listener) in spec.listeners.iter().enumerate() {
        let path = format!("spec.listeners[{index}]");
        let name = Label::try_from(listener.name.as_str())
            .map_err(|e| InvalidObject::new(format!("{path}.name"), e))?;
        if spec.listeners[..index].iter().any(|other| other.name == listener.name) {
            return Err(InvalidObject::new(format!("{path}.name"), "two listeners have this name"));
        }
        listener.read(key, &path, &name, &addresses, &mut listeners, &mut faults)?;
    }
    Ok(Object::Gateway(Gateway { listeners, faults }).into())
}

/// The addresses to listen on; one `None` is the default address.
fn addresses(
    written: Vec<Address>,
    faults: &mut Vec<Condition>,
) -> Result<Vec<Option<IpAddr>>, InvalidObject> {
    if written.len() > ADDRESSES_MAX {
        return Err(InvalidObject::new("spec.addresses", format!("more than {ADDRESSES_MAX} addresses")));
    }
    let mut addresses = Vec::new();
    for (index, address) in written.iter().enumerate().filter(|(_, address)| !address.value.is_empty()) {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        match address.value.parse::<IpAddr>() {
            Ok(ip) if kind == "IPAddress" => addresses.push(Some(ip)),
            Err(_) if kind == "IPAddress" => {
                let reason =
                    format!("{:?} is not an IP address", address.value.chars().take(80).collect::<String>());
                return Err(InvalidObject::new(format!("spec.addresses[{index}].value"), reason));
            }
            _ => faults.push(Condition::fails(
                ConditionKind::Accepted,
                "UnsupportedAddress",
                format!("spec.addresses[{index}]: only addresses of type IPAddress can be listened on"),
            )),
        }
    }
    addresses.sort();
    addresses.dedup();
    Ok(if addresses.is_empty() { vec![None] } else { addresses })
}

impl ListenerObject {
    fn read(
        &self,
        gateway: &ObjectKey,
        path: &str,
        name: &Label,
        addresses: &[Option<IpAddr>],
        listeners: &mut Vec<GatewayListener>,
        faults: &mut Vec<Condition>,
    ) -> Result<(), InvalidObject> {
        if self.port == 0 {
            return Err(InvalidObject::new(format!("{path}.port"), "must be 1 to 65535"));
        }
        let hostname = self.hostname.as_deref().filter(|name| !name.is_empty()).map(Hostname::try_from);
        let hostname = hostname.transpose().map_err(|e| InvalidObject::new(format!("{path}.hostname"), e))?;
        if self.protocol != "HTTP" {
            let message = format!("{path}.protocol: {:?} is not served; HTTP is", self.protocol);
            let fault = Condition::fails(ConditionKind::Accepted, "UnsupportedProtocol", message);
            faults.push(fault.of(name.as_str()));
            return Ok(());
        }
        let routes_from = self.routes_from(path, name, faults);
        listeners.extend(addresses.iter().map(|address| GatewayListener {
            listener: Listener {
                gateway: gateway.clone(),
                name: name.clone(),
                address: *address,
                port: self.port,
                protocol: ListenerProtocol::Http,
                hostname: hostname.clone(),
            },
            routes_from,
        }));
        Ok(())
    }

    fn routes_from(&self, path: &str, name: &Label, faults: &mut Vec<Condition>) -> RoutesFrom {
        let allowed = self.allowed_routes.as_ref();
        if let Some(kinds) =
            allowed.and_then(|allowed| allowed.kinds.as_ref()).filter(|kinds| !kinds.is_empty())
        {
            let is_http = |kind: &RouteKind| {
                kind.kind == "HTTPRoute"
                    && kind.group.as_deref().is_none_or(|group| group == "gateway.networking.k8s.io")
            };
            if !kinds.iter().all(is_http) {
                let message = format!("{path}.allowedRoutes.kinds: only HTTPRoute is served");
                let fault = Condition::fails(ConditionKind::ResolvedRefs, "InvalidRouteKinds", message);
                faults.push(fault.of(name.as_str()));
            }
            if !kinds.iter().any(is_http) {
                return RoutesFrom::Nowhere;
            }
        }
        let from = allowed.and_then(|allowed| allowed.namespaces.as_ref()?.from.as_deref());
        match from {
            None | Some("Same") => RoutesFrom::SameNamespace,
            Some("All") => RoutesFrom::AllNamespaces,
            Some("None") => RoutesFrom::Nowhere,
            Some(other) => {
                let message = format!(
                    "{path}.allowedRoutes.namespaces.from: {other:?} is not supported, so no route is taken; hint: Same or All"
                );
                let fault = Condition::fails(ConditionKind::ResolvedRefs, "UnsupportedValue", message);
                faults.push(fault.of(name.as_str()));
                RoutesFrom::Nowhere
            }
        }
    }
}
