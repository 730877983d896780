//! How a request gets there: listeners, router, balancer, links, upstream, telemetry.

pub mod admin;
pub mod answer;
pub mod app;
pub mod balancer;
pub mod cli;
pub mod clock;
pub mod connection;
pub mod context;
pub mod destination;
pub mod doctor;
pub mod fault;
pub mod filter;
mod forward_proxy;
pub mod gateway;
pub mod headers;
pub mod host;
pub mod link;
pub mod listener;
pub mod logging;
pub mod overload;
pub mod peekable;
pub mod plane;
pub mod proxy;
mod recording;
pub mod router;
pub mod snapshot;
pub mod telemetry;
pub mod tunnel;
pub mod upstream;
pub mod windows;

// Small mechanisms that know nothing of the above.
mod mostly_read;
mod write_through;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
pub(crate) mod testing;
