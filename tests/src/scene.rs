//! Snapshots as the catalog makes them: from documents, peers and what peers export.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use federation::catalog::{Catalog, Event, Source};
use federation::kubernetes::objects::parse_documents;
use federation::model::{
    AppProtocol, ClusterName, Freshness, Import, ImportedGroup, Locality, Peer, RelationshipState,
    ServiceKind, ServiceName, ServicePort, Timestamp, Transport,
};
use federation::snapshot::{LocalCluster, Snapshot};

use crate::{TestTrustDomain, export_document, service_documents};

/// What one cluster knows.
#[derive(Debug)]
pub struct Scene {
    catalog: Catalog,
    last: Arc<Snapshot>,
    imports: BTreeMap<ClusterName, BTreeMap<ServiceName, Arc<Import>>>,
}

impl Scene {
    pub fn new(cluster: &str, domain: &TestTrustDomain) -> Self {
        let local = local_cluster(cluster, domain);
        let last = Arc::new(Snapshot::empty(Arc::new(local.clone())));
        Self { catalog: Catalog::new(local), last, imports: BTreeMap::new() }
    }

    /// Applies documents as a user would write them.
    pub fn documents(&mut self, text: &str) -> &mut Self {
        for document in parse_documents(text) {
            let document = document.unwrap_or_else(|error| panic!("line {}: {}", error.line, error.message));
            let created = Timestamp::from_unix(1);
            let (key, object) = (document.key, document.object);
            self.catalog.apply(Event::ObjectApplied { source: Source::Applied, key, created, object });
        }
        self
    }

    /// A service with one endpoint; `port` is written as `80=http`.
    pub fn service(&mut self, service: &str, port: &str, endpoint: SocketAddr) -> &mut Self {
        self.documents(&service_documents(service, port, &[endpoint]))
    }

    /// The same with several endpoints.
    pub fn service_at(&mut self, service: &str, port: &str, endpoints: &[SocketAddr]) -> &mut Self {
        self.documents(&service_documents(service, port, endpoints))
    }

    /// Offers a service to every peer.
    pub fn export(&mut self, service: &str) -> &mut Self {
        self.documents(&export_document(service))
    }

    /// No longer offers it.
    pub fn withdraw(&mut self, service: &str) -> &mut Self {
        for parsed in parse_documents(&export_document(service)).into_iter().flatten() {
            self.catalog.apply(Event::ObjectRemoved { source: Source::Applied, key: parsed.key });
        }
        self
    }

    /// A relationship that has lasted for long, with a gateway at this address.
    pub fn peer(&mut self, cluster: &str, domain: &TestTrustDomain, gateways: &[SocketAddr]) -> &mut Self {
        self.catalog.apply(Event::PeerChanged(Peer {
            name: cluster.try_into().expect("a cluster name"),
            trust_domain: domain.name(),
            gateway_id: domain.id("/isthmus/gateway"),
            federation_id: domain.id("/isthmus/federation"),
            gateways: gateways.iter().map(|address| (*address).into()).collect(),
            joined: Timestamp::from_unix(1),
            state: RelationshipState::Active,
            sameness: Vec::new(),
        }));
        self
    }

    pub fn without_peer(&mut self, cluster: &str) -> &mut Self {
        self.catalog.apply(Event::PeerRemoved(cluster.try_into().expect("a cluster name")));
        self
    }

    /// A service that a peer offers, with one ready endpoint there; `ports` is written as `80=http 5=tcp`.
    pub fn import(&mut self, peer: &str, service: &str, ports: &str) -> &mut Self {
        let peer: ClusterName = peer.try_into().expect("a cluster name");
        let service: ServiceName = service.parse().expect("<service>.<namespace>");
        let import = Arc::new(Import {
            service: service.clone(),
            peer: peer.clone(),
            kind: ServiceKind::ClusterSetIp,
            ports: ports.split_whitespace().map(port).collect(),
            created: Timestamp::from_unix(1),
            groups: vec![ImportedGroup { locality: Locality::default(), ready: 1, weight: 1 }],
            endpoints: Vec::new(),
            freshness: Freshness::Fresh,
        });
        self.imports.entry(peer.clone()).or_default().insert(service, import);
        let imports = self.imports[&peer].clone();
        self.catalog.apply(Event::ImportsReplaced { peer, imports });
        self
    }

    /// The service's own address in this cluster; none takes it away.
    pub fn address(&mut self, service: &str, address: Option<IpAddr>) -> &mut Self {
        let service = service.parse().expect("<service>.<namespace>");
        let addresses = address.into_iter().collect();
        self.catalog.apply(Event::AddressesAllocated { service, addresses });
        self
    }

    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        // What the catalog asks to be made durable is granted at once.
        for claim in self.catalog.settle().claim {
            self.catalog.apply(Event::NameClaimed { service: claim.service, peer: claim.peer });
        }
        if let Some(newer) = self.catalog.snapshot() {
            self.last = newer;
        }
        self.last.clone()
    }
}

pub(crate) fn local_cluster(cluster: &str, domain: &TestTrustDomain) -> LocalCluster {
    let name = cluster.try_into().expect("a cluster name");
    LocalCluster { name, trust_domain: domain.name(), locality: Locality::default(), gateways: None }
}

fn port(text: &str) -> ServicePort {
    let (number, protocol) = text.split_once('=').expect("<port>=<protocol>");
    ServicePort {
        name: format!("p{number}"),
        port: number.parse().expect("a port"),
        transport: Transport::Tcp,
        protocol: AppProtocol::detect(Some(protocol), ""),
    }
}
