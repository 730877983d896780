//! The balancer: which target gets a request.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use federation::model::{ClusterName, Host, ServiceName};
use parking_lot::Mutex;
use rand::Rng;

use super::endpoint_state::EndpointState;
use super::offers;
use super::plan::{Moment, Plan};
use super::{NoEndpoint, Pick, Reachability, Reason, Target, Why};
use crate::destination::{Destination, DestinationKey};
use crate::mostly_read::MostlyRead;
use crate::snapshot::View;

/// Rejected targets that an explanation names; a service may have thousands.
const REJECTED_MAX: usize = 64;

/// Chooses targets, and remembers what came of it across snapshots.
#[derive(Debug)]
pub struct Balancer {
    epoch: Instant,
    plans: MostlyRead<ServiceName, Vec<Arc<Plan>>>,
    /// Only read while a plan is made; plans and requests in flight keep the states alive.
    states: Mutex<HashMap<StateKey, Weak<EndpointState>>>,
}

/// A peer's state is kept for each of its services: one may fail while the others do not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum StateKey {
    Endpoint(Host, u16),
    Cluster(ClusterName, DestinationKey),
}

impl Balancer {
    /// `now` is where its clock starts.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, plans: MostlyRead::default(), states: Mutex::default() }
    }

    /// The target for one attempt; `tried` are those of the attempts before.
    pub fn pick(
        &self,
        view: &View,
        destination: &Destination,
        links: &dyn Reachability,
        tried: &[Target],
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<Pick, NoEndpoint> {
        let moment = Moment { snapshot: &view.snapshot, links, tried, now };
        let plan = self.plan(view, destination);
        match plan.pick(&moment, rng) {
            Some((target, reason, in_flight)) => Ok(Pick { target, reason, rejected: Vec::new(), in_flight }),
            None => Err(NoEndpoint { rejected: rejected(&plan, destination, &moment, None) }),
        }
    }

    /// As `pick`, and says why not the others.
    pub fn explain(
        &self,
        view: &View,
        destination: &Destination,
        links: &dyn Reachability,
        tried: &[Target],
        now: Instant,
        rng: &mut impl Rng,
    ) -> Result<Pick, NoEndpoint> {
        let mut pick = self.pick(view, destination, links, tried, now, rng)?;
        let moment = Moment { snapshot: &view.snapshot, links, tried, now };
        let plan = self.plan(view, destination);
        pick.rejected = rejected(&plan, destination, &moment, Some((&pick.target, pick.reason)));
        Ok(pick)
    }

    /// Follows a new view: plans whose services changed are made anew, those of services that are gone
    /// go, and so does what was remembered of their endpoints.
    pub fn adopt(&self, view: &View) {
        for plan in self.plans.entries().flat_map(|(_, plans)| plans) {
            match view.router.destination(&plan.key) {
                Some(destination) => drop(self.plan(view, &destination)),
                None => self.put(&plan.key, None),
            }
        }
        self.states.lock().retain(|_, state| state.strong_count() > 0);
    }

    fn plan(&self, view: &View, destination: &Destination) -> Arc<Plan> {
        let name = destination.name();
        let known = self.plans.read(name, |known| known == name, |plans| find(plans, destination).cloned());
        match known.flatten() {
            Some(plan) if plan.holds(&view.snapshot, destination) => plan,
            Some(plan) if plan.generation > view.snapshot.generation => self.make(view, destination),
            _ => {
                let plan = self.make(view, destination);
                self.put(&plan.key, Some(&plan));
                plan
            }
        }
    }

    fn make(&self, view: &View, destination: &Destination) -> Arc<Plan> {
        let key = destination.key();
        let mut states = self.states.lock();
        let plan = Plan::new(&view.snapshot, destination, |target| {
            let state = states.entry(StateKey::new(target, &key)).or_default();
            state.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new(EndpointState::new(self.epoch));
                *state = Arc::downgrade(&fresh);
                fresh
            })
        });
        Arc::new(plan)
    }

    fn put(&self, key: &DestinationKey, plan: Option<&Arc<Plan>>) {
        self.plans.change(&key.service, |plans| {
            let others = plans.into_iter().flatten().filter(|known| known.key != *key);
            let plans: Vec<_> = others.chain(plan).cloned().collect();
            (!plans.is_empty()).then_some(plans)
        });
    }
}

impl StateKey {
    fn new(target: &Target, destination: &DestinationKey) -> Self {
        match target {
            Target::Endpoint { host, port, .. } => Self::Endpoint(host.clone(), *port),
            Target::Cluster(cluster) => Self::Cluster(cluster.clone(), destination.clone()),
        }
    }
}

fn find<'a>(plans: &'a [Arc<Plan>], destination: &Destination) -> Option<&'a Arc<Plan>> {
    plans.iter().find(|plan| plan.key.port == destination.port.port && plan.key.scope == destination.scope)
}

fn rejected(
    plan: &Plan,
    destination: &Destination,
    moment: &Moment<'_>,
    chosen: Option<(&Target, Reason)>,
) -> Vec<(Target, Why)> {
    let others = offers::all(moment.snapshot, destination)
        .filter(|offer| chosen.is_none_or(|(chosen, _)| offer.target != *chosen));
    let explained = others.map(|offer| {
        let farther = chosen.is_some_and(|(_, reason)| offer.tier > reason.tier);
        let chance = if farther { Why::FartherTier } else { Why::NotDrawn };
        let why = match offer.terms {
            Err(why) => why,
            Ok(_) => plan.objection(&offer.target, moment).unwrap_or(chance),
        };
        (offer.target, why)
    });
    explained.take(REJECTED_MAX).collect()
}
