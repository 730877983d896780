//! Does the store answer: asked at intervals, for whoever looks at the status.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{info, warn};

use crate::clock;
use crate::config::StoreConfig;
use crate::model::Timestamp;
use crate::store::keys::Place;
use crate::store::{Fault, Store};

/// A store that is gone is shown before its loss has an effect.
const EVERY: Duration = Duration::from_secs(2);
/// A store that is slower than this holds up every change.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// How the store is, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// `embedded` or `etcd`.
    pub kind: &'static str,
    pub condition: StoreCondition,
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StoreCondition {
    /// Not open yet; the reason of the last attempt.
    Opening(Option<String>),
    Good,
    Failing(String),
    /// What answers is not the store that we knew, or an earlier state of it (E18).
    Suspicious(String),
}

impl StoreStatus {
    pub(super) fn opening(config: &StoreConfig, now: Timestamp) -> Self {
        let kind = match config {
            StoreConfig::Embedded { .. } => "embedded",
            StoreConfig::Etcd(_) => "etcd",
        };
        Self { kind, condition: StoreCondition::Opening(None), since: now }
    }

    pub fn is_good(&self) -> bool {
        self.condition == StoreCondition::Good
    }
}

/// Says what has changed; what goes on keeps its beginning.
pub(super) fn tell(status: &watch::Sender<StoreStatus>, condition: StoreCondition) {
    status.send_if_modified(|held| {
        let same_kind = std::mem::discriminant(&held.condition) == std::mem::discriminant(&condition);
        if !same_kind {
            held.since = clock::timestamp_now();
            match &condition {
                StoreCondition::Good => info!(store = held.kind, "the store answers"),
                StoreCondition::Failing(reason) => {
                    warn!(store = held.kind, reason, "the store does not answer; what is known stays in use")
                }
                StoreCondition::Suspicious(reason) => {
                    warn!(store = held.kind, reason, "the store is not trusted; what is known stays in use");
                }
                StoreCondition::Opening(_) => {}
            }
        }
        let changed = held.condition != condition;
        held.condition = condition;
        changed
    });
}

/// Asks for as long as the store is open.
pub(super) async fn watch_store(store: Arc<dyn Store>, status: &watch::Sender<StoreStatus>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let key = Place::Epoch.key();
    loop {
        ticks.tick().await;
        let condition = match timeout(ANSWER_TIME_MAX, store.get(&key)).await {
            Ok(Ok(_)) => StoreCondition::Good,
            Ok(Err(fault @ Fault::Suspicious(_))) => StoreCondition::Suspicious(fault.to_string()),
            Ok(Err(fault)) => StoreCondition::Failing(fault.to_string()),
            Err(_elapsed) => {
                let fault = Fault::Unavailable(format!("no answer within {ANSWER_TIME_MAX:?}"));
                StoreCondition::Failing(fault.to_string())
            }
        };
        tell(status, condition);
    }
}
