//! The order in which a process ends, written once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::admin::END_TIME_MAX;
use super::gateway_role::RunningGateway;
use super::logs::Logs;
use super::tasks::Tasks;

/// How long requests may take to finish once the process is told to stop.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// A process that runs.
pub(super) struct Running {
    pub(super) ready: Arc<AtomicBool>,
    pub(super) gateway: Option<RunningGateway>,
    /// Stops everything that requests in flight may still need.
    pub(super) rest: CancellationToken,
    pub(super) tasks: Tasks,
    pub(super) admin: thread::JoinHandle<()>,
    pub(super) admin_stop: CancellationToken,
    pub(super) logs: Logs,
}

impl Running {
    /// No longer ready; peers are told; requests finish; the control plane ends, and a leader resigns;
    /// then the admin API and the logs.
    pub(super) async fn drain(self) {
        let Self { ready, gateway, rest, tasks, admin, admin_stop, logs } = self;
        info!("stopping: requests in flight are finished first");
        ready.store(false, Ordering::Relaxed);
        if let Some(gateway) = gateway {
            gateway.links.announce_leaving();
            gateway.stop.cancel();
            // Its end was judged where it was started.
            let _drained = gateway.ended.await;
        }
        rest.cancel();
        tasks.tracker.close();
        if tokio::time::timeout(END_TIME_MAX, tasks.tracker.wait()).await.is_err() {
            error!("some tasks did not end in time");
        }
        admin_stop.cancel();
        let ended = tokio::task::spawn_blocking(move || {
            let _panicked = admin.join();
            logs.close();
        });
        // Whoever reads a log may have stopped reading.
        if tokio::time::timeout(2 * END_TIME_MAX, ended).await.is_err() {
            error!("the admin API or a log did not end in time");
        }
    }
}
