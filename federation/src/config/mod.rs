//! Configuration: the static file that a process starts with, and the directory that it watches.
//!
//! The static file is small and read once. Each of its settings stands in one table, `settings`, with
//! its kind, default and meaning; parser, schema, environment and `--set` all come from that table, so
//! they cannot disagree. Everything that is wrong is said at once, with paths. This is the only place
//! that reads the process environment.

mod applied;
pub mod directory;
mod error;
mod overrides;
mod schema;
mod settings;
mod store;
mod tree;
mod validated;
pub(crate) mod yaml;

pub use applied::{Applied, AppliedDocuments, ApplyOutcome};
pub use error::{ConfigError, ConfigErrors};
pub use overrides::{InvalidOverride, Overrides};
pub use schema::schema;
pub use store::{ClientCertificate, EtcdConfig, EtcdTls, StoreConfig};
pub use validated::{Config, ControlConfig, GatewayConfig, OverloadConfig, TrustConfig};
