//! The targets of one destination in the order of tiers, ready to pick from.
//!
//! Made once for each version of a service, not for each request.

use std::sync::Arc;
use std::time::Instant;

use federation::model::{ClusterName, Freshness, Import};
use federation::snapshot::{Generation, ServiceView, Snapshot};
use rand::Rng;

use super::endpoint_state::EndpointState;
use super::offers::{self, Offer};
use super::p2c::Weights;
use super::{InFlight, LinkState, Reachability, Reason, Standing, Target, Tier, Why};
use crate::destination::{Destination, DestinationKey, Scope};

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) key: DestinationKey,
    pub(super) generation: Generation,
    basis: Basis,
    tiers: Box<[TierPlan]>,
}

/// What a plan was made from; as long as it is the same, so is the plan.
#[derive(Debug)]
enum Basis {
    Service(Arc<ServiceView>),
    /// Pinned names depend only on what that peer offers.
    Import(Option<Arc<Import>>),
}

#[derive(Debug)]
struct TierPlan {
    tier: Tier,
    candidates: Box<[Candidate]>,
    weights: Weights,
}

#[derive(Debug)]
struct Candidate {
    target: Target,
    draining: bool,
    state: Arc<EndpointState>,
}

/// What only this request at this moment knows.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) links: &'a dyn Reachability,
    pub(super) tried: &'a [Target],
    pub(super) now: Instant,
}

impl Plan {
    pub(super) fn new(
        snapshot: &Snapshot,
        destination: &Destination,
        mut state: impl FnMut(&Target) -> Arc<EndpointState>,
    ) -> Self {
        let mut offers: Vec<_> = offers::all(snapshot, destination).filter(|o| o.terms.is_ok()).collect();
        offers.sort_by_key(|offer| offer.tier);
        let tiers = offers.chunk_by(|a, b| a.tier == b.tier).map(|tier| TierPlan::new(tier, &mut state));
        Self {
            key: destination.key(),
            generation: snapshot.generation,
            basis: Basis::of(snapshot, destination),
            tiers: tiers.collect(),
        }
    }

    /// Is this still the plan for a destination.
    pub(super) fn holds(&self, snapshot: &Snapshot, destination: &Destination) -> bool {
        match &self.basis {
            Basis::Service(service) => Arc::ptr_eq(service, &destination.service),
            Basis::Import(import) => match (import, imported(snapshot, destination)) {
                (Some(import), Some(current)) => Arc::ptr_eq(import, current),
                (import, current) => import.is_none() && current.is_none(),
            },
        }
    }

    /// Standing before nearness: a healthy target far away beats a failing one here.
    pub(super) fn pick(&self, moment: &Moment<'_>, rng: &mut impl Rng) -> Option<(Target, Reason, InFlight)> {
        const ORDER: [Standing; 4] =
            [Standing::Healthy, Standing::Failing, Standing::Draining, Standing::Tried];
        let tiers = ORDER.iter().flat_map(|standing| self.tiers.iter().map(move |tier| (*standing, tier)));
        for (standing, tier) in tiers {
            if let Some(chosen) = tier.pick(standing, moment, rng) {
                let reason = Reason { tier: tier.tier, standing };
                return Some((chosen.target.clone(), reason, chosen.state.begin()));
            }
        }
        None
    }

    /// Why a target that the snapshot offers was not chosen now, if there is a reason beside chance.
    pub(super) fn objection(&self, target: &Target, moment: &Moment<'_>) -> Option<Why> {
        let candidate = self.tiers.iter().flat_map(|tier| &tier.candidates).find(|c| c.target == *target)?;
        match candidate.standing(moment) {
            Ok(Standing::Healthy) => None,
            Ok(Standing::Failing) => Some(Why::Failing),
            Ok(Standing::Draining) => Some(candidate.why_draining()),
            Ok(Standing::Tried) => Some(Why::Tried),
            Err(why) => Some(why),
        }
    }
}

impl TierPlan {
    fn new(offers: &[Offer], state: &mut impl FnMut(&Target) -> Arc<EndpointState>) -> Self {
        let terms = |offer: &Offer| offer.terms.ok();
        let candidate = |offer: &Offer| Candidate {
            target: offer.target.clone(),
            draining: terms(offer).is_some_and(|terms| terms.draining),
            state: state(&offer.target),
        };
        Self {
            tier: offers[0].tier,
            candidates: offers.iter().map(candidate).collect(),
            weights: Weights::new(offers.iter().map(|offer| terms(offer).map_or(0, |terms| terms.weight))),
        }
    }

    fn pick(&self, standing: Standing, moment: &Moment<'_>, rng: &mut impl Rng) -> Option<&Candidate> {
        let eligible = |at: usize| self.candidates[at].standing(moment) == Ok(standing);
        let in_flight = |at: usize| self.candidates[at].state.in_flight();
        self.weights.pick(eligible, in_flight, rng).map(|at| &self.candidates[at])
    }
}

impl Candidate {
    fn standing(&self, moment: &Moment<'_>) -> Result<Standing, Why> {
        let link = match &self.target {
            Target::Endpoint { .. } => LinkState::Up,
            Target::Cluster(peer) => reachable(peer, moment)?,
        };
        if moment.tried.contains(&self.target) {
            return Ok(Standing::Tried);
        }
        if self.draining || link == LinkState::Draining {
            return Ok(Standing::Draining);
        }
        Ok(if self.state.is_failing(moment.now) { Standing::Failing } else { Standing::Healthy })
    }

    fn why_draining(&self) -> Why {
        if self.draining { Why::Draining } else { Why::LinkDraining }
    }
}

/// A peer's silence shows in its own freshness first; its imports may follow.
fn reachable(peer: &ClusterName, moment: &Moment<'_>) -> Result<LinkState, Why> {
    match moment.links.state(peer) {
        LinkState::Down => Err(Why::LinkDown),
        state => match moment.snapshot.peers.get(peer) {
            Some(view) if view.freshness != Freshness::Expired => Ok(state),
            _ => Err(Why::ImportExpired),
        },
    }
}

impl Basis {
    fn of(snapshot: &Snapshot, destination: &Destination) -> Self {
        match destination.scope {
            Scope::Cluster(_) => Self::Import(imported(snapshot, destination).cloned()),
            Scope::Local | Scope::Merged => Self::Service(destination.service.clone()),
        }
    }
}

fn imported<'a>(snapshot: &'a Snapshot, destination: &Destination) -> Option<&'a Arc<Import>> {
    let Scope::Cluster(peer) = &destination.scope else { return None };
    snapshot.peers.get(peer)?.imports.get(&destination.service.name)
}
