//! What must hold after every event, and what must be reached at the end.
//!
//! Each invariant is one function with one sentence that says why. They look at one cluster, at what is
//! durable there, and at the ledger of what really happened.

use std::collections::{BTreeMap, BTreeSet};

use federation::model::{ClusterName, Freshness, RelationshipState, ServiceName};
use federation::peering::conversation;
use federation::peering::membership::Thresholds;
use federation::peering::records::PeerRecord;
use federation::snapshot::Generation;
use federation::store::keys::{self, Place};
use federation::store::{Entry, codec};

use crate::cluster::{Cluster, Life};
use crate::ledger::Violation;
use crate::world::World;

/// Timers are rounded to milliseconds.
const SLACK_MS: u64 = 5;
/// Clusters whose clocks are looked at after an event.
const LOOKED_AT_IN_TURN: usize = 8;
/// A word is on its way, stuck and repeated, for at most this long.
const LAG_MS: u64 = 180_000;

type Verdict = Result<(), (&'static str, String)>;

impl World {
    /// Looks at one cluster after something happened to it.
    pub(crate) fn check(&mut self, node: usize) {
        self.tally.checks += 1;
        let Some(life) = &self.clusters[node].life else { return };
        let look = (self.clusters[node].disk.revision(), life.epoch, life.snapshot.generation);
        // What depends on nothing else than these two is as good as it was.
        let changed = self.ledger.looked.insert(node, look) != Some(look);
        let held = life.peers.iter().any(|(peer, state)| {
            let seen = self.ledger.seen.get(&(node, peer.clone()));
            seen.is_none_or(|seen| seen.position != state.imports.held())
        });
        if !changed && !held {
            return;
        }
        let verdict = self.judge_cluster(node);
        if let Err((invariant, what)) = verdict {
            let name = self.clusters[node].name.clone();
            self.ledger.fall(invariant, self.now, &name, what);
        }
        self.remember(node);
    }

    fn judge_cluster(&self, node: usize) -> Verdict {
        let Some(life) = &self.clusters[node].life else { return Ok(()) };
        let cluster = &self.clusters[node];
        self.t7_only_what_was_exported_is_visible(node, life)?;
        self.what_is_held_is_durable(node, cluster, life)?;
        self.revisions_never_go_back(node, life)?;
        self.a_restart_withdraws_nothing(node, life)?;
        self.generations_only_grow(node, life)?;
        a_removed_peer_contributes_nothing(cluster, life)?;
        the_snapshot_shows_what_is_held(life)?;
        self.t5_a_claim_is_not_taken_over(node, cluster, life)?;
        t5_only_who_may_contributes(cluster, life)?;
        an_address_belongs_to_one_service(life)?;
        self.an_address_stays(node, life)
    }

    /// T7: what a peer holds of us was exported to it at some moment of the relationship, else a name
    /// or a number has leaked.
    fn t7_only_what_was_exported_is_visible(&self, node: usize, life: &Life) -> Verdict {
        for (peer, state) in &life.peers {
            let exporter = self.names[peer];
            let began = self.ledger.began.get(&(node, exporter)).copied().unwrap_or(0);
            for (name, import) in state.imports.services() {
                let offers = self.ledger.offered.get(&(exporter, name.clone()));
                let was = offers.into_iter().flatten().any(|offer| {
                    // A relationship begins at its two ends at two moments.
                    offer.until.is_none_or(|until| until + 1_000 >= began)
                        && import.ports.iter().all(|port| port.port == offer.port)
                        && import.ready() == offer.ready
                });
                let what = || format!("{name} of {peer} is held as {import:?}");
                ensure(was, "t7_only_what_was_exported_is_visible", what)?;
            }
        }
        Ok(())
    }

    /// What a peer was told that we have must outlive a crash, else it would never send it again.
    fn what_is_held_is_durable(&self, node: usize, cluster: &Cluster, life: &Life) -> Verdict {
        for (peer, state) in life.peers.iter().filter(|(_, state)| !state.doubted) {
            if self.ledger.seen.get(&(node, peer.clone())).is_some_and(|seen| seen.unsure) {
                continue;
            }
            let entries = cluster.disk.list(&keys::imports_of(peer));
            let durable = conversation::load(peer, &entries).expect("written by us").imports;
            let same =
                durable.services() == state.imports.services() && durable.held() == state.imports.held();
            let what = || {
                let (held, kept) = (state.imports.held(), durable.held());
                let names = |i: &federation::peering::imports::Imports| {
                    i.services().keys().map(ToString::to_string).collect::<Vec<_>>()
                };
                format!(
                    "{peer}: held {held:?} {:?}, durable {kept:?} {:?}",
                    names(&state.imports),
                    names(&durable)
                )
            };
            ensure(same, "what_is_held_is_durable", what)?;
        }
        Ok(())
    }

    /// Within one life of a peer its revisions only grow, else an old state could come over a newer one.
    fn revisions_never_go_back(&self, node: usize, life: &Life) -> Verdict {
        for (peer, state) in &life.peers {
            let before = self.ledger.seen.get(&(node, peer.clone())).and_then(|seen| seen.position);
            if let (Some(before), Some(now)) = (before, state.imports.held())
                && before.epoch == now.epoch
            {
                let what = || format!("{peer}: {} after {}", now.revision, before.revision);
                ensure(now.revision >= before.revision, "revisions_never_go_back", what)?;
            }
        }
        Ok(())
    }

    /// E24: an import goes only if its exporter once took it away; a start, a crash or a partition on
    /// either side is no reason.
    fn a_restart_withdraws_nothing(&self, node: usize, life: &Life) -> Verdict {
        for (peer, state) in life.peers.iter().filter(|(_, state)| state.is_active()) {
            let exporter = self.names[peer];
            let began = self.ledger.began.get(&(node, exporter)).copied().unwrap_or(0);
            let Some(seen) = self.ledger.seen.get(&(node, peer.clone())) else { continue };
            for (name, (_, since)) in &seen.imports {
                if state.imports.services().contains_key(name) || *since <= began {
                    continue;
                }
                let offers = self.ledger.offered.get(&(exporter, name.clone()));
                let mut ends = offers.into_iter().flatten().filter_map(|offer| offer.until);
                let withdrawn = ends.next_back().is_some_and(|until| until + LAG_MS >= *since);
                let what = || format!("{name} of {peer} is gone");
                ensure(withdrawn, "a_restart_withdraws_nothing", what)?;
            }
        }
        Ok(())
    }

    /// A generation only grows: readers take the greater for the newer.
    fn generations_only_grow(&self, node: usize, life: &Life) -> Verdict {
        let Some(before) = self.ledger.generations.get(&node) else { return Ok(()) };
        let now = life.snapshot.generation;
        // Zero is what a process holds before it has published anything.
        let grows = now >= *before || now == Generation::default();
        ensure(grows, "generations_only_grow", || format!("{now} after {before}"))
    }

    /// T5: who holds a name keeps it for as long as it contributes, else a newcomer could take a name
    /// that is in use.
    fn t5_a_claim_is_not_taken_over(&self, node: usize, cluster: &Cluster, life: &Life) -> Verdict {
        let Some(before) = self.ledger.claims.get(&node) else { return Ok(()) };
        let now = claims(cluster);
        for (name, holder) in before {
            let taken = now.get(name).filter(|newer| *newer != holder);
            let contributes =
                life.snapshot.peers.get(holder).is_some_and(|view| view.imports.contains_key(name));
            let what = || format!("{name} of {holder} is now {taken:?}'s");
            ensure(taken.is_none() || !contributes, "t5_a_claim_is_not_taken_over", what)?;
        }
        Ok(())
    }

    /// Clients hold addresses for longer than anybody promises, so a service that is named keeps its own.
    fn an_address_stays(&self, node: usize, life: &Life) -> Verdict {
        let Some(before) = self.ledger.addresses.get(&node) else { return Ok(()) };
        for (name, address) in addresses(life) {
            let moved = before.get(&name).is_some_and(|before| *before != address);
            ensure(!moved, "an_address_stays", || format!("{name} is now at {address}"))?;
        }
        Ok(())
    }

    /// What the next look is compared with.
    fn remember(&mut self, node: usize) {
        let now = self.now;
        let Some(life) = &self.clusters[node].life else { return };
        for (peer, state) in &life.peers {
            let seen = self.ledger.seen.entry((node, peer.clone())).or_default();
            seen.position = state.imports.held();
            let services = state.imports.services();
            seen.imports.retain(|name, _| services.contains_key(name));
            for (name, import) in services {
                seen.imports.entry(name.clone()).or_insert_with(|| (import.clone(), now));
            }
        }
        let gone: Vec<_> = self
            .ledger
            .seen
            .keys()
            .filter(|(at, peer)| *at == node && !life.peers.contains_key(peer))
            .cloned()
            .collect();
        gone.iter().for_each(|key| drop(self.ledger.seen.remove(key)));
        let newest = self.ledger.generations.entry(node).or_default();
        *newest = life.snapshot.generation.max(*newest);
        if life.reads_at.is_none() {
            self.ledger.claims.insert(node, claims(&self.clusters[node]));
            self.ledger.addresses.insert(node, addresses(life));
        }
    }

    /// Looks at the clocks of all clusters, since nothing need happen for time to pass.
    pub(crate) fn check_time(&mut self) -> Result<(), Violation> {
        let thresholds = Thresholds::default();
        let late = thresholds.suspect_after.as_millis() as u64 + SLACK_MS;
        let count = self.clusters.len();
        // In turn, so that hundreds of clusters cost no more than some.
        let first = (self.tally.events as usize).wrapping_mul(LOOKED_AT_IN_TURN) % count;
        for node in (0..LOOKED_AT_IN_TURN.min(count)).map(|step| (first + step) % count) {
            let cluster = &self.clusters[node];
            let Some(life) = &cluster.life else { continue };
            for (peer, state) in life.peers.iter().filter(|(_, state)| state.is_active()) {
                let Some(seen) = self.ledger.seen.get(&(node, peer.clone())) else { continue };
                let silent = seen.progress.is_none_or(|at| self.now > at + late);
                let freshness = life.membership.freshness(peer);
                let fallen = if silence_is_never_fresh(freshness, silent) {
                    progress_is_never_expired(freshness, silent, seen.path_up)
                        .then_some("progress_is_never_expired")
                } else {
                    Some("silence_is_never_fresh")
                };
                let _ = state;
                if let Some(invariant) = fallen {
                    let what = format!("{peer} is {freshness:?}, progress at {:?}", seen.progress);
                    return Err(Violation {
                        invariant,
                        at: self.now,
                        what,
                        cluster: cluster.name.to_string(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Nobody may believe a peer of whom nothing was heard for longer than the bound.
fn silence_is_never_fresh(freshness: Option<Freshness>, silent: bool) -> bool {
    !silent || freshness != Some(Freshness::Fresh)
}

/// A peer that speaks is not taken out of rotation, unless gateways say that the path is down.
fn progress_is_never_expired(freshness: Option<Freshness>, silent: bool, path_up: Option<bool>) -> bool {
    freshness == Some(Freshness::Expired) && !silent && path_up != Some(false)
}

/// Once a relationship is over, in the store, nothing of the peer counts: it may be an enemy by now.
fn a_removed_peer_contributes_nothing(cluster: &Cluster, life: &Life) -> Verdict {
    let read = |entry: &Entry| codec::decode::<PeerRecord>(&entry.value).expect("written by us").peer;
    let records = cluster.disk.list(&keys::peers());
    let active: BTreeSet<ClusterName> = records
        .iter()
        .map(read)
        .filter(|peer| peer.state == RelationshipState::Active)
        .map(|peer| peer.name)
        .collect();
    let counts =
        |peer: &ClusterName| active.contains(peer) || life.peers.get(peer).is_some_and(|state| state.doubted);
    let what = |peer: &ClusterName| format!("{peer} still contributes");
    for (peer, view) in &life.snapshot.peers {
        let nothing = view.imports.is_empty();
        ensure(nothing || counts(peer), "a_removed_peer_contributes_nothing", || what(peer))?;
    }
    for view in life.snapshot.services.values() {
        for import in view.merged.iter().flat_map(|merged| &merged.imports) {
            ensure(counts(&import.peer), "a_removed_peer_contributes_nothing", || what(&import.peer))?;
        }
    }
    Ok(())
}

/// The data plane sees what is held, no more and no less, once sources have spoken.
fn the_snapshot_shows_what_is_held(life: &Life) -> Verdict {
    if life.reads_at.is_some() {
        return Ok(());
    }
    for (peer, state) in life.peers.iter().filter(|(_, state)| state.is_active()) {
        let Some(view) = life.snapshot.peers.get(peer) else {
            return Err(("the_snapshot_shows_what_is_held", format!("{peer} is not in it")));
        };
        let held = state.imports.services();
        let same = view.imports.len() == held.len()
            && view.imports.iter().zip(held).all(|((name, seen), (held_name, held))| {
                name == held_name && (&seen.ports, &seen.groups) == (&held.ports, &held.groups)
            });
        ensure(same, "the_snapshot_shows_what_is_held", || format!("{peer} is shown otherwise"))?;
    }
    Ok(())
}

/// T5: into a name that we do not export, only the holder of the name and those of the same namespace
/// by our operator's word are merged.
fn t5_only_who_may_contributes(cluster: &Cluster, life: &Life) -> Verdict {
    let claims = claims(cluster);
    for (name, view) in &life.snapshot.services {
        let Some(merged) = view.merged.as_ref().filter(|merged| !merged.exported_here) else { continue };
        for import in &merged.imports {
            let peer = life.snapshot.peers.get(&import.peer);
            let same = peer.is_some_and(|view| view.peer.sameness.contains(&name.namespace));
            // A claim that could not be made durable yet is asked for again.
            let holds = claims.get(name) == Some(&import.peer) || life.owed_at.is_some();
            let protected = name.namespace.as_str().starts_with("kube-");
            let what = || format!("{} contributes to {name}, which is {:?}'s", import.peer, claims.get(name));
            ensure(same || (holds && !protected), "t5_only_who_may_contributes", what)?;
        }
    }
    Ok(())
}

/// Two services at one address would answer for each other.
fn an_address_belongs_to_one_service(life: &Life) -> Verdict {
    let mut taken = BTreeMap::new();
    for (name, address) in addresses(life) {
        if let Some(other) = taken.insert(address, name.clone()) {
            return Err((
                "an_address_belongs_to_one_service",
                format!("{address} is {name}'s and {other}'s"),
            ));
        }
    }
    Ok(())
}

fn addresses(life: &Life) -> BTreeMap<ServiceName, std::net::IpAddr> {
    let services = life.snapshot.services.iter();
    let address = |view: &federation::snapshot::ServiceView| view.merged.as_ref()?.addresses.first().copied();
    services.filter_map(|(name, view)| Some((name.clone(), address(view)?))).collect()
}

#[derive(serde::Deserialize)]
struct Claimed {
    data: Holder,
}

#[derive(serde::Deserialize)]
struct Holder {
    peer: ClusterName,
}

/// Who holds which name, as the store has it.
pub(crate) fn claims(cluster: &Cluster) -> BTreeMap<ServiceName, ClusterName> {
    let entries = cluster.disk.list(&keys::claims());
    let claim = |entry: &Entry| {
        let Ok(Place::Claim(name)) = Place::try_from(&entry.key) else { return None };
        let held: Claimed = serde_json::from_slice(&entry.value).ok()?;
        Some((name, held.data.peer))
    };
    entries.iter().filter_map(claim).collect()
}

fn ensure(holds: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err((invariant, what())) }
}
