//! How a request gets there: listeners, router, balancer, links, upstream, telemetry.

pub mod clock;
pub mod connection;
pub mod fault;
pub mod headers;
pub mod listener;
pub mod peekable;
pub mod tunnel;
