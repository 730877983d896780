//! The configuration, the unit, the running process and its certificates.

use crate::doctor::facts::{AdminFact, Facts};
use crate::doctor::finding::Finding;

/// Shorter than that, a clock that is a little off refuses it.
const EXPIRES_SOON_SECONDS: u64 = 300;
/// So often in its life, a service is not healthy.
const RESTARTS_MAX: u64 = 5;

pub(super) fn configuration(facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.configuration.is_empty() {
        findings.push(Finding::good("configuration", "is valid"));
    }
    for error in &facts.configuration {
        findings.push(Finding::failure(
            "configuration",
            error.clone(),
            "correct it; `isthmus config check FILE` judges the file alone. What follows assumes defaults",
        ));
    }
}

pub(super) fn unit(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(unit) = &facts.unit else { return };
    let name = &unit.name;
    findings.push(match unit.active.as_str() {
        "active" if unit.restarts > RESTARTS_MAX => Finding::warning(
            "unit",
            format!("{name} is active and has been restarted {} times after failures", unit.restarts),
            format!("journalctl -u {name} says why"),
        ),
        "active" => Finding::good("unit", format!("{name} is active ({})", unit.sub)),
        "activating" | "reloading" => Finding::warning(
            "unit",
            format!("{name} is {} ({}): not ready yet", unit.active, unit.sub),
            format!("systemctl status {name} says what it waits for"),
        ),
        "failed" => Finding::failure(
            "unit",
            format!("{name} has failed ({})", unit.result),
            format!(
                "journalctl -u {name} says why; then systemctl reset-failed {name} && systemctl start {name}"
            ),
        ),
        _ => {
            Finding::warning("unit", format!("{name} does not run"), format!("systemctl enable --now {name}"))
        }
    });
    if unit.reload_needed {
        findings.push(Finding::warning(
            "unit",
            format!("the file of {name} has changed since systemd read it"),
            format!("systemctl daemon-reload && systemctl restart {name}"),
        ));
    }
}

pub(super) fn admin(facts: &Facts, findings: &mut Vec<Finding>) {
    findings.push(match &facts.admin {
        AdminFact::NotAsked => return,
        AdminFact::Silent(error) => Finding::warning(
            "admin",
            format!("no process answers at admin.address: {error}"),
            "start it (`systemctl start isthmus`), or name its configuration with --config",
        ),
        AdminFact::Answers { cluster, expected, .. } if cluster != expected => Finding::failure(
            "admin",
            format!("cluster {cluster} answers at admin.address, not {expected}"),
            "another process has that port; give one of the two its own addresses",
        ),
        AdminFact::Answers { cluster, ready: false, .. } => Finding::failure(
            "admin",
            format!("cluster {cluster} runs and is not ready"),
            "its log says what it waits for; `isthmus status` too",
        ),
        AdminFact::Answers { cluster, problems, .. } if *problems > 0 => Finding::warning(
            "admin",
            format!("cluster {cluster} is ready and has {problems} problems with its documents"),
            "isthmus status lists them with their remedies",
        ),
        AdminFact::Answers { cluster, .. } => Finding::good("admin", format!("cluster {cluster} is ready")),
    });
}

pub(super) fn certificates(facts: &Facts, findings: &mut Vec<Finding>) {
    let now = facts.clock.unix_seconds;
    for certificate in &facts.certificates {
        let (id, left) = (&certificate.id, certificate.not_after.saturating_sub(now));
        findings.push(if left == 0 {
            Finding::failure(
                "certificate",
                format!("{id} has expired: peers refuse us"),
                "is the clock right? Is the federation process that signs reachable? The log says why it was not renewed",
            )
        } else if left < EXPIRES_SOON_SECONDS {
            Finding::warning(
                "certificate",
                format!("{id} expires in {left} s"),
                "with a short trust.svidTtl that is normal; else the log says why it was not renewed",
            )
        } else {
            Finding::good("certificate", format!("{id} is valid for {} h", left / 3600))
        });
    }
}
