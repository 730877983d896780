//! Do programs of this host find the names that we serve.

use crate::doctor::facts::{Answer, Facts};
use crate::doctor::finding::Finding;

const ROUTE: &str =
    "install deploy/resolver/systemd-resolved.conf or deploy/resolver/dnsmasq.conf (their comments say how)";

pub(super) fn zones(facts: &Facts, findings: &mut Vec<Finding>) {
    for zone in &facts.zones {
        let name = zone.zone;
        if zone.ours != Answer::Served {
            let cause = format!("our own DNS does not answer for {name}: {}", says(&zone.ours));
            findings.push(Finding::warning(
                "dns",
                cause,
                "start it first (`systemctl start isthmus`), then run this again",
            ));
            continue;
        }
        findings.push(match &zone.host {
            None => Finding::failure("dns-route", "this host has no resolver: /etc/resolv.conf names no server", ROUTE),
            Some((server, Answer::Served)) => {
                Finding::good("dns-route", format!("{name} is routed to us by {server}"))
            }
            Some((server, Answer::NoAnswer(error))) => Finding::failure(
                "dns-route",
                format!("the resolver of this host, {server}, gives no answer for {name}: {error}"),
                format!("does it run? If no link but loopback is up, systemd-resolved answers nothing; then use dnsmasq. Else {ROUTE}"),
            ),
            Some((server, answer)) => Finding::failure(
                "dns-route",
                format!("the resolver of this host, {server}, does not ask us for {name}: {}", says(answer)),
                ROUTE,
            ),
        });
    }
}

pub(super) fn name(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(name) = &facts.name else { return };
    let routed = facts.zones.iter().all(|zone| matches!(&zone.host, Some((_, Answer::Served))));
    let multicast = name.order.as_deref().is_some_and(|order| {
        let before = order.split_whitespace().take_while(|word| !matches!(*word, "dns" | "resolve"));
        before.clone().any(|word| word.starts_with("mdns"))
            && before.clone().any(|word| word.contains("=return"))
    });
    match &name.found {
        Ok(found) if found.contains(&name.expected) => {
            findings
                .push(Finding::good("names", format!("programs find {} at {}", name.name, name.expected)));
        }
        // That the zone is not routed was said.
        _ if !routed => {}
        found => {
            let found = match found {
                Ok(found) => format!("{found:?}"),
                Err(error) => error.clone(),
            };
            let step = if multicast {
                "in /etc/nsswitch.conf, put `resolve` or `dns` before mdns4_minimal, which ends the search for names below .local"
            } else {
                "see the line `hosts:` of /etc/nsswitch.conf: it must reach `resolve` or `dns`; and is a stale answer cached? (`resolvectl flush-caches`)"
            };
            findings.push(Finding::failure(
                "names",
                format!("DNS says {} for {}, and programs find: {found}", name.expected, name.name),
                step,
            ));
        }
    }
}

fn says(answer: &Answer) -> String {
    match answer {
        Answer::Served => "it does".to_owned(),
        Answer::Code(0) => "it knows the name and has no such record".to_owned(),
        Answer::Code(2) => "SERVFAIL".to_owned(),
        Answer::Code(3) => "NXDOMAIN".to_owned(),
        Answer::Code(5) => "REFUSED".to_owned(),
        Answer::Code(code) => format!("code {code}"),
        Answer::NoAnswer(error) => error.clone(),
    }
}
