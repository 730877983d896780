//! What a name in one of the two zones names, by its form alone.

use crate::model::{ClusterName, Label, ServiceName, Transport};

use super::QueryName;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Merged services (MCS).
    Clusterset,
    /// Services pinned to a cluster.
    Internal,
}

/// The meaning of a name; whether it exists is for the answer to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    Apex,
    /// `dns-version.clusterset.local`.
    Version,
    /// `svc.clusterset.local`, which is there even before the first service.
    Services,
    Namespace(Label),
    Service(ServiceName),
    /// `_tcp.<service>`.
    Protocol(ServiceName, Transport),
    /// `_<port>._tcp.<service>`.
    Port(ServiceName, Transport, Label),
    /// `<cluster>.<service>`: the parent of its endpoints' names.
    Contributor(ServiceName, ClusterName),
    /// `<hostname>.<cluster>.<service>`.
    Endpoint(ServiceName, ClusterName, Label),
    /// `<cluster>.isthmus.internal` and `<namespace>.<cluster>.isthmus.internal`.
    Cluster(ClusterName),
    ClusterNamespace(ClusterName, Label),
    Pinned(ClusterName, ServiceName),
    /// Of no form that a name here can have.
    Nothing,
}

impl Zone {
    const ALL: [Self; 2] = [Self::Clusterset, Self::Internal];

    pub fn origin(self) -> &'static str {
        match self {
            Self::Clusterset => "clusterset.local",
            Self::Internal => "isthmus.internal",
        }
    }

    /// The zone of a name and what the name means there; none outside both.
    pub(super) fn of(name: &QueryName) -> Option<(Self, Meaning)> {
        let within = |zone: Self| name.below(zone.origin()).map(|labels| (zone, zone.meaning(&labels)));
        Self::ALL.into_iter().find_map(within)
    }

    /// Labels come from the zone outwards.
    fn meaning(self, labels: &[&str]) -> Meaning {
        let meaning = match (self, labels) {
            (_, []) => Some(Meaning::Apex),
            (Self::Clusterset, ["dns-version"]) => Some(Meaning::Version),
            (Self::Clusterset, ["svc", rest @ ..]) => below_services(rest),
            (Self::Clusterset, _) => None,
            (Self::Internal, labels) => below_internal(labels),
        };
        meaning.unwrap_or(Meaning::Nothing)
    }
}

fn below_services(labels: &[&str]) -> Option<Meaning> {
    Some(match labels {
        [] => Meaning::Services,
        [namespace] => Meaning::Namespace(label(namespace)?),
        [namespace, name, rest @ ..] => {
            let service = ServiceName::new(label(name)?, label(namespace)?);
            match rest {
                [] => Meaning::Service(service),
                ["_tcp", rest @ ..] => ports(service, Transport::Tcp, rest)?,
                ["_udp", rest @ ..] => ports(service, Transport::Udp, rest)?,
                [cluster] => Meaning::Contributor(service, ClusterName::try_from(*cluster).ok()?),
                [cluster, host] => {
                    Meaning::Endpoint(service, ClusterName::try_from(*cluster).ok()?, label(host)?)
                }
                _ => return None,
            }
        }
    })
}

fn ports(service: ServiceName, transport: Transport, labels: &[&str]) -> Option<Meaning> {
    match labels {
        [] => Some(Meaning::Protocol(service, transport)),
        [port] => Some(Meaning::Port(service, transport, label(port.strip_prefix('_')?)?)),
        _ => None,
    }
}

fn below_internal(labels: &[&str]) -> Option<Meaning> {
    let (cluster, rest) = labels.split_first()?;
    let cluster = ClusterName::try_from(*cluster).ok()?;
    Some(match rest {
        [] => Meaning::Cluster(cluster),
        [namespace] => Meaning::ClusterNamespace(cluster, label(namespace)?),
        [namespace, name] => Meaning::Pinned(cluster, ServiceName::new(label(name)?, label(namespace)?)),
        _ => return None,
    })
}

fn label(text: &str) -> Option<Label> {
    text.try_into().ok()
}
