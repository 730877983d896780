//! Ports that are taken, not permitted or nowhere; addresses for services; what must be reached.

use crate::doctor::facts::{AdminFact, Bind, Facts, SocketFact};
use crate::doctor::finding::Finding;

pub(super) fn sockets(facts: &Facts, findings: &mut Vec<Finding>) {
    for socket in &facts.sockets {
        findings.push(socket_finding(facts, socket));
        if let Some((first, last)) = facts.limits.ephemeral_ports
            && (first..=last).contains(&socket.address.port())
        {
            findings.push(Finding::warning(
                "port",
                format!(
                    "{} ({}) is a port of outgoing connections ({first} to {last}): one may hold it when we start",
                    socket.address, socket.setting
                ),
                format!("choose a port outside, or sysctl -w net.ipv4.ip_local_reserved_ports={}", socket.address.port()),
            ));
        }
    }
}

fn socket_finding(facts: &Facts, socket: &SocketFact) -> Finding {
    let at = format!("{} {} ({})", if socket.udp { "UDP" } else { "TCP" }, socket.address, socket.setting);
    let port = socket.address.port();
    match &socket.bind {
        Bind::Free if is_low(facts, port) && !may_bind_low(facts) => Finding::failure(
            "port",
            format!("{at} is a low port, which only root may bind"),
            "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit (the units of deploy/systemd have it), or open it by a .socket unit",
        ),
        Bind::Free => Finding::good("port", format!("{at} is free")),
        Bind::Taken(holder) if is_ours(facts, holder.as_deref()) => {
            Finding::good("port", format!("{at} is ours"))
        }
        Bind::Taken(holder) => Finding::failure(
            "port",
            format!("{at} is taken by {}", holder.as_deref().unwrap_or("somebody that this user cannot see")),
            format!(
                "stop it, or choose another {}; `ss -lnp 'sport = :{port}'` as root says more",
                socket.setting
            ),
        ),
        Bind::NoSuchAddress => Finding::failure(
            "port",
            format!("no interface of this machine has the address of {at}"),
            format!("add it, or choose an address of `ip -br address` for {}", socket.setting),
        ),
        Bind::NotPermitted => Finding::failure(
            "port",
            format!("{at} may not be bound by this user"),
            format!(
                "run it by the units of deploy/systemd (CAP_NET_BIND_SERVICE), or sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
            ),
        ),
        Bind::Failed(error) => Finding::failure(
            "port",
            format!("{at} cannot be bound: {error}"),
            "see the cause; then run this again",
        ),
    }
}

pub(super) fn pool(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some((address, bind)) = &facts.pool else { return };
    findings.push(match bind {
        Bind::Free | Bind::Taken(_) => {
            Finding::good("virtual-addresses", format!("{address} (gateway.virtual.pool) can be bound"))
        }
        refused => Finding::failure(
            "virtual-addresses",
            format!("{address} (gateway.virtual.pool) cannot be bound: {refused:?}"),
            if address.is_loopback() {
                "is the loopback interface up? `ip link set lo up`; all of 127.0.0.0/8 is local on Linux only".to_owned()
            } else {
                format!("ip addr add the pool to an interface (`ip route add local {address}/20 dev lo`), or leave the setting out for one on loopback")
            },
        ),
    });
}

pub(super) fn endpoints(facts: &Facts, findings: &mut Vec<Finding>) {
    for endpoint in &facts.endpoints {
        let (at, setting) = (&endpoint.endpoint, endpoint.setting);
        findings.push(match &endpoint.reached {
            Ok(()) => Finding::good("endpoint", format!("{at} ({setting}) can be reached")),
            Err(error) => Finding::failure(
                "endpoint",
                format!("{at} ({setting}) cannot be reached: {error}"),
                "does it run, is the address right, does a firewall let us through? What is on disk is served meanwhile",
            ),
        });
    }
}

fn is_low(facts: &Facts, port: u16) -> bool {
    port != 0 && port < facts.limits.low_ports_end.unwrap_or(1024)
}

/// As root we could bind everything, and the process of the unit is not root.
fn may_bind_low(facts: &Facts) -> bool {
    facts.unit.as_ref().map_or(facts.is_root, |unit| unit.may_bind_low_ports)
}

fn is_ours(facts: &Facts, holder: Option<&str>) -> bool {
    match holder {
        Some(holder) if holder.starts_with("systemd ") => facts.unit.is_some(),
        Some(holder) => holder.starts_with("isthmus "),
        // Somebody whom we cannot see, while our own process answers.
        None => matches!(&facts.admin, AdminFact::Answers { cluster, expected, .. } if cluster == expected),
    }
}
