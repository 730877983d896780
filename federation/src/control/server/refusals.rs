//! Who was not let in or was cut, counted by reason; the log says each only as often as it doubles.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts by reason; the reasons are few and written in the code.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Refusals {
    pub fn list(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().clone()
    }

    pub(super) fn count(&self, reason: &'static str, from: SocketAddr, detail: &dyn fmt::Display) {
        let count = {
            let mut counts = self.counts.lock();
            let count = counts.entry(reason).or_default();
            *count += 1;
            *count
        };
        if count.is_power_of_two() {
            tracing::warn!(%from, reason, count, %detail, "not served on the control listener");
        }
    }
}
