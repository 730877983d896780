//! What every request and every tunnel asks: the current view, the balancer, the links.

use std::sync::Arc;

use crate::balancer::{Balancer, NoEndpoint, Pick, Target};
use crate::clock;
use crate::destination::Destination;
use crate::link::Links;
use crate::snapshot::{CurrentView, View};
use crate::telemetry::{AccessLog, Entrance, Metrics};
use crate::upstream::{Resolver, Upstream};

/// One for a process; shared by the HTTP path and the tunnels.
#[derive(Debug)]
pub struct Plane {
    pub views: Arc<CurrentView>,
    pub balancer: Balancer,
    pub links: Links,
    pub upstream: Upstream,
    pub resolver: Resolver,
    pub metrics: Metrics,
    pub access_log: AccessLog,
}

impl Plane {
    /// The target of one attempt, by what is known at this moment.
    pub fn pick(&self, view: &View, destination: &Destination, tried: &[Target]) -> Result<Pick, NoEndpoint> {
        let pick =
            self.balancer.pick(view, destination, &self.links, tried, clock::now(), &mut rand::rng())?;
        self.metrics.own().picked(pick.reason);
        Ok(pick)
    }

    /// Counts a connection that ended before anything could be asked on it.
    pub fn refused(&self, entrance: Entrance, reason: &'static str) {
        tracing::debug!(entrance = entrance.as_str(), reason, "connection refused");
        self.metrics.own().rejected(entrance, reason);
    }
}
