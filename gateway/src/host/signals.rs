//! What signals mean: the first TERM or INT drains, a second one cuts, HUP changes nothing.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::manager::ServiceManager;

/// The process was told twice to end.
#[derive(Debug, thiserror::Error)]
#[error("told twice to stop: requests in flight were cut off")]
pub struct CutOff;

/// Cancels `shutdown` at the first signal, and fails at the second.
pub async fn signalled(shutdown: CancellationToken, manager: Option<&ServiceManager>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    signals.told_to_stop().await;
    if let Some(manager) = manager {
        manager.stopping();
    }
    shutdown.cancel();
    signals.told_to_stop().await;
    Err(CutOff.into())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn told_to_stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => info!(
                    hint = "documents are watched and need no signal; isthmus.yaml is read at start: restart to apply it",
                    "SIGHUP changes nothing"
                ),
            }
        }
    }
}
