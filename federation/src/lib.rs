//! What exists where: model, catalog, store, peering, sources, DNS.
//!
//! ```text
//!  config/ (YAML directory)   peering/ (imports)   store/ (peers, allocations, applied documents)
//!            └───────────────── Event ──────────────────┘
//!                                 ▼
//!             catalog/: apply → merge → snapshot ──► gateway, dns/, peering/ (exports)
//! ```

pub mod app;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod control;
pub mod dns;
pub mod issuer;
pub mod kubernetes;
pub mod leader;
pub mod model;
pub mod operator;
pub mod pace;
pub mod peering;
pub mod snapshot;
pub mod sparing;
pub mod store;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
