//! Ends leases in time, in a store that needs to be told the time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::contract::Store;
use crate::clock;

/// Leases are of whole seconds.
const EVERY: Duration = Duration::from_secs(1);

/// Works until the process stops; one task of this kind is enough for a store.
pub async fn expire_leases(store: Arc<dyn Store>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        match store.expire(clock::unix_now()).await {
            Ok(over) if over.is_empty() => {}
            Ok(over) => tracing::info!(leases = over.len(), "leases have ended"),
            Err(fault) => tracing::warn!(%fault, "leases could not be ended"),
        }
    }
}
