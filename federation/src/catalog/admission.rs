//! Which peers may contribute to a name (notes/trust T5).
//!
//! A peer that exports a service it does not own must not capture a name that is in use. The first
//! contributor of a name is free outside protected namespaces; a further one joins only where this
//! cluster exports the name itself, or where the operator declared the namespace to be the same in
//! both clusters. Who was first is a durable claim, since a peer's own times cannot be trusted.

use crate::model::{ClusterName, Label, ServiceName, Timestamp};

/// Namespaces with this prefix belong to the cluster's own machinery.
const PROTECTED_PREFIX: &str = "kube-";
const OWN_NAMESPACE: &str = "isthmus-system";

/// A peer that exports the name to us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) peer: &'a ClusterName,
    pub(super) created: Timestamp,
    /// Whether the peer's sameness names the namespace.
    pub(super) trusted: bool,
}

/// What this cluster has to say about the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local<'a> {
    pub(super) exported_here: bool,
    /// The peer on record as the first contributor.
    pub(super) claim: Option<&'a ClusterName>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Admission {
    /// In the order of the candidates.
    pub(super) merged: Vec<ClusterName>,
    pub(super) pending: Vec<ClusterName>,
    /// The peer that holds the name because it was first.
    pub(super) first: Option<ClusterName>,
}

pub(super) fn admit(service: &ServiceName, local: Local<'_>, candidates: &[Candidate<'_>]) -> Admission {
    let first = first(service, local, candidates);
    let (merged, pending): (Vec<_>, Vec<_>) = candidates
        .iter()
        .partition(|c| local.exported_here || c.trusted || first.is_some_and(|first| first == c.peer));
    let names = |candidates: Vec<&Candidate<'_>>| candidates.into_iter().map(|c| c.peer.clone()).collect();
    Admission { merged: names(merged), pending: names(pending), first: first.cloned() }
}

fn first<'a>(
    service: &ServiceName,
    local: Local<'_>,
    candidates: &[Candidate<'a>],
) -> Option<&'a ClusterName> {
    if local.exported_here || is_protected(&service.namespace) {
        return None;
    }
    let claimant = candidates.iter().find(|c| local.claim == Some(c.peer));
    claimant.or_else(|| candidates.iter().min_by_key(|c| (c.created, c.peer))).map(|c| c.peer)
}

pub(super) fn is_protected(namespace: &Label) -> bool {
    namespace.as_str().starts_with(PROTECTED_PREFIX) || namespace.as_str() == OWN_NAMESPACE
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        claim: &'static str,
        service: &'static str,
        exported_here: bool,
        held_by: Option<&'static str>,
        /// Peer, age, sameness.
        candidates: &'static [(&'static str, i64, bool)],
        merged: &'static [&'static str],
        first: Option<&'static str>,
    }

    const FREE: Case = Case {
        claim: "",
        service: "pay.prod",
        exported_here: false,
        held_by: None,
        candidates: &[],
        merged: &[],
        first: None,
    };

    #[test]
    fn t5_a_name_in_use_is_not_captured() {
        for case in [
            Case {
                claim: "the first contributor is free",
                candidates: &[("b", 1, false)],
                merged: &["b"],
                first: Some("b"),
                ..FREE
            },
            Case {
                claim: "a second one waits",
                candidates: &[("b", 1, false), ("c", 2, false)],
                merged: &["b"],
                first: Some("b"),
                ..FREE
            },
            Case {
                claim: "an older claimed time does not displace who holds the name",
                held_by: Some("c"),
                candidates: &[("b", 1, false), ("c", 2, false)],
                merged: &["c"],
                first: Some("c"),
                ..FREE
            },
            Case {
                claim: "a name that its holder gave up is free again",
                held_by: Some("d"),
                candidates: &[("b", 1, false), ("c", 2, false)],
                merged: &["b"],
                first: Some("b"),
                ..FREE
            },
            Case {
                claim: "sameness lets a further one join",
                candidates: &[("b", 1, false), ("c", 2, true), ("d", 3, false)],
                merged: &["b", "c"],
                first: Some("b"),
                ..FREE
            },
            Case {
                claim: "our own export invites everybody",
                exported_here: true,
                candidates: &[("b", 1, false), ("c", 2, false)],
                merged: &["b", "c"],
                ..FREE
            },
            Case {
                claim: "kube-system is nobody's",
                service: "api.kube-system",
                candidates: &[("b", 1, false)],
                ..FREE
            },
            Case {
                claim: "our own namespace is nobody's",
                service: "federation.isthmus-system",
                held_by: Some("b"),
                candidates: &[("b", 1, false)],
                ..FREE
            },
            Case {
                claim: "sameness opens a protected namespace to that peer",
                service: "api.kube-system",
                candidates: &[("b", 1, false), ("c", 2, true)],
                merged: &["c"],
                ..FREE
            },
        ] {
            run(&case);
        }
    }

    fn run(case: &Case) {
        let cluster = |name: &&str| ClusterName::try_from(*name).unwrap();
        let peers: Vec<_> = case.candidates.iter().map(|(peer, ..)| cluster(peer)).collect();
        let candidates = case.candidates.iter().zip(&peers).map(|((_, created, trusted), peer)| Candidate {
            peer,
            created: Timestamp::from_unix(*created),
            trusted: *trusted,
        });
        let held_by = case.held_by.as_ref().map(cluster);
        let local = Local { exported_here: case.exported_here, claim: held_by.as_ref() };
        let admission = admit(&case.service.parse().unwrap(), local, &candidates.collect::<Vec<_>>());
        let merged: Vec<_> = case.merged.iter().map(cluster).collect();
        let pending: Vec<_> = peers.iter().filter(|peer| !merged.contains(peer)).cloned().collect();
        let first = case.first.as_ref().map(cluster);
        assert_eq!(admission, Admission { merged, pending, first }, "{}", case.claim);
    }
}
