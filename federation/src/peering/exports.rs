//! What one peer is offered, and what of it changed since when; pure.
//!
//! ```text
//!   Snapshot ──offers(peer)──► only what is exported to that peer ──► ExportLog ──since(revision)──► stream
//! ```
//! The view is made of the services exported to the peer and of nothing else, before anything is
//! serialised, so that no other name, count or error can slip into what is sent (T7). Endpoint
//! addresses are not in it: a peer learns how many are ready where. Each change of an offer has a
//! revision of its own, so whoever holds one revision can be brought to the newest by what came after.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    ClusterName, Endpoint, Host, ImportedEndpoint, ImportedGroup, Locality, Readiness, ServiceKind,
    ServiceName, ServicePort, Timestamp,
};
use crate::snapshot::{LocalService, Snapshot};
use crate::store::Revision;

/// Services that one peer is offered or may offer (notes/trust 4.4).
pub const SERVICES_MAX: usize = 5_000;
/// Ports of one service (4.4).
pub const PORTS_MAX: usize = 32;
/// Places of one service: enough for every zone of some regions, and an import fits into one value.
pub const GROUPS_PER_SERVICE_MAX: usize = 100;
/// Places and addresses of all services of a peer (4.4); with the other bounds its state stays below 32 MiB.
pub const PLACES_MAX: usize = 50_000;
/// Addresses of one headless service: as many as fit with all else into one value, and into DNS answers.
pub const ENDPOINTS_PER_SERVICE_MAX: usize = 192;
/// Removals that are remembered; a peer that missed more gets everything anew.
const REMOVALS_MAX: usize = SERVICES_MAX;

/// A service as a peer is offered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub service: ServiceName,
    pub kind: ServiceKind,
    pub ports: Vec<ServicePort>,
    pub created: Timestamp,
    pub groups: Vec<ImportedGroup>,
    pub endpoints: Vec<ImportedEndpoint>,
}

impl Offer {
    /// What counts towards the bound on all services together.
    pub fn places(&self) -> usize {
        self.groups.len() + self.endpoints.len()
    }
}

/// Everything that a peer is offered, within the bounds that it will hold us to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub offers: BTreeMap<ServiceName, Offer>,
    /// Exported services that did not fit.
    pub left_out: usize,
}

impl View {
    /// Computes the view of a peer; empty for a stranger.
    pub fn of(snapshot: &Snapshot, peer: &ClusterName) -> Self {
        let exported = snapshot.peers.get(peer).map(|view| &view.exported_to);
        let mut view = Self::default();
        let mut places = 0;
        for name in exported.into_iter().flatten() {
            let Some(offer) = offer(snapshot, name) else { continue };
            let fits = view.offers.len() < SERVICES_MAX
                && places + offer.places() <= PLACES_MAX
                && offer.ports.len() <= PORTS_MAX;
            if fits {
                places += offer.places();
                view.offers.insert(name.clone(), offer);
            } else {
                view.left_out += 1;
            }
        }
        view
    }
}

fn offer(snapshot: &Snapshot, name: &ServiceName) -> Option<Offer> {
    let local = snapshot.service(name)?.local.as_ref()?;
    let export = local.export.as_ref()?;
    Some(Offer {
        service: name.clone(),
        kind: local.service.kind,
        ports: local.service.ports.clone(),
        created: export.created,
        groups: groups(local),
        endpoints: endpoints(local),
    })
}

fn ready(local: &LocalService) -> impl Iterator<Item = &Arc<Endpoint>> {
    local.endpoints.iter().filter(|endpoint| endpoint.readiness == Readiness::Ready)
}

/// Ready endpoints by place; the places with the most come first when there are too many.
fn groups(local: &LocalService) -> Vec<ImportedGroup> {
    let mut places: BTreeMap<&Locality, (u32, u64)> = BTreeMap::new();
    for endpoint in ready(local) {
        let (ready, weight) = places.entry(&endpoint.locality).or_default();
        *ready = ready.saturating_add(1);
        *weight = weight.saturating_add(u64::from(endpoint.weight));
    }
    let group = |(locality, (ready, weight)): (&Locality, _)| ImportedGroup {
        locality: locality.clone(),
        ready,
        weight,
    };
    let mut groups: Vec<_> = places.into_iter().map(group).collect();
    if groups.len() > GROUPS_PER_SERVICE_MAX {
        groups.sort_by_key(|group| std::cmp::Reverse(group.ready));
        groups.truncate(GROUPS_PER_SERVICE_MAX);
        groups.sort_by(|a, b| a.locality.cmp(&b.locality));
    }
    groups
}

fn endpoints(local: &LocalService) -> Vec<ImportedEndpoint> {
    if local.service.kind != ServiceKind::Headless {
        return Vec::new();
    }
    let mut endpoints: Vec<_> = ready(local)
        .filter_map(|endpoint| match endpoint.host {
            Host::Ip(address) => Some(ImportedEndpoint { address, hostname: endpoint.hostname.clone() }),
            Host::Name(_) => None,
        })
        .collect();
    endpoints.sort();
    endpoints.dedup();
    endpoints.truncate(ENDPOINTS_PER_SERVICE_MAX);
    endpoints
}

/// One step of a peer towards the newest view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Offered(Revision, Arc<Offer>),
    Withdrawn(Revision, ServiceName),
}

/// How a peer gets from what it holds to the newest view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// What it holds is of no use: everything, as of this revision.
    Full(Revision, Vec<(Revision, Arc<Offer>)>),
    /// In the order of revisions; empty where it has everything.
    Steps(Vec<Step>),
}

/// The view of one peer with the revision of each change; lives as long as the process.
#[derive(Debug, Default)]
pub struct ExportLog {
    revision: Revision,
    offers: BTreeMap<ServiceName, (Revision, Arc<Offer>)>,
    removals: BTreeMap<Revision, ServiceName>,
    /// Removals up to here have been forgotten.
    forgotten: Revision,
}

impl ExportLog {
    /// The revision of the last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn len(&self) -> usize {
        self.offers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }

    /// Takes a newer view; says whether anything changed.
    pub fn update(&mut self, view: View) -> bool {
        let before = self.revision;
        let gone: Vec<_> =
            self.offers.keys().filter(|name| !view.offers.contains_key(*name)).cloned().collect();
        for name in gone {
            self.withdraw(name);
        }
        for (name, offer) in view.offers {
            if self.offers.get(&name).is_none_or(|(_revision, held)| **held != offer) {
                self.revision = self.revision.next();
                self.offers.insert(name, (self.revision, Arc::new(offer)));
            }
        }
        self.revision != before
    }

    /// Plans the way from what a peer holds of this log; `None` if it holds nothing of it.
    pub fn since(&self, held: Option<Revision>) -> Plan {
        match held {
            Some(held) if held >= self.forgotten && held <= self.revision => Plan::Steps(self.steps(held)),
            _ => Plan::Full(self.revision, self.offers.values().cloned().collect()),
        }
    }

    fn withdraw(&mut self, name: ServiceName) {
        self.offers.remove(&name);
        self.revision = self.revision.next();
        self.removals.insert(self.revision, name);
        if self.removals.len() > REMOVALS_MAX
            && let Some((oldest, _name)) = self.removals.pop_first()
        {
            self.forgotten = oldest;
        }
    }

    fn steps(&self, held: Revision) -> Vec<Step> {
        let offered = self.offers.values().filter(|(revision, _offer)| *revision > held);
        let offered = offered.map(|(revision, offer)| (*revision, Step::Offered(*revision, offer.clone())));
        let withdrawn = self.removals.range(held.next()..);
        let withdrawn =
            withdrawn.map(|(revision, name)| (*revision, Step::Withdrawn(*revision, name.clone())));
        let steps: BTreeMap<_, _> = offered.chain(withdrawn).collect();
        steps.into_values().collect()
    }
}

#[cfg(test)]
mod tests;
