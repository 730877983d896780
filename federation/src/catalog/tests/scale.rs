//! A change costs what it touches, however much there is besides.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::world::{World, cluster, name, object_key, port};
use crate::catalog::{EndpointSlice, Event, Object, Source};
use crate::model::{Endpoint, Host, Locality, Readiness, Service, ServiceKind, ServiceName, Timestamp};
use crate::snapshot::Snapshot;

const SERVICES: usize = 1000;
const ENDPOINTS_EACH: usize = 100;

fn service_name(index: usize) -> ServiceName {
    name(&format!("s{index}.shop"))
}

fn applied(kind: &str, service: &ServiceName, object: Object) -> Event {
    let key = object_key(&format!("{kind} {}/{}", service.namespace, service.name));
    Event::ObjectApplied { source: Source::Applied, key, created: Timestamp::from_unix(1), object }
}

fn slice(index: usize, endpoints: usize) -> Event {
    let service = service_name(index);
    let ports = Arc::new(BTreeMap::from([("http".to_owned(), 8080)]));
    let endpoint = |n: usize| {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(index * 1000 + n).unwrap());
        Arc::new(Endpoint {
            host: Host::Ip(ip.into()),
            ports: Arc::clone(&ports),
            locality: Locality::default(),
            readiness: Readiness::Ready,
            weight: 1,
            hostname: None,
        })
    };
    let endpoints = (0..endpoints).map(endpoint).collect();
    let object = EndpointSlice { service: service.clone(), namespace: service.namespace.clone(), endpoints };
    applied("EndpointSlice", &service, Object::Endpoints(object))
}

#[test]
fn one_endpoint_among_100_000_rebuilds_only_its_service() {
    let mut world = World::new();
    world.peer("cloud", 1);
    for index in 0..SERVICES {
        let service = service_name(index);
        let kind = ServiceKind::ClusterSetIp;
        let object = Service { name: service.clone(), kind, ports: vec![port("http", 80)] };
        world.apply(applied("Service", &service, Object::Service(object)));
        world.apply(applied("ServiceExport", &service, Object::Export(service.clone())));
        world.apply(slice(index, ENDPOINTS_EACH));
    }
    world.publish();
    let before = Arc::clone(&world.snapshot);
    let endpoints: usize = before.services.values().map(|v| v.local.as_ref().unwrap().endpoints.len()).sum();
    assert_eq!(endpoints, SERVICES * ENDPOINTS_EACH);

    world.apply(slice(7, ENDPOINTS_EACH + 1));
    assert!(world.publish());
    let after = &world.snapshot;
    let changed: Vec<_> = before
        .services
        .iter()
        .filter(|(name, view)| !Arc::ptr_eq(view, &after.services[*name]))
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(changed, [service_name(7)]);
    assert!(Arc::ptr_eq(&before.peers[&cluster("cloud")], &after.peers[&cluster("cloud")]));
    assert!(Arc::ptr_eq(&before.cluster, &after.cluster));

    // Within the service every endpoint that stayed is the same allocation.
    let endpoints = |snapshot: &Snapshot| {
        Arc::clone(&snapshot.services[&service_name(7)].local.as_ref().unwrap().endpoints)
    };
    let (old, new) = (endpoints(&before), endpoints(after));
    assert!(old.iter().zip(new.iter()).all(|(a, b)| Arc::ptr_eq(a, b)));

    world.apply(slice(7, ENDPOINTS_EACH + 1));
    assert!(!world.publish(), "the same slice again is no change");
}
