//! All metrics of a process, and their text.

use std::sync::Arc;

use prometheus::{Encoder, Registry, TextEncoder};

use super::OwnMetrics;
use super::traffic::Traffic;
use crate::snapshot::View;
use crate::telemetry::{LineLog, Record};

/// Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    traffic: Arc<Traffic>,
    own: Arc<OwnMetrics>,
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let traffic = Arc::new(Traffic::register(&registry));
        let own = Arc::new(OwnMetrics::register(&registry));
        Self { registry, traffic, own }
    }

    /// Metrics under `isthmus_`.
    pub fn own(&self) -> &OwnMetrics {
        &self.own
    }

    /// Counts a request, or a connection that ended.
    pub fn observe(&self, view: &View, record: &Record<'_>) {
        self.traffic.observe(view, record);
    }

    /// Counts a connection that began, as far as its record is known by then.
    pub fn opened(&self, view: &View, record: &Record<'_>) {
        self.traffic.opened(view, record);
    }

    /// Follows a new view: series of services and clusters that are gone go.
    pub fn adopt(&self, view: &View) {
        self.own.adopt(view);
        self.traffic.adopt(view);
    }

    /// Shows how many lines a log has lost.
    pub fn watch_log(&self, name: &'static str, log: LineLog) {
        self.own.watch_log(name, log);
    }

    /// The text that Prometheus scrapes.
    pub fn encode(&self) -> Vec<u8> {
        self.own.refresh();
        let mut text = Vec::new();
        // Names and labels were checked when they were made, and memory takes every write.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics could not be written");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
