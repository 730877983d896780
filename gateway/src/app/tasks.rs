//! The tasks of a process: each has a name and is expected to live until it is told to stop.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

#[derive(Debug, Clone)]
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    /// Cancelled when a part ended by itself.
    pub(super) broken: CancellationToken,
}

/// A part of the process ended without being told to.
#[derive(Debug, thiserror::Error)]
#[error("a part of the process ended by itself; its log says why")]
pub struct Broken;

impl Tasks {
    pub(super) fn new() -> Self {
        Self { tracker: TaskTracker::new(), broken: CancellationToken::new() }
    }

    /// Starts a part; its end before `stop` is an error that ends the process.
    pub(super) fn start(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        part: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (broken, stop) = (self.broken.clone(), stop.clone());
        let part = self.tracker.spawn(part);
        self.tracker.spawn(async move {
            let ended = part.await;
            if !stop.is_cancelled() {
                error!(part = name, panicked = ended.is_err(), "ended by itself");
                broken.cancel();
            }
        })
    }

    /// Starts what ends when it is done, or when told to stop.
    pub(super) fn start_until(
        &self,
        stop: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tracker.spawn(stop.clone().run_until_cancelled_owned(work));
    }
}
