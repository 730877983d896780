//! What happens before a process collapses: bulk traffic is told 503, and the rest goes on.
//!
//! ```text
//!  usage: memory, descriptors ──► pressure: hysteresis ──► guard ◄── each request, tunnel, connection
//! ```
//! Shed are requests, tunnels, and in the last resort new connections of clients. Never asked is what
//! the rest rests on: control streams of links, their probes, streams for the federation process, DNS
//! and the admin API.

mod guard;
mod pressure;
mod usage;

pub use guard::{Admission, Bulk, Guard, Settings};
pub use pressure::{Level, Resource};
pub use usage::{Share, Usage};
