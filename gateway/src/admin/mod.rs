//! The admin API: what a process believes, and the only door through which an operator changes it.
//!
//! It has its own listener and its own thread, so that it answers when the data plane is busy.
//! Reading is open on the loopback address that it listens on by default; every change needs the
//! cookie and is audited. Requests whose Host is not this listener are refused, so that a web page
//! in somebody's browser cannot read it through a name of its own (DNS rebinding).

pub mod api;
mod changes;
pub mod cookie;
mod dumps;
mod guard;
mod server;
mod standing;

pub use server::{Above, Admin, AdminDeps, DataPlane, Inspected};
