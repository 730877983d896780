//! The router: one way in for each kind of downstream.

use std::net::IpAddr;
use std::sync::Arc;

use federation::model::{BackendTarget, ClusterName, RelationshipState, ServiceName, ServicePort};
use federation::snapshot::{PeerView, ServiceView, Snapshot};
use rand::Rng;

use super::authority::{Authority, parse_port};
use super::ingress::{self, ListenerKey, RequestHead, Routed, Sockets};
use super::name::{MeshName, Zone};
use super::services::Services;
use super::{NoRoute, ports};
use crate::destination::{Destination, DestinationKey, Scope};

/// All ways of one snapshot.
#[derive(Debug)]
pub struct Router {
    snapshot: Arc<Snapshot>,
    services: Services,
    sockets: Arc<Sockets>,
}

/// A service with the ports that it has in the scope that was asked for.
struct Found<'a> {
    service: Arc<ServiceView>,
    scope: Scope,
    ports: &'a [ServicePort],
}

impl Router {
    pub fn compile(snapshot: Arc<Snapshot>) -> Self {
        let sockets = Arc::new(ingress::compile(&snapshot.listeners));
        Self { services: Services::new(&snapshot), snapshot, sockets }
    }

    /// The router of the next snapshot; routes are compiled anew only if one of them changed.
    pub fn succeed(&self, snapshot: Arc<Snapshot>) -> Self {
        if self.snapshot.listeners != snapshot.listeners {
            return Self::compile(snapshot);
        }
        Self { services: Services::new(&snapshot), snapshot, sockets: self.sockets.clone() }
    }

    /// A request on the mesh listener, by its Host.
    pub fn mesh(&self, host: &str) -> Result<Destination, NoRoute> {
        let authority = Authority::parse(host).ok_or(NoRoute::InvalidHost)?;
        let found = self.named(authority.host())?;
        ports::http(found.ports, authority.port()).map(|port| found.at(port))
    }

    /// A CONNECT on the mesh listener, which names its port and may carry anything.
    pub fn mesh_tunnel(&self, authority: &str) -> Result<Destination, NoRoute> {
        let authority = Authority::parse(authority).ok_or(NoRoute::InvalidHost)?;
        let number = authority.port().ok_or(NoRoute::InvalidHost)?;
        let found = self.named(authority.host())?;
        ports::tcp(found.ports, number).map(|port| found.at(port)).ok_or(NoRoute::UnknownPort(number))
    }

    /// A request on a listener of a `Gateway`.
    pub fn ingress(
        &self,
        listener: &ListenerKey,
        request: &RequestHead<'_>,
        rng: &mut impl Rng,
    ) -> Result<Routed, NoRoute> {
        let entry = self.sockets.get(listener).ok_or(NoRoute::UnknownHost)?.find(request)?;
        let backend = ingress::draw(&entry.rule().backends, rng)?;
        let destination = self.backend(&backend.target)?;
        Ok(Routed { destination, route: entry.route().clone(), rule: entry.rule_index() })
    }

    /// A stream that a peer opened for `<svc>.<ns>:<port>`, HTTP or tunnel: only what is exported to it, and
    /// only this cluster's own endpoints. Whatever else it asks for does not exist (T8).
    pub fn link(&self, peer: &ClusterName, to: &str) -> Result<Destination, NoRoute> {
        let exported = || {
            let (name, number) = to.rsplit_once(':')?;
            let (name, namespace) = name.split_once('.')?;
            let service = self.services.find(name, namespace)?;
            let peer = self.snapshot.peers.get(peer).filter(|view| is_active(view))?;
            let exported = peer.exported_to.contains(&service.name);
            let found = exported.then(|| local(service)).flatten()?;
            let port = ports::tcp(found.ports, parse_port(number)?)?;
            Some(found.at(port))
        };
        exported().ok_or(NoRoute::NotFound)
    }

    /// A connection to a virtual address.
    pub fn virtual_address(&self, address: IpAddr, port: u16) -> Option<Destination> {
        let found = merged(self.services.at(address)?)?;
        ports::tcp(found.ports, port).map(|port| found.at(port))
    }

    /// A destination that an earlier snapshot led to, as it is now.
    pub fn destination(&self, key: &DestinationKey) -> Option<Destination> {
        let found = match &key.scope {
            Scope::Local => local(self.snapshot.service(&key.service)?),
            Scope::Merged => merged(self.snapshot.service(&key.service)?),
            Scope::Cluster(peer) => self.imported(peer, &key.service),
        }?;
        ports::tcp(found.ports, key.port).map(|port| found.at(port))
    }

    fn named(&self, host: &str) -> Result<Found<'_>, NoRoute> {
        let name = MeshName::parse(host).ok_or(NoRoute::UnknownHost)?;
        let service = self.services.find(name.service, name.namespace);
        let found = match name.zone {
            Zone::Clusterset => service.and_then(merged),
            Zone::Cluster => service.and_then(local),
            Zone::Pinned(cluster) if cluster == self.snapshot.cluster.name.as_str() => {
                service.and_then(local)
            }
            Zone::Pinned(cluster) => self.pinned(cluster, &name),
        };
        found.ok_or(NoRoute::UnknownService)
    }

    fn pinned(&self, cluster: &str, name: &MeshName<'_>) -> Option<Found<'_>> {
        let label = |text: &str| text.try_into().ok();
        let service = ServiceName::new(label(name.service)?, label(name.namespace)?);
        self.imported(&ClusterName::try_from(cluster).ok()?, &service)
    }

    /// Pinned names reach an import even where it may not join the merged name.
    fn imported(&self, peer: &ClusterName, service: &ServiceName) -> Option<Found<'_>> {
        let view = self.snapshot.peers.get(peer).filter(|view| is_active(view))?;
        let import = view.imports.get(service)?;
        let unmerged = || Arc::new(ServiceView { name: service.clone(), local: None, merged: None });
        let service = self.snapshot.service(service).cloned().unwrap_or_else(unmerged);
        Some(Found { service, scope: Scope::Cluster(peer.clone()), ports: &import.ports })
    }

    fn backend(&self, target: &BackendTarget) -> Result<Destination, NoRoute> {
        let invalid = |reason: String| NoRoute::InvalidBackend(reason.into());
        let view = |service: &ServiceName| self.snapshot.service(service);
        match target {
            BackendTarget::Invalid { reason } => Err(NoRoute::InvalidBackend(reason.clone())),
            BackendTarget::Service { service, port } => {
                let found = view(service)
                    .and_then(local)
                    .ok_or_else(|| invalid(format!("there is no Service {service}")))?;
                let port = ports::tcp(found.ports, *port)
                    .ok_or_else(|| invalid(format!("Service {service} has no port {port}")))?;
                Ok(found.at(port))
            }
            BackendTarget::Import { service, port } => {
                let found = view(service)
                    .and_then(merged)
                    .ok_or_else(|| invalid(format!("there is no ServiceImport {service}")))?;
                let port = match port {
                    Some(number) => ports::tcp(found.ports, *number).ok_or(NoRoute::UnknownPort(*number)),
                    None => ports::http(found.ports, None),
                };
                let port = port.map_err(|problem| invalid(format!("ServiceImport {service}: {problem}")))?;
                Ok(found.at(port))
            }
        }
    }
}

impl Found<'_> {
    fn at(&self, port: &ServicePort) -> Destination {
        Destination { service: self.service.clone(), scope: self.scope.clone(), port: port.clone() }
    }
}

fn local(service: &Arc<ServiceView>) -> Option<Found<'_>> {
    let local = service.local.as_ref()?;
    Some(Found { service: service.clone(), scope: Scope::Local, ports: &local.service.ports })
}

fn merged(service: &Arc<ServiceView>) -> Option<Found<'_>> {
    let merged = service.merged.as_ref()?;
    Some(Found { service: service.clone(), scope: Scope::Merged, ports: &merged.ports })
}

/// A peer whose operator ended the relationship neither reaches us nor is reached.
fn is_active(view: &PeerView) -> bool {
    view.peer.state == RelationshipState::Active
}
