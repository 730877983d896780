//! What gateways have seen: passed on to the peering of this moment, and told again to the next one.
//!
//! Gateways report what changes. A process that begins to lead has missed what was said before, so what
//! holds of it is kept here, however often the lead goes and comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::control::{Path, Report, Unbound};
use crate::model::ClusterName;
use crate::operator::Office;

pub(super) async fn take_reports(
    mut office: watch::Receiver<Office>,
    mut reports: mpsc::Receiver<Report>,
    unbound: watch::Sender<Arc<Vec<Unbound>>>,
) {
    let mut paths: BTreeMap<ClusterName, Path> = BTreeMap::new();
    loop {
        tokio::select! {
            report = reports.recv() => match report {
                Some(Report::Path { peer, path }) => {
                    tell(&office, &peer, path).await;
                    paths.insert(peer, path);
                }
                Some(Report::Unbound(sockets)) => drop(unbound.send_replace(Arc::new(sockets))),
                Some(Report::Applied { generation }) => tracing::debug!(%generation, "gateways use it"),
                None => break,
            },
            Ok(()) = office.changed() => {
                office.borrow_and_update();
                for (peer, path) in &paths {
                    tell(&office, peer, *path).await;
                }
            }
        }
    }
    std::future::pending().await
}

async fn tell(office: &watch::Receiver<Office>, peer: &ClusterName, path: Path) {
    let desk = office.borrow().desk();
    if let Some(desk) = desk {
        desk.peering.report_path(peer, Some(path)).await;
    }
}
