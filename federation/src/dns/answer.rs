//! What the snapshot knows of a name: pure, from a question to records.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::slice;
use std::sync::Arc;

use crate::model::{ClusterName, Endpoint, Host, Label, Readiness, ServiceKind, ServiceName, ServicePort};
use crate::snapshot::{LocalService, MergedService, ServiceView, Snapshot};

use super::QueryName;
use super::zone::{Meaning, Zone};

/// How long others may keep an answer: what a change may take to be seen (MCS asks for little).
pub const TTL_SECONDS: u32 = 5;
/// Records of one answer; 64 KiB of a message over TCP would hold some 2 000 addresses.
const RECORDS_MAX: usize = 1_000;
/// The version of the MCS DNS specification.
const DNS_VERSION: &str = "1.0.0";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub name: QueryName,
    pub kind: Kind,
}

/// Types of records that exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
    Srv,
    Txt,
    Soa,
    /// Answered with addresses (RFC 8482 asks for no more).
    Any,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: Code,
    pub records: Vec<Record>,
    /// Addresses of SRV targets.
    pub additional: Vec<Record>,
    /// None outside our zones. Where there are no records, its SOA says how long that may be believed.
    pub zone: Option<Zone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NoError,
    NoSuchName,
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// None is the name that was asked for.
    pub name: Option<String>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Address(IpAddr),
    Service {
        port: u16,
        target: String,
    },
    Text(&'static str),
    /// The zone's own record; its serial is the snapshot's generation.
    Authority,
}

/// An endpoint of a headless service as DNS tells of it.
struct Told<'a> {
    address: IpAddr,
    hostname: Option<&'a Label>,
    cluster: &'a ClusterName,
    /// None for a peer's, which does not say what is behind its ports.
    own: Option<(&'a LocalService, &'a Endpoint)>,
}

/// Answers a question from what is known now.
pub fn answer(snapshot: &Snapshot, question: &Question) -> Answer {
    let Some((zone, meaning)) = Zone::of(&question.name) else {
        return Answer { code: Code::Refused, records: Vec::new(), additional: Vec::new(), zone: None };
    };
    let found = find(snapshot, &meaning, question.kind);
    let code = if found.is_some() { Code::NoError } else { Code::NoSuchName };
    let (mut records, mut additional) = found.unwrap_or_default();
    records.truncate(RECORDS_MAX);
    additional.truncate(RECORDS_MAX);
    Answer { code, records, additional, zone: Some(zone) }
}

type Found = (Vec<Record>, Vec<Record>);

/// None if there is no such name; a name without records of this kind is an empty list.
fn find(snapshot: &Snapshot, meaning: &Meaning, kind: Kind) -> Option<Found> {
    let nothing = || Found::default();
    match meaning {
        Meaning::Apex => Some(only(kind == Kind::Soa, Value::Authority)),
        Meaning::Version => Some(only(matches!(kind, Kind::Txt | Kind::Any), Value::Text(DNS_VERSION))),
        Meaning::Services => Some(nothing()),
        Meaning::Namespace(namespace) => has_namespace(snapshot, namespace).then(nothing),
        Meaning::Service(name) => {
            let merged = existing(snapshot, name)?;
            Some(match kind {
                Kind::Srv => services(snapshot, name, merged, &merged.ports),
                kind => (addresses(of_service(snapshot, name, merged), kind), Vec::new()),
            })
        }
        Meaning::Protocol(name, transport) => {
            let merged = existing(snapshot, name)?;
            let named = |port: &ServicePort| port.transport == *transport && !port.name.is_empty();
            merged.ports.iter().any(named).then(nothing)
        }
        Meaning::Port(name, transport, port) => {
            let merged = existing(snapshot, name)?;
            let same = |of: &&ServicePort| of.transport == *transport && of.name == port.as_str();
            let port = merged.ports.iter().find(same)?;
            Some(if kind == Kind::Srv {
                services(snapshot, name, merged, slice::from_ref(port))
            } else {
                nothing()
            })
        }
        Meaning::Contributor(name, cluster) => {
            let merged = headless(snapshot, name)?;
            told(snapshot, name, merged).any(|endpoint| endpoint.cluster == cluster).then(nothing)
        }
        Meaning::Endpoint(name, cluster, host) => {
            let merged = headless(snapshot, name)?;
            let same = |of: &Told<'_>| of.cluster == cluster && of.host() == host.as_str();
            let found: Vec<_> = told(snapshot, name, merged).filter(same).map(|of| of.address).collect();
            (!found.is_empty()).then(|| (addresses(found, kind), Vec::new()))
        }
        Meaning::Cluster(cluster) => {
            let known = *cluster == snapshot.cluster.name || snapshot.peers.contains_key(cluster);
            known.then(nothing)
        }
        Meaning::ClusterNamespace(cluster, namespace) => {
            pinned(snapshot, cluster).any(|name| name.namespace == *namespace).then(nothing)
        }
        Meaning::Pinned(cluster, service) => {
            pinned(snapshot, cluster).any(|name| name == service).then(nothing)
        }
        Meaning::Nothing => None,
    }
}

fn only(asked: bool, value: Value) -> Found {
    (asked.then_some(Record { name: None, value }).into_iter().collect(), Vec::new())
}

/// A merged service that has a name now: a headless one has none while nobody is ready.
fn existing<'a>(snapshot: &'a Snapshot, name: &ServiceName) -> Option<&'a MergedService> {
    let merged = snapshot.service(name)?.merged.as_ref()?;
    match merged.kind {
        ServiceKind::ClusterSetIp => Some(merged),
        ServiceKind::Headless => told(snapshot, name, merged).next().map(|_| merged),
    }
}

fn headless<'a>(snapshot: &'a Snapshot, name: &ServiceName) -> Option<&'a MergedService> {
    existing(snapshot, name).filter(|merged| merged.kind == ServiceKind::Headless)
}

fn has_namespace(snapshot: &Snapshot, namespace: &Label) -> bool {
    // Services are ordered by namespace first, and no label comes before "0".
    let Ok(first) = Label::try_from("0") else { return false };
    let from = ServiceName::new(first, namespace.clone());
    let within = snapshot.services.range(from..).take_while(|(name, _)| name.namespace == *namespace);
    within.into_iter().any(|(_, view)| view.merged.is_some())
}

/// The services that a pinned name can reach in a cluster.
fn pinned<'a>(
    snapshot: &'a Snapshot,
    cluster: &ClusterName,
) -> Box<dyn Iterator<Item = &'a ServiceName> + 'a> {
    if *cluster == snapshot.cluster.name {
        let own = |view: &&Arc<ServiceView>| view.local.is_some();
        return Box::new(snapshot.services.values().filter(own).map(|view| &view.name));
    }
    let peer = snapshot.peers.get(cluster);
    Box::new(peer.into_iter().flat_map(|view| view.imports.keys()))
}

fn of_service(snapshot: &Snapshot, name: &ServiceName, merged: &MergedService) -> Vec<IpAddr> {
    match merged.kind {
        ServiceKind::ClusterSetIp => merged.addresses.clone(),
        ServiceKind::Headless => {
            let distinct: BTreeSet<_> = told(snapshot, name, merged).map(|of| of.address).collect();
            distinct.into_iter().collect()
        }
    }
}

fn addresses(found: Vec<IpAddr>, kind: Kind) -> Vec<Record> {
    let asked = |address: &IpAddr| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Any => true,
        Kind::Srv | Kind::Txt | Kind::Soa | Kind::Other => false,
    };
    let record = |address| Record { name: None, value: Value::Address(address) };
    found.into_iter().filter(asked).map(record).collect()
}

/// SRV of some ports, each pair of port and target once, with the addresses of the targets.
fn services(snapshot: &Snapshot, name: &ServiceName, merged: &MergedService, ports: &[ServicePort]) -> Found {
    let host = format!("{name}.svc.{}", Zone::Clusterset.origin());
    let mut pairs = BTreeSet::new();
    let mut targets = BTreeSet::new();
    for port in ports {
        match merged.kind {
            ServiceKind::ClusterSetIp => {
                pairs.insert((port.port, host.clone()));
                targets.extend(merged.addresses.iter().map(|address| (host.clone(), *address)));
            }
            ServiceKind::Headless => {
                for endpoint in told(snapshot, name, merged) {
                    let target = format!("{}.{}.{host}", endpoint.host(), endpoint.cluster);
                    let number = endpoint.number(port);
                    targets.insert((target.clone(), endpoint.address));
                    pairs.insert((number, target));
                }
            }
        }
    }
    let record = |(port, target)| Record { name: None, value: Value::Service { port, target } };
    let additional = |(name, address)| Record { name: Some(name), value: Value::Address(address) };
    (pairs.into_iter().map(record).collect(), targets.into_iter().map(additional).collect())
}

/// Ready endpoints of a headless service in all clusters that contribute.
fn told<'a>(
    snapshot: &'a Snapshot,
    name: &ServiceName,
    merged: &'a MergedService,
) -> impl Iterator<Item = Told<'a>> + use<'a> {
    let local = snapshot.service(name).and_then(|view| view.local.as_ref()).filter(|_| merged.exported_here);
    let own = local.into_iter().flat_map(move |local| {
        let ready = local.endpoints.iter().filter(|endpoint| endpoint.readiness == Readiness::Ready);
        ready.filter_map(move |endpoint| {
            // A host name has no address that we know.
            let Host::Ip(address) = endpoint.host else { return None };
            let hostname = endpoint.hostname.as_ref();
            let cluster = &snapshot.cluster.name;
            Some(Told { address, hostname, cluster, own: Some((local, endpoint)) })
        })
    });
    let peers = merged.imports.iter().flat_map(|import| {
        import.endpoints.iter().map(move |endpoint| Told {
            address: endpoint.address,
            hostname: endpoint.hostname.as_ref(),
            cluster: &import.peer,
            own: None,
        })
    });
    own.chain(peers)
}

impl Told<'_> {
    /// The number behind a port: a headless service's clients reach the endpoint itself.
    fn number(&self, port: &ServicePort) -> u16 {
        let same = |own: &&ServicePort| own.port == port.port && own.transport == port.transport;
        let own = self.own.and_then(|(local, endpoint)| {
            local.service.ports.iter().find(same).and_then(|own| endpoint.port(&own.name))
        });
        own.unwrap_or(port.port)
    }

    /// Its label under the cluster: its own name, else its address with dashes.
    fn host(&self) -> String {
        match (self.hostname, self.address) {
            (Some(name), _) => name.to_string(),
            (None, IpAddr::V4(address)) => address.to_string().replace('.', "-"),
            // Written out, since `::1` would begin with a dash.
            (None, IpAddr::V6(address)) => address.segments().map(|part| format!("{part:x}")).join("-"),
        }
    }
}
