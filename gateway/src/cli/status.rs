//! `isthmus status`: what a process is doing, and what is wrong.

use std::process::ExitCode;

use super::client::Client;
use super::{Format, output, peer};
use crate::admin::api::{GatewayStatus, Status};

/// Fails if the process is not ready; problems of single documents do not make it fail.
pub(super) async fn run(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let status: Status = client.get("/status").await?;
    match format {
        Format::Json => output::json(&status)?,
        Format::Text => print(&status),
    }
    Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Who leads, and what is stale since when.
fn print_control(status: &Status) {
    if let Some(leader) = &status.leader {
        let since = leader.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
        let whose = if leader.here { "This process leads" } else { "This process follows" };
        output::line(format!("{whose}{since}: {} {}", leader.name, leader.addresses.join(", ")).trim_end());
    }
    if let Some(store) = &status.store {
        output::line(format!("The {} store is {} since {}", store.kind, store.condition, store.since));
    }
    let control = &status.control;
    if status.role == "federation" {
        if status.leader.is_none() {
            output::line("Nobody is known to lead; gateways go on with what they have");
        }
    } else if !control.reachable {
        let of = control.served_since.as_ref().map(|at| format!(" of {at}")).unwrap_or_default();
        let since = control.since.as_deref().unwrap_or("the start");
        let reason = control.reason.as_deref().unwrap_or("no reason is known");
        output::line(format!(
            "Serving generation {}{of}, control plane unreachable since {since}: {reason}",
            status.generation
        ));
    }
}

fn print_gateways(gateways: &[GatewayStatus]) {
    let row = |gateway: &GatewayStatus| {
        let behind = if gateway.behind == 0 { "-".to_owned() } else { gateway.behind.to_string() };
        let since = gateway.connected_since.clone().unwrap_or_else(|| "gone".to_owned());
        [gateway.replica.clone(), since, gateway.generation.to_string(), behind, gateway.addresses.join(",")]
    };
    let rows: Vec<_> = gateways.iter().map(row).collect();
    output::table(["GATEWAY", "CONNECTED SINCE", "GENERATION", "BEHIND", "ADDRESSES"], &rows);
}

fn print(status: &Status) {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    output::line(format!(
        "Cluster {} ({}) is {ready}: generation {}, {} services, isthmus {} ({})",
        status.cluster, status.trust_domain, status.generation, status.services, status.version, status.role
    ));
    print_control(status);
    output::line("");
    let listeners: Vec<_> = status.listeners.iter().map(|l| [l.name.clone(), l.address.clone()]).collect();
    output::table(["LISTENER", "ADDRESS"], &listeners);
    output::line("");
    let svids: Vec<_> = status.svids.iter().map(|s| [s.id.clone(), s.expires.clone()]).collect();
    output::table(["SVID", "EXPIRES"], &svids);
    if !status.gateways.is_empty() {
        output::line("");
        print_gateways(&status.gateways);
    }
    if !status.peers.is_empty() {
        output::line("");
        peer::print(&status.peers);
    }
    for problem in &status.problems {
        output::line("");
        output::line(format!("PROBLEM {}: {}", problem.subject, problem.message));
        if let Some(hint) = &problem.hint {
            output::line(format!("        hint: {hint}"));
        }
    }
}
