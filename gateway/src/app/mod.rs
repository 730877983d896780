//! The composition roots: what a process of each command consists of, and in which order it ends.
//!
//! ```text
//!                      isthmus run          isthmus gateway        isthmus federation
//!  gateway role        yes                  yes                    -
//!  control side        federation, here     client of the stream   federation, here
//!  between them        channels             mutual TLS             listener for gateways
//!  DNS, admin, logs    yes                  yes                    yes
//! ```
//! - `gateway_role`: links, data plane, its SVID, what it keeps on disk, connections for federation
//! - `control_side`: where snapshots come from and reports go to; the same channels in both cases, and
//!   filled from disk until somebody leads
//! - `process`: puts them together, and says when the process is ready
//! - `drain`: the one order in which all of it ends
//!
//! `build` opens and binds everything that can fail; `run` works until told to stop. A part that ends
//! before it was told to is a failure of the process.

mod admin;
mod control_side;
mod drain;
mod first_state;
mod gateway_role;
mod logs;
mod process;
mod start;
mod svid;
mod tasks;

pub use first_state::GATEWAY_DIRECTORY;
pub use process::{Addresses, Plan, Process, Roles};
pub use start::run;
pub use tasks::Broken;
