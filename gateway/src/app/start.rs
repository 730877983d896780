//! A process from its command to its end, with what the host gives it.

use federation::config::Config;
use tokio_util::sync::CancellationToken;

use super::process::{Plan, Process, Roles};
use crate::host::{ServiceManager, Sockets, inherited, signalled};
use crate::telemetry::Output;

/// Runs a process until a signal.
pub fn run(config: Config, roles: Roles) -> anyhow::Result<()> {
    // Before any thread is there.
    let inherited = inherited();
    let manager = ServiceManager::start()?;
    let sockets = Sockets::new(inherited, manager.as_ref().map(ServiceManager::store));
    let plan = Plan { sockets, ..Plan::new(roles) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let process = Process::build_as(plan, config, Output::Stdout).await?;
        if let Some(manager) = &manager {
            manager.watch(process.watched());
        }
        let shutdown = CancellationToken::new();
        let signals = signalled(shutdown.clone(), manager.as_ref());
        let running = process.run(shutdown);
        tokio::select! {
            ended = running => Ok(ended?),
            failed = signals => failed,
        }
    });
    if let Some(manager) = manager {
        manager.end();
    }
    // What has not ended by now is not waited for again.
    runtime.shutdown_background();
    ended
}
