//! The scenarios, as data.

use crate::cluster::Layout;
use crate::outages;
use crate::says::Says;
use crate::scenario::{Scenario, Step};

/// Requests of each kind and direction that a state is judged by.
pub(crate) const SOME: usize = 20;

pub(crate) fn all(long: bool) -> Vec<Scenario> {
    vec![whole(), outages::kill(), outages::outage(long), outages::rolling()]
}

/// One gateway in each cluster: what is lost is counted, and everything is well again by itself.
fn whole() -> Scenario {
    let (onprem, cloud) = ("onprem/gateway-1", "cloud/gateway-1");
    let mut steps = vec![phase("all is well"), Step::Requests(SOME), until(onprem, Says::Serves)];
    steps.extend([
        phase("packets between the clusters are lost"),
        Step::Outage("cloud"),
        Step::Disconnect,
        until(onprem, Says::PeersUnreachable),
        until(cloud, Says::PeersUnreachable),
        until(onprem, Says::PeersExpired),
        show(onprem),
        Step::Connect,
        until(onprem, Says::PeersReachable),
        until(cloud, Says::PeersReachable),
        Step::OutageEnds,
        phase("the clusters see each other again"),
        Step::Requests(SOME),
    ]);
    type Fault = fn(String) -> Step;
    let faults: [(&str, Fault, Fault); 4] = [
        ("killed", Step::Kill, Step::Start),
        ("told to stop", Step::Stop, Step::Start),
        ("paused", Step::Pause, Step::Resume),
        ("unplugged", Step::Unplug, Step::Plug),
    ];
    for (what, fault, repair) in faults {
        steps.extend([
            phase(&format!("cloud is {what}")),
            Step::Outage("cloud"),
            fault(cloud.to_owned()),
            until(onprem, Says::PeersUnreachable),
            repair(cloud.to_owned()),
            until(cloud, Says::PeersReachable),
            until(onprem, Says::PeersReachable),
            Step::OutageEnds,
            phase("cloud is back"),
            Step::Requests(SOME),
            until(cloud, Says::NoProblems),
        ]);
    }
    Scenario {
        name: "whole",
        layout: Layout::Whole,
        only_by_name: false,
        about: "each cluster is one process; the way between them goes away, then one of them",
        steps,
    }
}

pub(crate) fn phase(title: &str) -> Step {
    Step::Phase(title.to_owned())
}

pub(crate) fn until(process: &str, says: Says) -> Step {
    Step::Until(process.to_owned(), says)
}

pub(crate) fn show(process: &str) -> Step {
    Step::Show(process.to_owned())
}
