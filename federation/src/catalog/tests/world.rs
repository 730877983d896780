//! A catalog of cluster `onprem`, and words to say what happens to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use trust_bundle::{SpiffeId, TrustDomain};

use crate::catalog::{Catalog, Condition, ConditionKind, Effects, Event, Source, Verdict};
use crate::kubernetes::objects::{ParsedDocument, parse_documents};
use crate::model::{
    AppProtocol, ClusterName, Freshness, Import, ImportedGroup, Locality, ObjectKey, Peer, RelationshipState,
    ServiceKind, ServiceName, ServicePort, Timestamp, Transport,
};
use crate::snapshot::{LocalCluster, MergedService, Snapshot};

/// A catalog of cluster `onprem`, and the last snapshot that it published.
pub(super) struct World {
    pub(super) catalog: Catalog,
    pub(super) snapshot: Arc<Snapshot>,
}

impl World {
    pub(super) fn new() -> Self {
        let catalog = Catalog::new(local_cluster());
        let snapshot = Arc::new(Snapshot::empty(Arc::new(local_cluster())));
        Self { catalog, snapshot }
    }

    /// Applies documents of a file as first seen at `age`.
    pub(super) fn file(&mut self, path: &str, age: i64, text: &str) -> &mut Self {
        for event in file(path, age, text) {
            self.catalog.apply(event);
        }
        self
    }

    pub(super) fn apply(&mut self, event: Event) -> &mut Self {
        self.catalog.apply(event);
        self
    }

    pub(super) fn remove(&mut self, path: &str, key: &str) -> &mut Self {
        let source = Source::File { path: path.into(), line: 1 };
        self.apply(Event::ObjectRemoved { source, key: object_key(key) })
    }

    pub(super) fn peer(&mut self, name: &str, joined: i64) -> &mut Self {
        self.apply(Event::PeerChanged(peer(name, joined)))
    }

    /// Settles, and takes the new snapshot if there is one; returns whether there was.
    pub(super) fn publish(&mut self) -> bool {
        let newer = self.catalog.snapshot();
        let published = newer.is_some();
        if let Some(newer) = newer {
            assert!(newer.generation > self.snapshot.generation, "generations only grow");
            self.snapshot = newer;
        }
        published
    }

    pub(super) fn effects(&mut self) -> Effects {
        self.catalog.settle()
    }

    pub(super) fn merged(&mut self, service: &str) -> Option<MergedService> {
        self.publish();
        self.snapshot.service(&name(service)).and_then(|view| view.merged.clone())
    }

    pub(super) fn condition(&mut self, key: &str, kind: ConditionKind) -> Condition {
        self.conditions(key)
            .into_iter()
            .find(|c| c.kind == kind)
            .unwrap_or_else(|| panic!("{key} has no {kind:?}"))
    }

    pub(super) fn conditions(&mut self, key: &str) -> Vec<Condition> {
        self.publish();
        let key = object_key(key);
        let objects = self.catalog.objects(&key.kind);
        objects.into_iter().filter(|o| o.key == key).flat_map(|o| o.conditions).collect()
    }

    /// (status, reason) of a condition.
    pub(super) fn judged(&mut self, key: &str, kind: ConditionKind) -> (Verdict, &'static str) {
        let condition = self.condition(key, kind);
        (condition.status, condition.reason)
    }
}

pub(super) fn local_cluster() -> LocalCluster {
    LocalCluster {
        name: cluster("onprem"),
        trust_domain: "onprem.example.org".try_into().unwrap(),
        locality: Locality { region: "eu".into(), zone: "eu-a".into(), sub_zone: String::new() },
        gateways: None,
    }
}

pub(super) fn file(path: &str, age: i64, text: &str) -> Vec<Event> {
    let documents = parse_documents(text).into_iter().map(|document| document.unwrap());
    let event = |document: ParsedDocument| Event::ObjectApplied {
        source: Source::File { path: path.into(), line: document.line },
        key: document.key,
        created: Timestamp::from_unix(age),
        object: document.object,
    };
    documents.map(event).collect()
}

pub(super) fn cluster(name: &str) -> ClusterName {
    name.try_into().unwrap()
}

pub(super) fn name(service: &str) -> ServiceName {
    service.parse().unwrap()
}

/// Reads `Kind namespace/name`.
pub(super) fn object_key(text: &str) -> ObjectKey {
    let (kind, rest) = text.split_once(' ').unwrap();
    let (namespace, name) = rest.split_once('/').unwrap();
    ObjectKey { kind: kind.into(), namespace: namespace.try_into().unwrap(), name: name.try_into().unwrap() }
}

pub(super) fn peer(name: &str, joined: i64) -> Peer {
    let trust_domain = TrustDomain::try_from(format!("{name}.example.org").as_str()).unwrap();
    Peer {
        name: cluster(name),
        gateway_id: SpiffeId::new(&trust_domain, "/isthmus/gateway").unwrap(),
        federation_id: SpiffeId::new(&trust_domain, "/isthmus/federation").unwrap(),
        trust_domain,
        gateways: Vec::new(),
        joined: Timestamp::from_unix(joined),
        state: RelationshipState::Active,
        sameness: Vec::new(),
    }
}

pub(super) fn port(name: &str, number: u16) -> ServicePort {
    let protocol = AppProtocol::detect(None, name);
    ServicePort { name: name.into(), port: number, transport: Transport::Tcp, protocol }
}

pub(super) fn import(peer: &str, service: &str, created: i64) -> Import {
    Import {
        service: name(service),
        peer: cluster(peer),
        kind: ServiceKind::ClusterSetIp,
        ports: vec![port("http", 80)],
        created: Timestamp::from_unix(created),
        groups: vec![ImportedGroup { locality: Locality::default(), ready: 2, weight: 2 }],
        endpoints: Vec::new(),
        freshness: Freshness::Fresh,
    }
}

pub(super) fn imports(list: impl IntoIterator<Item = Import>) -> BTreeMap<ServiceName, Arc<Import>> {
    list.into_iter().map(|import| (import.service.clone(), Arc::new(import))).collect()
}

pub(super) const CART: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [127.0.0.1]}
- {addresses: [10.0.0.2], zone: eu-b, conditions: {ready: false}}
";

pub(super) const CART_EXPORT: &str = "
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: cart, namespace: shop}
";
