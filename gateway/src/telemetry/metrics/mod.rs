//! Metrics in Prometheus format: traffic under Istio's standard names, so that existing dashboards work, and
//! everything of our own under `isthmus_`.
//!
//! Label values come only from enums, from the snapshot and from identities that were proven here; never
//! from what a stranger or a peer writes (T17). Series are bounded, and those of services and peers that are
//! gone go too. Reading never blocks counting.

mod own;
mod registry;
mod traffic;

pub use own::OwnMetrics;
pub use registry::Metrics;
