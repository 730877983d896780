//! "Shows 2": whatever dies, no request fails but those that were open on a gateway that was killed.

use crate::cluster::Layout;
use crate::says::Says;
use crate::scenario::{Scenario, Step};
use crate::scenarios::{SOME, phase, show, until};

/// Longer than the leader's lease: of the kinds that are sent ten times a second.
const WHILE_AWAY: usize = 80;
const ONE_MINUTE: usize = 600;

/// Each process of one cluster is killed and started again, one after the other.
pub(crate) fn kill() -> Scenario {
    let mut steps = vec![phase("all is well"), Step::Requests(SOME)];
    for cluster in ["onprem", "cloud"] {
        for name in ["gateway-1", "gateway-2", "federation-1", "federation-2", "etcd"] {
            let process = format!("{cluster}/{name}");
            steps.extend([
                phase(&format!("{process} is killed")),
                Step::Kill(process.clone()),
                Step::Requests(SOME),
                phase(&format!("{process} is started again")),
                Step::Start(process.clone()),
            ]);
            steps.extend(back(cluster, name));
        }
    }
    Scenario {
        name: "kill",
        layout: Layout::Apart,
        only_by_name: true,
        about: "each process of both clusters is killed and started again, one after the other",
        steps,
    }
}

/// The store goes away, then all of federation; a gateway is restarted meanwhile.
pub(crate) fn outage(long: bool) -> Scenario {
    let away = if long { ONE_MINUTE } else { WHILE_AWAY };
    let mut steps = vec![phase("all is well"), Step::Requests(SOME)];
    steps.extend([
        phase("etcd of cloud is killed"),
        Step::Kill("cloud/etcd".to_owned()),
        until("cloud/federation-1", Says::StoreIsStale),
        until("cloud/federation-2", Says::StoreIsStale),
        Step::Requests(away),
        show("cloud/federation-1"),
        phase("etcd of cloud is back"),
        Step::Start("cloud/etcd".to_owned()),
    ]);
    steps.extend(back("cloud", "etcd"));
    steps.extend([
        phase("all of federation of cloud is killed"),
        Step::Kill("cloud/federation-1".to_owned()),
        Step::Kill("cloud/federation-2".to_owned()),
        until("cloud/gateway-1", Says::StateIsStale),
        until("cloud/gateway-2", Says::StateIsStale),
        Step::Requests(away),
        show("cloud/gateway-1"),
        phase("a gateway of cloud is killed meanwhile"),
        Step::Kill("cloud/gateway-1".to_owned()),
        Step::Requests(SOME),
        phase("it starts from its disk"),
        Step::Start("cloud/gateway-1".to_owned()),
        until("cloud/gateway-1", Says::Serves),
        until("cloud/gateway-1", Says::StateIsStale),
        Step::Requests(SOME),
        show("cloud/gateway-1"),
        phase("etcd goes away too, and the other gateway is killed"),
        Step::Kill("cloud/etcd".to_owned()),
        Step::Kill("cloud/gateway-2".to_owned()),
        Step::Requests(SOME),
        Step::Start("cloud/gateway-2".to_owned()),
        until("cloud/gateway-2", Says::Serves),
        phase("everything is back"),
        Step::Start("cloud/etcd".to_owned()),
        Step::Start("cloud/federation-1".to_owned()),
        Step::Start("cloud/federation-2".to_owned()),
    ]);
    steps.extend(back("cloud", "federation-1"));
    steps.push(show("cloud/federation-1"));
    Scenario {
        name: "outage",
        layout: Layout::Apart,
        only_by_name: true,
        about: "etcd is away, then all of federation, while a gateway is restarted",
        steps,
    }
}

/// "Shows 3": each process is told to stop and started again, as an upgrade does it.
pub(crate) fn rolling() -> Scenario {
    let mut steps = vec![phase("all is well"), Step::Requests(SOME)];
    for cluster in ["onprem", "cloud"] {
        for name in ["etcd", "federation-1", "federation-2", "gateway-1", "gateway-2"] {
            let process = format!("{cluster}/{name}");
            steps.extend([
                phase(&format!("{process} is restarted")),
                Step::Stop(process.clone()),
                Step::Start(process.clone()),
            ]);
            steps.extend(back(cluster, name));
        }
    }
    Scenario {
        name: "rolling",
        layout: Layout::Apart,
        only_by_name: true,
        about: "each process of both clusters is told to stop and started again, one after the other",
        steps,
    }
}

/// Everything is as it was before.
fn back(cluster: &str, name: &str) -> Vec<Step> {
    let mut steps = vec![Step::Converged(cluster.to_owned())];
    if name.starts_with("gateway") {
        steps.push(Step::Until(format!("{cluster}/{name}"), Says::Serves));
    }
    steps.push(Step::Requests(SOME));
    steps
}
