//! The checks: from facts to findings, each the same whenever the facts are the same.

mod host;
mod names;
mod process;
mod sockets;

use super::facts::Facts;
use super::finding::Finding;

/// Everything that can be said of these facts, in the order in which one repairs it.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    process::configuration(facts, &mut findings);
    host::limits(facts, &mut findings);
    host::clock(facts, &mut findings);
    host::files(facts, &mut findings);
    sockets::sockets(facts, &mut findings);
    sockets::pool(facts, &mut findings);
    sockets::endpoints(facts, &mut findings);
    process::unit(facts, &mut findings);
    process::admin(facts, &mut findings);
    process::certificates(facts, &mut findings);
    names::zones(facts, &mut findings);
    names::name(facts, &mut findings);
    findings
}

#[cfg(test)]
mod tests;
