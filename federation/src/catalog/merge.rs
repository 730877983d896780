//! One service out of what several clusters export under one name (MCS API, notes/conformance 4.5).
//!
//! Property by property the oldest export wins, ties by cluster name, and every exporter learns that
//! there is a conflict. Ports are a union keyed by name. Who may take part at all is decided before,
//! in `admission`.

use std::collections::BTreeSet;

use super::{Condition, ConditionKind};
use crate::model::{ClusterName, ServiceKind, ServicePort, Timestamp};

/// What one cluster exports under the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contribution<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) created: Timestamp,
    pub(super) kind: ServiceKind,
    pub(super) ports: &'a [ServicePort],
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) kind: ServiceKind,
    pub(super) ports: Vec<ServicePort>,
    /// The `Conflict` condition of every export that took part.
    pub(super) conflict: Condition,
}

/// Merges all contributions; none makes nothing.
pub(super) fn merge(mut contributions: Vec<Contribution<'_>>) -> Option<Merge> {
    contributions.sort_by_key(|c| (c.created, c.cluster));
    let oldest = contributions.first()?;
    let kind = oldest.kind;
    let mut ports: Vec<ServicePort> = Vec::new();
    for port in contributions.iter().flat_map(|c| c.ports) {
        if !ports.iter().any(|held| excludes(held, port)) {
            ports.push(port.clone());
        }
    }
    let conflict = conflict(oldest, &contributions[1..]);
    Some(Merge { kind, ports, conflict })
}

/// One name is one port, and one number of a transport has one name.
fn excludes(held: &ServicePort, port: &ServicePort) -> bool {
    held.name == port.name || (held.port == port.port && held.transport == port.transport)
}

fn conflict(oldest: &Contribution<'_>, others: &[Contribution<'_>]) -> Condition {
    let ports = |c: &Contribution<'_>| c.ports.iter().cloned().collect::<BTreeSet<_>>();
    let wanted = ports(oldest);
    if let Some(other) = others.iter().find(|c| c.kind != oldest.kind) {
        let message = format!(
            "{} exports it as {:?}, {} as {:?}; the oldest export decides: {:?}",
            oldest.cluster, oldest.kind, other.cluster, other.kind, oldest.kind
        );
        return Condition::holds(ConditionKind::Conflict, "TypeConflict", message);
    }
    if let Some(other) = others.iter().find(|c| ports(c) != wanted) {
        let message = format!(
            "{} and {} export different ports; all are served, and of two that exclude each other the \
             oldest export's",
            oldest.cluster, other.cluster
        );
        return Condition::holds(ConditionKind::Conflict, "PortConflict", message);
    }
    Condition::fails(ConditionKind::Conflict, "NoConflicts", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AppProtocol, Transport};
    use ServiceKind::{ClusterSetIp, Headless};

    fn port(text: &str) -> ServicePort {
        let (name, number) = text.split_once('=').unwrap();
        let (transport, number) = match number.strip_prefix("udp/") {
            Some(number) => (Transport::Udp, number),
            None => (Transport::Tcp, number),
        };
        let protocol = AppProtocol::detect(None, name);
        ServicePort { name: name.into(), port: number.parse().unwrap(), transport, protocol }
    }

    struct Case {
        claim: &'static str,
        exports: &'static [(&'static str, i64, ServiceKind, &'static [&'static str])],
        kind: ServiceKind,
        ports: &'static [&'static str],
        conflict: &'static str,
    }

    #[test]
    fn the_oldest_export_wins_property_by_property() {
        for case in [
            Case {
                claim: "one exporter is taken as it is (spec 8)",
                exports: &[("a", 1, ClusterSetIp, &["http=80", "dns=udp/53"])],
                kind: ClusterSetIp,
                ports: &["http=80", "dns=udp/53"],
                conflict: "NoConflicts",
            },
            Case {
                claim: "different sets are united, and still a conflict (spec 9)",
                exports: &[("a", 2, ClusterSetIp, &["http=80"]), ("b", 1, ClusterSetIp, &["admin=81"])],
                kind: ClusterSetIp,
                ports: &["admin=81", "http=80"],
                conflict: "PortConflict",
            },
            Case {
                claim: "same name, other number: the oldest (spec 10)",
                exports: &[("a", 2, ClusterSetIp, &["http=80"]), ("b", 1, ClusterSetIp, &["http=8080"])],
                kind: ClusterSetIp,
                ports: &["http=8080"],
                conflict: "PortConflict",
            },
            Case {
                claim: "same number, other name: the oldest",
                exports: &[("a", 1, ClusterSetIp, &["web=80"]), ("b", 2, ClusterSetIp, &["http=80"])],
                kind: ClusterSetIp,
                ports: &["web=80"],
                conflict: "PortConflict",
            },
            Case {
                claim: "same number over another transport is another port",
                exports: &[("a", 1, ClusterSetIp, &["a=53"]), ("b", 2, ClusterSetIp, &["a=53", "b=udp/53"])],
                kind: ClusterSetIp,
                ports: &["a=53", "b=udp/53"],
                conflict: "PortConflict",
            },
            Case {
                claim: "the oldest decides the type (spec 14)",
                exports: &[("a", 2, ClusterSetIp, &["http=80"]), ("b", 1, Headless, &["http=80"])],
                kind: Headless,
                ports: &["http=80"],
                conflict: "TypeConflict",
            },
            Case {
                claim: "of the same age the cluster's name decides",
                exports: &[("b", 1, Headless, &["http=80"]), ("a", 1, ClusterSetIp, &["http=80"])],
                kind: ClusterSetIp,
                ports: &["http=80"],
                conflict: "TypeConflict",
            },
            Case {
                claim: "equal exports agree",
                exports: &[("a", 1, ClusterSetIp, &["a=1", "b=2"]), ("b", 2, ClusterSetIp, &["b=2", "a=1"])],
                kind: ClusterSetIp,
                ports: &["a=1", "b=2"],
                conflict: "NoConflicts",
            },
        ] {
            run(&case);
        }
    }

    fn run(case: &Case) {
        let exports = case.exports.iter().map(|(cluster, created, kind, ports)| {
            let ports: Vec<_> = ports.iter().map(|p| port(p)).collect();
            (ClusterName::try_from(*cluster).unwrap(), Timestamp::from_unix(*created), *kind, ports)
        });
        let exports: Vec<_> = exports.collect();
        let contributions = exports.iter().map(|(cluster, created, kind, ports)| Contribution {
            cluster,
            created: *created,
            kind: *kind,
            ports,
        });
        let merged = merge(contributions.collect()).unwrap();
        let expected: Vec<_> = case.ports.iter().map(|p| port(p)).collect();
        assert_eq!(merged.kind, case.kind, "{}", case.claim);
        assert_eq!(merged.ports, expected, "{}", case.claim);
        assert_eq!(merged.conflict.reason, case.conflict, "{}", case.claim);
    }
}
