//! Snapshots for tests, written as the domain reads.
//!
//! ```text
//! snapshot()
//!     .service("cart.shop", "80=http 5432=tcp", &["10.0.0.1 eu/a", "10.0.0.2 eu/b draining weight=3"])
//!     .export("cart.shop")
//!     .import("cloud", "cart.shop", "80=http", &["us/x ready=3"])
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use federation::model::{
    AppProtocol, Backend, BackendTarget, ClusterName, Endpoint, Export, Freshness, HeaderMatch, HttpMatch,
    HttpRoute, HttpRule, Import, ImportedGroup, Listener, ListenerProtocol, Locality, ObjectKey, PathMatch,
    Peer, Readiness, RelationshipState, Service, ServiceKind, ServiceName, ServicePort, Timestamp, Transport,
};
use federation::snapshot::{
    Generation, ListenerView, LocalCluster, LocalService, MergedService, PeerView, ServiceView, Snapshot,
};
use trust_bundle::{SpiffeId, TrustDomain};

use crate::snapshot::View;

/// A target port is the service port and this, so that a test sees which one was taken.
pub(crate) const TARGET_PORT_OFFSET: u16 = 8000;

pub(crate) struct SnapshotBuilder(Snapshot);

/// This cluster is `onprem` in `eu/a`.
pub(crate) fn snapshot() -> SnapshotBuilder {
    SnapshotBuilder(Snapshot::empty(Arc::new(LocalCluster {
        name: cluster("onprem"),
        trust_domain: trust_domain("onprem"),
        locality: locality("eu/a"),
        gateways: None,
    })))
}

impl SnapshotBuilder {
    pub(crate) fn build(self) -> Snapshot {
        self.0
    }

    pub(crate) fn view(self) -> Arc<View> {
        Arc::new(View::new(Arc::new(self.0)))
    }

    pub(crate) fn generation(mut self, generation: u64) -> Self {
        self.0.generation = Generation(generation);
        self
    }

    pub(crate) fn service(mut self, service: &str, ports: &str, endpoints: &[&str]) -> Self {
        let view = self.view_of(service);
        let ports = service_ports(ports);
        let endpoints = endpoints.iter().map(|text| Arc::new(endpoint(text, &ports))).collect();
        let service = Service { name: name(service), kind: ServiceKind::ClusterSetIp, ports };
        view.local = Some(LocalService { service, endpoints, export: None });
        self
    }

    /// Own endpoints count for the merged name.
    pub(crate) fn export(mut self, service: &str) -> Self {
        let view = self.view_of(service);
        let local = view.local.as_mut().expect("a service is exported after it was added");
        local.export = Some(Export { service: name(service), created: Timestamp::from_unix(1) });
        let ports = local.service.ports.clone();
        merged(view, &ports).exported_here = true;
        self
    }

    pub(crate) fn peer(mut self, peer: &str) -> Self {
        let role = |role| SpiffeId::new(&trust_domain(peer), role).unwrap();
        let view = PeerView {
            peer: Peer {
                name: cluster(peer),
                trust_domain: trust_domain(peer),
                gateway_id: role("/isthmus/gateway"),
                federation_id: role("/isthmus/federation"),
                gateways: Vec::new(),
                joined: Timestamp::from_unix(0),
                state: RelationshipState::Active,
                sameness: Vec::new(),
            },
            freshness: Freshness::Fresh,
            exported_to: BTreeSet::new(),
            imports: BTreeMap::new(),
        };
        self.0.peers.entry(cluster(peer)).or_insert_with(|| Arc::new(view));
        self
    }

    pub(crate) fn change_peer(mut self, peer: &str, change: impl FnOnce(&mut PeerView)) -> Self {
        self = self.peer(peer);
        change(Arc::make_mut(self.0.peers.get_mut(&cluster(peer)).unwrap()));
        self
    }

    pub(crate) fn export_to(self, peer: &str, service: &str) -> Self {
        self.change_peer(peer, |view| _ = view.exported_to.insert(name(service)))
    }

    /// A peer's service that is only reached by its pinned name.
    pub(crate) fn pinned(self, peer: &str, service: &str, ports: &str, groups: &[&str]) -> Self {
        let import = Arc::new(import(peer, service, ports, groups));
        self.change_peer(peer, |view| _ = view.imports.insert(name(service), import))
    }

    /// A peer's service that is merged into the name.
    pub(crate) fn import(self, peer: &str, service: &str, ports: &str, groups: &[&str]) -> Self {
        let mut this = self.pinned(peer, service, ports, groups);
        let import = this.0.peers[&cluster(peer)].imports[&name(service)].clone();
        merged(this.view_of(service), &import.ports).imports.push(import);
        this
    }

    pub(crate) fn address(mut self, service: &str, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        self.view_of(service).merged.as_mut().unwrap().addresses.push(address);
        self
    }

    pub(crate) fn listener(mut self, port: u16, hostname: Option<&str>, routes: Vec<HttpRoute>) -> Self {
        let listener = Listener {
            gateway: object("Gateway", "edge"),
            name: "http".try_into().unwrap(),
            address: None,
            port,
            protocol: ListenerProtocol::Http,
            hostname: hostname.map(|text| text.try_into().unwrap()),
        };
        let routes = routes.into_iter().map(Arc::new).collect();
        self.0.listeners.push(Arc::new(ListenerView { listener, routes }));
        self
    }

    fn view_of(&mut self, service: &str) -> &mut ServiceView {
        let name = name(service);
        let empty = || Arc::new(ServiceView { name: name.clone(), local: None, merged: None });
        Arc::make_mut(self.0.services.entry(name.clone()).or_insert_with(empty))
    }
}

fn merged<'a>(view: &'a mut ServiceView, ports: &[ServicePort]) -> &'a mut MergedService {
    let merged = view.merged.get_or_insert_with(|| MergedService {
        kind: ServiceKind::ClusterSetIp,
        ports: Vec::new(),
        exported_here: false,
        imports: Vec::new(),
        addresses: Vec::new(),
    });
    let new = ports.iter().filter(|port| merged.ports.iter().all(|known| known.port != port.port));
    let new: Vec<_> = new.cloned().collect();
    merged.ports.extend(new);
    merged
}

pub(crate) fn name(text: &str) -> ServiceName {
    text.try_into().unwrap()
}

pub(crate) fn cluster(text: &str) -> ClusterName {
    text.try_into().unwrap()
}

fn trust_domain(cluster: &str) -> TrustDomain {
    format!("{cluster}.example.org").as_str().try_into().unwrap()
}

pub(crate) fn locality(text: &str) -> Locality {
    let mut parts = text.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), sub_zone: next() }
}

fn service_ports(text: &str) -> Vec<ServicePort> {
    let port = |word: &str| {
        let (number, protocol) = word.split_once('=').unwrap_or((word, "auto"));
        ServicePort {
            name: format!("{protocol}-{number}"),
            port: number.parse().unwrap(),
            transport: Transport::Tcp,
            protocol: AppProtocol::detect(Some(protocol), ""),
        }
    };
    text.split_whitespace().map(port).collect()
}

fn endpoint(text: &str, ports: &[ServicePort]) -> Endpoint {
    let mut words = text.split_whitespace();
    let numbers = ports.iter().map(|port| (port.name.clone(), port.port + TARGET_PORT_OFFSET)).collect();
    let mut endpoint = Endpoint {
        host: words.next().unwrap().try_into().unwrap(),
        ports: Arc::new(numbers),
        locality: Locality::default(),
        readiness: Readiness::Ready,
        weight: 1,
        hostname: None,
    };
    for word in words {
        match word.split_once('=') {
            Some(("weight", weight)) => endpoint.weight = weight.parse().unwrap(),
            Some(other) => panic!("{other:?} is not known of endpoints"),
            None if word == "draining" => endpoint.readiness = Readiness::Draining,
            None if word == "not-ready" => endpoint.readiness = Readiness::NotReady,
            None if word == "portless" => endpoint.ports = Arc::default(),
            None => endpoint.locality = locality(word),
        }
    }
    endpoint
}

fn import(peer: &str, service: &str, ports: &str, groups: &[&str]) -> Import {
    let group = |text: &&str| {
        let (place, ready) = text.split_once(" ready=").unwrap();
        let ready = ready.parse().unwrap();
        ImportedGroup { locality: locality(place), ready, weight: u64::from(ready) }
    };
    Import {
        service: name(service),
        peer: cluster(peer),
        kind: ServiceKind::ClusterSetIp,
        ports: service_ports(ports),
        created: Timestamp::from_unix(2),
        groups: groups.iter().map(group).collect(),
        endpoints: Vec::new(),
        freshness: Freshness::Fresh,
    }
}

pub(crate) fn object(kind: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: kind.into(), namespace: "shop".try_into().unwrap(), name: name.try_into().unwrap() }
}

/// A route as `("hosts", created, &[("matches", "backends")])`: matches are `=/exact` or `/prefix` with
/// `name:value` headers, alternatives are split by `|`; backends are `svc.ns:port*weight`, an import is
/// `~svc.ns`, an invalid one `!reason`.
pub(crate) fn route(name: &str, hosts: &str, created: i64, rules: &[(&str, &str)]) -> HttpRoute {
    let rule = |(matches, backends): &(&str, &str)| HttpRule {
        matches: matches.split('|').filter(|text| !text.trim().is_empty()).map(http_match).collect(),
        backends: backends.split_whitespace().map(backend).collect(),
    };
    HttpRoute {
        key: object("HTTPRoute", name),
        created: Timestamp::from_unix(created),
        parents: Vec::new(),
        hostnames: hosts.split_whitespace().map(|host| host.try_into().unwrap()).collect(),
        rules: rules.iter().map(rule).collect(),
    }
}

fn http_match(text: &str) -> HttpMatch {
    let mut words = text.split_whitespace();
    let path = words.next().unwrap();
    let path = match path.strip_prefix('=') {
        Some(exact) => PathMatch::Exact(exact.to_owned()),
        None => PathMatch::Prefix(path.trim_end_matches('/').to_owned()),
    };
    let header = |word: &str| {
        let (name, value) = word.split_once(':').unwrap();
        HeaderMatch { name: name.to_owned(), value: value.to_owned() }
    };
    HttpMatch { path, headers: words.map(header).collect() }
}

fn backend(text: &str) -> Backend {
    let (target, weight) = text.split_once('*').unwrap_or((text, "1"));
    let port = |text: &str| text.parse::<u16>().unwrap();
    let target = if let Some(reason) = target.strip_prefix('!') {
        BackendTarget::Invalid { reason: reason.into() }
    } else if let Some(import) = target.strip_prefix('~') {
        let (service, number) = import.split_once(':').map_or((import, None), |(s, p)| (s, Some(port(p))));
        BackendTarget::Import { service: name(service), port: number }
    } else {
        let (service, number) = target.split_once(':').unwrap();
        BackendTarget::Service { service: name(service), port: port(number) }
    };
    Backend { weight: weight.parse().unwrap(), target }
}
