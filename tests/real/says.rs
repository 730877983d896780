//! What `isthmus status` must say, and what traffic must show.

use anyhow::{Context, bail};
use serde_json::Value;

use crate::ledger::Asked;
use crate::process::Process;

/// A condition on one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Says {
    /// Every peer is fresh and every path to one is up.
    PeersReachable,
    /// Every peer is fresh.
    PeersFresh,
    /// Nothing can be sent to any peer.
    PeersUnreachable,
    /// What the peer exports can no longer be used, and it is said so.
    PeersExpired,
    /// Clients of its own cluster and those of the peer get answers through this gateway again.
    Serves,
    NoProblems,
    /// What is served is the control plane's newest word.
    StateIsFresh,
    /// It is not, and status says since when.
    StateIsStale,
    Leads,
    StoreIsGood,
    /// The store does not answer, and status says since when.
    StoreIsStale,
}

impl Says {
    pub(crate) fn holds(
        &self,
        status: &Value,
        process: &Process,
        traffic: impl Fn() -> Vec<Asked>,
    ) -> anyhow::Result<()> {
        match self {
            Self::PeersReachable => {
                every_peer(status, "freshness", "fresh")?;
                every_peer(status, "path", "up")
            }
            Self::PeersFresh => every_peer(status, "freshness", "fresh"),
            Self::StateIsFresh => equals(status, "/control/reachable", true),
            Self::StateIsStale => {
                equals(status, "/control/reachable", false)?;
                said(status, "/control/since")
            }
            Self::Leads => equals(status, "/leader/here", true),
            Self::StoreIsGood => equals(status, "/store/condition", "good"),
            Self::StoreIsStale => {
                equals(status, "/store/condition", "failing")?;
                said(status, "/store/since")
            }
            Self::PeersUnreachable => every_peer(status, "path", "down"),
            Self::PeersExpired => every_peer(status, "freshness", "expired"),
            Self::Serves => serves(process, &traffic()),
            Self::NoProblems => match list(status, "problems")?.as_slice() {
                [] => Ok(()),
                problems => bail!("problems are {problems:?}"),
            },
        }
    }
}

fn serves(process: &Process, traffic: &[Asked]) -> anyhow::Result<()> {
    let good = || traffic.iter().filter(|one| one.outcome.failure.is_none()).map(|one| &one.outcome);
    let is_ours = |ip: std::net::IpAddr| crate::cluster::is_of(ip, &process.machine);
    let near = good().filter(|outcome| outcome.near.is_some_and(is_ours)).count();
    let far = good().filter(|outcome| outcome.far.is_some_and(is_ours)).count();
    if near == 0 || far == 0 {
        bail!("{near} requests came from workloads, {far} from the peer")
    } else {
        Ok(())
    }
}

fn every_peer(status: &Value, field: &str, expected: &str) -> anyhow::Result<()> {
    let peers = list(status, "peers")?;
    let found: Vec<_> = peers.iter().map(|peer| peer[field].as_str().unwrap_or_default()).collect();
    if found.is_empty() || found.iter().any(|&found| found != expected) {
        bail!("{field} of peers is {found:?}");
    }
    Ok(())
}

fn list(status: &Value, field: &str) -> anyhow::Result<Vec<Value>> {
    Ok(status[field].as_array().with_context(|| format!("no {field}"))?.clone())
}

fn equals(status: &Value, path: &str, expected: impl Into<Value>) -> anyhow::Result<()> {
    let found = status.pointer(path).with_context(|| format!("no {path}"))?;
    if *found == expected.into() { Ok(()) } else { bail!("{path} is {found}") }
}

fn said(status: &Value, path: &str) -> anyhow::Result<()> {
    let found = status.pointer(path).and_then(Value::as_str);
    found.map(drop).with_context(|| format!("{path} is not said"))
}
