//! What an operator can know of the traffic: metrics, the access log, the audit log.
//!
//! Everything here takes a finished [`Record`] or one decision and never waits: a slow disk or a slow
//! scraper costs lines, not requests. It decides nothing and names nothing that the model does not.

mod access_log;
mod audit;
mod line_log;
mod metrics;
mod record;
mod response_flags;
mod text;
mod trace_parent;

pub use access_log::AccessLog;
pub use audit::{AuditLog, Decision, Outcome};
pub use line_log::{LineLog, LineWriter, Memory, Output};
pub use metrics::{Metrics, OwnMetrics};
pub use record::{Entrance, Http, Proof, Protocol, Record, Source, Upstream};
pub use response_flags::{Flag, ResponseFlags};
pub use trace_parent::TraceParent;
