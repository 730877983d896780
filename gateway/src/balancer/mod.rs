//! Which endpoint, or which cluster, gets a request. Pure but for counters: time, chance and the state of
//! links are arguments.
//!
//! ```text
//!  snapshot ─► offers ─► plan: tiers by nearness ─► pick: standing, then tier, then two choices by load
//!                                                    ▲ links, marks of failed connects, attempts so far
//! ```
//!
//! - Tiers: this cluster's own endpoints by nearness, then peers by the nearness of their ready endpoints.
//!   The next tier is used when a tier has no healthy target left.
//! - A target whose connects fail is marked for seconds and comes after all healthy ones, however far.
//! - Panic: where no healthy target is left anywhere, the marks are ignored and the nearest marked ones are
//!   used, then draining ones, then those that this request tried before. Only what cannot work is never
//!   used: endpoints that are not ready, peers without a link, imports that expired.
//! - A peer is a target as a whole: its own gateway chooses the endpoint.

mod endpoint_state;
mod offers;
mod p2c;
mod pick;
mod plan;
mod target;
#[cfg(test)]
mod tests;

pub use endpoint_state::InFlight;
pub use pick::Balancer;
pub use target::{LinkState, NoEndpoint, Pick, Reachability, Reason, Standing, Target, Tier, Why};
