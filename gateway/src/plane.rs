//! What every request and every tunnel asks: the current view, the balancer, the links.

use std::net::SocketAddr;
use std::sync::Arc;

use federation::sparing::Sparing;
use parking_lot::Mutex;

use crate::answer::Refusal;
use crate::balancer::{Balancer, NoEndpoint, Pick, Target};
use crate::clock;
use crate::destination::Destination;
use crate::link::Links;
use crate::overload::{Admission, Bulk, Guard};
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
    pub overload: Guard,
    /// What was said lately of strangers.
    pub strangers: Strangers,
}

/// Log lines about refused connections, so many of each kind.
pub type Strangers = Mutex<Sparing<(Entrance, &'static str)>>;

impl Plane {
    /// The target of one attempt, by what is known at this moment.
    pub fn pick(&self, view: &View, destination: &Destination, tried: &[Target]) -> Result<Pick, NoEndpoint> {
        let pick =
            self.balancer.pick(view, destination, &self.links, tried, clock::now(), &mut rand::rng())?;
        self.metrics.own().picked(pick.reason);
        Ok(pick)
    }

    /// Room for one more request or tunnel, or the answer that there is none.
    pub fn admit(&self, entrance: Entrance) -> Result<Admission, Refusal> {
        let bulk = if entrance == Entrance::Link { Bulk::Peers } else { Bulk::Clients };
        self.overload.admit(bulk).map_err(|short| {
            self.metrics.own().shed(entrance, short.as_str());
            Refusal::overload(short)
        })
    }

    /// Counts a connection that ended before anything could be asked on it, or because of what was asked.
    pub fn refused(&self, entrance: Entrance, reason: &'static str, from: Option<SocketAddr>) {
        self.metrics.own().rejected(entrance, reason);
        if let Some(suppressed) = self.strangers.lock().admits((entrance, reason), clock::now()) {
            let from = from.map(tracing::field::display);
            tracing::info!(entrance = entrance.as_str(), reason, from, suppressed, "connection refused");
        }
    }
}
