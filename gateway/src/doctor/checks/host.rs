//! The kernel's limits, the clock, directories and their modes.

use crate::doctor::facts::{DirectoryState, Facts, Limits};
use crate::doctor::finding::Finding;

/// A connection takes up to three, so this is a thousand and some.
const DESCRIPTORS_MIN: u64 = 4_096;
/// Our listen queues.
const SOMAXCONN_MIN: u64 = 1_024;
const EPHEMERAL_PORTS_MIN: u32 = 16_384;
/// A table that is so full overflows in the next burst.
const CONNTRACK_PERCENT_MAX: u64 = 80;
const MEMORY_PERCENT_MAX: u64 = 90;
/// A gateway with a few peers and its buffers.
const MEMORY_MIN: u64 = 256 << 20;
const FREE_BYTES_MIN: u64 = 64 << 20;
const FREE_BYTES_COMFORTABLE: u64 = 512 << 20;
/// 2025-01-01: nobody has built this before.
const BUILT_AFTER: u64 = 1_735_689_600;
/// 2100-01-01.
const FAR_FUTURE: u64 = 4_102_444_800;

pub(super) fn limits(facts: &Facts, findings: &mut Vec<Finding>) {
    let Limits { descriptors, somaxconn, ephemeral_ports, conntrack, memory, .. } = facts.limits;
    if let Some(descriptors) = descriptors {
        findings.push(if descriptors < DESCRIPTORS_MIN {
            let step =
                "set LimitNOFILE=262144 in the unit, or `ulimit -n 262144` in the shell that starts it";
            let cause =
                format!("only {descriptors} open files are allowed: about {} connections", descriptors / 3);
            Finding::warning("descriptors", cause, step)
        } else {
            Finding::good("descriptors", format!("{descriptors} open files are allowed"))
        });
    }
    if let Some(somaxconn) = somaxconn {
        findings.push(if somaxconn < SOMAXCONN_MIN {
            let cause = format!("net.core.somaxconn is {somaxconn}: a burst of new connections is dropped");
            Finding::warning(
                "listen-queue",
                cause,
                "sysctl -w net.core.somaxconn=4096, and write it into /etc/sysctl.d/",
            )
        } else {
            Finding::good("listen-queue", format!("net.core.somaxconn is {somaxconn}"))
        });
    }
    if let Some((first, last)) = ephemeral_ports {
        let ports = u32::from(last.saturating_sub(first)) + 1;
        findings.push(if ports < EPHEMERAL_PORTS_MIN {
            let cause = format!("net.ipv4.ip_local_port_range is {first} to {last}: at most {ports} connections to one endpoint");
            Finding::warning("ephemeral-ports", cause, "sysctl -w net.ipv4.ip_local_port_range='32768 60999'")
        } else {
            Finding::good("ephemeral-ports", format!("{first} to {last}"))
        });
    }
    if let Some((used, most)) = conntrack.filter(|(_, most)| *most > 0) {
        findings.push(if used.saturating_mul(100) / most >= CONNTRACK_PERCENT_MAX {
            let cause =
                format!("{used} of {most} connections are tracked: beyond that the kernel drops packets");
            Finding::warning(
                "conntrack",
                cause,
                format!("sysctl -w net.netfilter.nf_conntrack_max={}", most * 4),
            )
        } else {
            Finding::good("conntrack", format!("{used} of {most} connections are tracked"))
        });
    }
    if let Some((used, most)) = memory {
        findings.push(if most < MEMORY_MIN || used.saturating_mul(100) / most.max(1) >= MEMORY_PERCENT_MAX {
            let cause = format!("{} of {} MiB of the memory limit are used", used >> 20, most >> 20);
            Finding::warning(
                "memory",
                cause,
                "raise MemoryMax= of the unit (or the limit of the container) to 512 MiB or more",
            )
        } else {
            Finding::good(
                "memory",
                format!("{} of {} MiB of the memory limit are used", used >> 20, most >> 20),
            )
        });
    }
}

pub(super) fn clock(facts: &Facts, findings: &mut Vec<Finding>) {
    let now = facts.clock.unix_seconds;
    findings.push(if !(BUILT_AFTER..FAR_FUTURE).contains(&now) {
        let cause = "the clock is off by years: no certificate is valid, and every peer refuses ours";
        Finding::failure("clock", cause, "set it (`timedatectl set-ntp true`, or `date -s`)")
    } else {
        match facts.clock.synchronised {
            Some(false) => {
                let cause = "the clock is not synchronised: certificates live hours, a clock that drifts ends in refused peers";
                Finding::warning("clock", cause, "install and start systemd-timesyncd or chrony (`timedatectl set-ntp true`)")
            }
            Some(true) => Finding::good("clock", "is synchronised"),
            None => Finding::good("clock", "is plausible; nobody here says whether it is synchronised"),
        }
    });
}

pub(super) fn files(facts: &Facts, findings: &mut Vec<Finding>) {
    for directory in &facts.directories {
        let (path, setting) = (directory.path.display(), directory.setting);
        findings.push(match &directory.state {
            DirectoryState::Missing => Finding::warning(
                "directory",
                format!("{path} ({setting}) is not there"),
                "deploy/install makes it; or `install -d -m 700 -o isthmus -g isthmus` for data, 750 for documents",
            ),
            DirectoryState::Unreadable(error) => Finding::warning(
                "directory",
                format!("{path} ({setting}) cannot be looked at: {error}"),
                "run this as root or as the user of the process",
            ),
            DirectoryState::There { mode, .. } if directory.private && mode & 0o077 != 0 => Finding::failure(
                "directory",
                format!("{path} ({setting}) holds keys and has mode {mode:03o}: others can look in"),
                format!("chmod 700 {path}"),
            ),
            DirectoryState::There { mode, .. } if mode & 0o002 != 0 => Finding::failure(
                "directory",
                format!("{path} ({setting}) can be written by everybody, and so what this cluster serves"),
                format!("chmod o-w {path}"),
            ),
            DirectoryState::There { free_bytes: Some(free), .. }
                if directory.private && *free < FREE_BYTES_COMFORTABLE =>
            {
                let cause = format!("{} MiB are free at {path} ({setting})", free >> 20);
                let step = "make room: without it nothing can be stored, no peer joined and no SVID renewed on disk";
                if *free < FREE_BYTES_MIN {
                    Finding::failure("directory", cause, step)
                } else {
                    Finding::warning("directory", cause, step)
                }
            }
            DirectoryState::There { mode, .. } => {
                Finding::good("directory", format!("{path} ({setting}) has mode {mode:03o}"))
            }
        });
    }
    for secret in facts.secrets.iter().filter(|secret| secret.mode & 0o077 != 0) {
        let path = secret.path.display();
        findings.push(Finding::failure(
            "secret",
            format!("{path} has mode {:03o}: others can read it", secret.mode),
            format!("chmod 600 {path}; if it is a key and somebody may have read it, replace it"),
        ));
    }
}
