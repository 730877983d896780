//! From a host, a path or an address to a destination. Pure; never awaits.
//!
//! Compiled once per snapshot and read by every request of it. What did not change is taken over from the
//! router before, and services are referred to, not copied, so that thousands of them cost little.
//!
//! It does not balance, and it does not know which endpoints are alive: a service without endpoints has a
//! destination, and the balancer says that nobody is there.

mod authority;
mod compiled;
mod host_table;
mod ingress;
mod name;
mod no_route;
mod path_table;
mod ports;
#[cfg(test)]
mod precedence_tests;
mod services;
#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub(crate) use authority::Authority;
pub use compiled::Router;
pub use ingress::{ListenerKey, RequestHead, Routed};
pub use no_route::NoRoute;
