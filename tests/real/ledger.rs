//! Every request that clients made, every fault that was done to processes, and the judgement.
//!
//! A request may fail only if it was open on a gateway that was killed, and if nobody could send it
//! again: neither the client of an idempotent one, nor a gateway. Everything else is a failure of ours.

use std::net::Ipv4Addr;

use crate::clock::{Micros, SECOND, of_day, span};
use crate::cluster::is_of;
use crate::network::Machine;
use crate::traffic::{Flow, Outcome};

/// A peer may take so long to notice that a gateway died; design section 10: a dead one leaves rotation.
const NOTICED_WITHIN: Micros = 3 * SECOND;
/// Slower than this by far is what nothing went wrong with.
const SLOW: Micros = SECOND;
/// Then another gateway could have had it.
const NEVER_SENT: [&str; 2] = ["there is no link", "no cluster with the service"];
const SHOWN_MAX: usize = 40;

/// A gateway was killed, from just before to just after.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    pub(crate) cluster: &'static str,
    pub(crate) machine: Machine,
    pub(crate) at: (Micros, Micros),
}

/// What was done to the clusters, as far as it may be felt.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) deaths: Vec<Death>,
    pub(crate) outages: Vec<Outage>,
}

/// A time in which there was no way to a cluster; the last one may still go on.
#[derive(Debug, Clone)]
pub(crate) struct Outage {
    pub(crate) cluster: &'static str,
    pub(crate) began: Micros,
    pub(crate) ended: Option<Micros>,
}

/// One request, and the cluster of its client.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) from: &'static str,
    pub(crate) outcome: Outcome,
}

/// How a phase went.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) asked: usize,
    /// Made good by the client: it connected to the other gateway, or asked again.
    pub(crate) repeated: usize,
    pub(crate) excused: Vec<Asked>,
    /// Nobody could have served them.
    pub(crate) lost: usize,
    pub(crate) failed: Vec<Asked>,
    slowest: Option<Asked>,
    /// The end of the last request that was not like others.
    disturbed_until: Option<Micros>,
}

pub(crate) fn judge<'a>(asked: impl Iterator<Item = &'a Asked>, faults: &Faults) -> Verdict {
    let mut verdict = Verdict::default();
    for one in asked {
        verdict.add(one, faults);
    }
    verdict
}

impl Verdict {
    fn add(&mut self, one: &Asked, faults: &Faults) {
        let Outcome { began, ended, retried, failure, .. } = &one.outcome;
        let took = ended - began;
        self.asked += 1;
        if took >= self.slowest.as_ref().map_or(0, took_of) {
            self.slowest = Some(one.clone());
        }
        if !retried.is_empty() {
            self.repeated += 1;
        }
        if failure.is_some() {
            if faults.outages.iter().any(|outage| lost(outage, one)) {
                self.lost += 1;
            } else if faults.deaths.iter().any(|death| excuses(death, one)) {
                self.excused.push(one.clone());
            } else {
                self.failed.push(one.clone());
            }
        }
        if failure.is_some() || !retried.is_empty() || took > SLOW {
            self.disturbed_until = self.disturbed_until.max(Some(*ended));
        }
    }

    /// One line; `fault` is when the phase's fault was done.
    pub(crate) fn line(&self, fault: Option<Micros>) -> String {
        let disturbed = match (fault, self.disturbed_until) {
            (Some(fault), Some(until)) => {
                format!("clients felt it for {}", span(until.saturating_sub(fault)))
            }
            (_, Some(until)) => format!("clients felt something until {}", of_day(until)),
            (_, None) => "no client felt anything".to_owned(),
        };
        format!(
            "{} requests, {} repeated by clients, {} open on a killed gateway, {}{} FAILED; slowest {}; {disturbed}",
            self.asked,
            self.repeated,
            self.excused.len(),
            if self.lost == 0 { String::new() } else { format!("{} lost without a way, ", self.lost) },
            self.failed.len(),
            self.slowest.as_ref().map_or("-".to_owned(), |one| span(took_of(one))),
        )
    }

    /// What took longest.
    pub(crate) fn slowest(&self) -> String {
        self.slowest.as_ref().map(told).unwrap_or_default()
    }

    pub(crate) fn failures(&self) -> String {
        let mut lines: Vec<_> = self.failed.iter().take(SHOWN_MAX).map(told).collect();
        if self.failed.len() > SHOWN_MAX {
            lines.push(format!("and {} more", self.failed.len() - SHOWN_MAX));
        }
        lines.join("\n")
    }
}

fn took_of(one: &Asked) -> Micros {
    one.outcome.ended - one.outcome.began
}

pub(crate) fn told(one: &Asked) -> String {
    let Outcome { flow, began, ended, near, far, retried, failure } = &one.outcome;
    let place = |ip: &Option<std::net::IpAddr>| ip.map_or("?".to_owned(), |ip| ip.to_string());
    format!(
        "{} from {}: {flow:?} over {} and {}, after {}: {}{}",
        of_day(*began),
        one.from,
        place(near),
        place(far),
        span(ended - began),
        failure.as_deref().unwrap_or("good"),
        if retried.is_empty() { String::new() } else { format!(" (before: {})", retried.join("; ")) }
    )
}

/// Was the request open while nobody could have served it; what both clusters have always is.
fn lost(outage: &Outage, one: &Asked) -> bool {
    let Outcome { flow, began, ended, .. } = &one.outcome;
    let could = *flow == Flow::Failover && one.from != outage.cluster;
    !could && *ended >= outage.began && outage.ended.is_none_or(|end| *began <= end)
}

/// Was the request open on the gateway that died, and is it none that anybody may repeat.
fn excuses(death: &Death, one: &Asked) -> bool {
    let Outcome { flow, began, ended, near, far, failure, .. } = &one.outcome;
    let (before, after) = death.at;
    let sent = !NEVER_SENT.iter().any(|said| failure.as_ref().is_some_and(|failure| failure.contains(said)));
    if flow.is_idempotent() || *ended < before || !sent {
        return false;
    }
    if one.from == death.cluster {
        // A connection that lasts was open; its client sees the end with the next question.
        let seen = after + if *flow == Flow::Stream { NOTICED_WITHIN } else { 0 };
        *began <= seen && near.is_none_or(|near| is_of(near, &death.machine))
    } else {
        *began <= after + NOTICED_WITHIN && far.is_none_or(|far| is_of(far, &death.machine))
    }
}

/// What the judge must know, as data; run before anything else is.
pub(crate) fn check() {
    let machine = Machine { name: "onprem-gateway-1".to_owned(), ip: Ipv4Addr::new(10, 1, 0, 11) };
    let death = Death { cluster: "onprem", machine, at: (10 * SECOND, 10 * SECOND + 1000) };
    let (near, other) = (Some([10, 1, 0, 11].into()), Some([10, 1, 0, 12].into()));
    let virtual_address = Some([10, 1, 111, 3].into());
    let unsent = "503: there is no link to the cluster";
    for (from, flow, near, far, began, ended, failure, excused) in [
        ("onprem", Flow::Http1Post, near, None, 9, 11, "cut", true),
        ("onprem", Flow::Stream, virtual_address, None, 9, 11, "cut", true),
        ("onprem", Flow::Stream, virtual_address, None, 11, 12, "cut", true),
        ("onprem", Flow::Http1, near, None, 9, 11, "cut", false),
        ("onprem", Flow::Http1Post, other, None, 9, 11, "cut", false),
        ("onprem", Flow::Http1Post, near, None, 11, 12, "cut", false),
        ("onprem", Flow::Http1Post, near, None, 8, 9, "cut", false),
        ("cloud", Flow::Http1Post, None, None, 9, 11, "cut", true),
        ("cloud", Flow::Http1Post, None, None, 9, 11, unsent, false),
        ("cloud", Flow::Stream, None, other, 9, 11, "cut", false),
        ("cloud", Flow::Stream, None, near, 9, 11, "cut", true),
        ("cloud", Flow::Tcp, None, None, 15, 16, "cut", false),
    ] {
        let (began, ended, failure) = (began * SECOND, ended * SECOND, Some(failure.to_owned()));
        let outcome = Outcome { flow, began, ended, near, far, retried: Vec::new(), failure };
        let one = Asked { from, outcome };
        assert_eq!(excuses(&death, &one), excused, "{}", told(&one));
    }
}
