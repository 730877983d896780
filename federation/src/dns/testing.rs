//! Snapshots for DNS: services with addresses, headless ones with endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trust_bundle::{SpiffeId, TrustDomain};

use crate::model::{
    AppProtocol, ClusterName, Endpoint, Export, Freshness, Import, ImportedEndpoint, Locality, Peer,
    Readiness, RelationshipState, Service, ServiceKind, ServiceName, ServicePort, Timestamp, Transport,
};
use crate::snapshot::{
    Generation, LocalCluster, LocalService, MergedService, PeerView, ServiceView, Snapshot,
};

pub(super) fn name(text: &str) -> ServiceName {
    text.try_into().unwrap()
}

fn cluster(text: &str) -> ClusterName {
    text.try_into().unwrap()
}

/// Reads `80=http 53/udp=dns 9000`: number, transport, name.
fn ports(text: &str) -> Vec<ServicePort> {
    let port = |word: &str| {
        let (number, name) = word.split_once('=').unwrap_or((word, ""));
        let (number, transport) = match number.strip_suffix("/udp") {
            Some(number) => (number, Transport::Udp),
            None => (number, Transport::Tcp),
        };
        let name = name.to_owned();
        ServicePort { name, port: number.parse().unwrap(), transport, protocol: AppProtocol::Auto }
    };
    text.split_whitespace().map(port).collect()
}

pub(super) struct World(Snapshot);

pub(super) fn world() -> World {
    let domain = TrustDomain::try_from("onprem.example.org").unwrap();
    let here = LocalCluster {
        name: cluster("onprem"),
        trust_domain: domain,
        locality: Locality::default(),
        gateways: None,
    };
    World(Snapshot { generation: Generation(42), ..Snapshot::empty(Arc::new(here)) })
}

impl World {
    pub(super) fn build(self) -> Snapshot {
        self.0
    }

    pub(super) fn merged(mut self, service: &str, port_words: &str, addresses: &[&str]) -> Self {
        let view = self.view(service);
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        view.merged = Some(merged(ServiceKind::ClusterSetIp, port_words, addresses));
        self
    }

    /// Own endpoints as `10.0.0.1 hostname`, with `!` before those that are not ready.
    pub(super) fn headless(mut self, service: &str, port_words: &str, endpoints: &[&str]) -> Self {
        let view = self.view(service);
        let ports = ports(port_words);
        let numbers: BTreeMap<_, _> =
            ports.iter().map(|port| (port.name.clone(), port.port + 8000)).collect();
        let numbers = Arc::new(numbers);
        let endpoint = |text: &&str| {
            let (readiness, text) = match text.strip_prefix('!') {
                Some(text) => (Readiness::NotReady, text),
                None => (Readiness::Ready, *text),
            };
            let (host, hostname) =
                text.split_once(' ').map_or((text, None), |(host, name)| (host, Some(name)));
            Arc::new(Endpoint {
                host: host.try_into().unwrap(),
                ports: numbers.clone(),
                locality: Locality::default(),
                readiness,
                weight: 1,
                hostname: hostname.map(|name| name.try_into().unwrap()),
            })
        };
        view.local = Some(LocalService {
            service: Service { name: view.name.clone(), kind: ServiceKind::Headless, ports },
            endpoints: endpoints.iter().map(endpoint).collect(),
            export: Some(Export { service: view.name.clone(), created: Timestamp::from_unix(0) }),
        });
        view.merged = Some(merged(ServiceKind::Headless, port_words, Vec::new()));
        self
    }

    /// A service of this cluster that is not exported.
    pub(super) fn local(self, service: &str, port_words: &str) -> Self {
        let mut this = self.headless(service, port_words, &["10.9.9.9"]);
        this.view(service).merged = None;
        this
    }

    /// A peer's headless service, merged, with addresses that are told.
    pub(super) fn import(self, peer: &str, service: &str, port_words: &str, endpoints: &[&str]) -> Self {
        let endpoint = |text: &&str| {
            let (address, hostname) = text.split_once(' ').map_or((*text, None), |(a, name)| (a, Some(name)));
            let hostname = hostname.map(|name| name.try_into().unwrap());
            ImportedEndpoint { address: address.parse().unwrap(), hostname }
        };
        let import = Arc::new(Import {
            service: name(service),
            peer: cluster(peer),
            kind: ServiceKind::Headless,
            ports: ports(port_words),
            created: Timestamp::from_unix(0),
            groups: Vec::new(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            freshness: Freshness::Expired, // keeps its answer
        });
        let mut this = self.pinned(peer, service, import.clone());
        let view = this.view(service);
        let into = view.merged.get_or_insert_with(|| {
            let mut merged = merged(ServiceKind::Headless, port_words, Vec::new());
            merged.exported_here = false;
            merged
        });
        into.imports.push(import);
        this
    }

    fn pinned(mut self, peer: &str, service: &str, import: Arc<Import>) -> Self {
        let domain = TrustDomain::try_from("peer.example.org").unwrap();
        let id = SpiffeId::new(&domain, "/isthmus/gateway").unwrap();
        let empty = PeerView {
            peer: Peer {
                name: cluster(peer),
                trust_domain: domain,
                gateway_id: id.clone(),
                federation_id: id,
                gateways: Vec::new(),
                joined: Timestamp::from_unix(0),
                state: RelationshipState::Active,
                sameness: Vec::new(),
            },
            freshness: Freshness::Fresh,
            exported_to: BTreeSet::new(),
            imports: BTreeMap::new(),
        };
        let view = self.0.peers.entry(cluster(peer)).or_insert_with(|| Arc::new(empty));
        Arc::make_mut(view).imports.insert(name(service), import);
        self
    }

    fn view(&mut self, service: &str) -> &mut ServiceView {
        let name = name(service);
        let empty = ServiceView { name: name.clone(), local: None, merged: None };
        Arc::make_mut(self.0.services.entry(name).or_insert_with(|| Arc::new(empty)))
    }
}

fn merged(kind: ServiceKind, port_words: &str, addresses: Vec<std::net::IpAddr>) -> MergedService {
    MergedService { kind, ports: ports(port_words), exported_here: true, imports: Vec::new(), addresses }
}
