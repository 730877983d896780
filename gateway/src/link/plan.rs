//! Which links to a peer there should be, and the next step towards that. Pure: time and chance are given.
//!
//! One link to each replica of the peer, up to four, and more while load asks for them. Replicas are told
//! apart by their hellos, so that one address with a load balancer behind it and one address for each
//! replica come to the same. A link that is too old, silent, or asked to leave is *stale*: its replacement
//! is dialled first, and only then does it stop taking streams (U16).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use federation::model::GatewayAddress;
use federation::pace::REDIAL;
use rand::Rng;

use super::message::ReplicaId;

/// Numbers links and attempts to make one.
pub(super) type LinkId = u64;
pub(super) type Attempt = u64;

/// The links of one kind to one peer.
#[derive(Debug)]
pub(super) struct Plan {
    addresses: Vec<GatewayAddress>,
    /// How many gateways the peer runs, as its latest hello says.
    replicas: usize,
    /// Wanted beyond one for each replica.
    extra: usize,
    stopped: bool,
    links: BTreeMap<LinkId, Held>,
    dialling: BTreeMap<Attempt, GatewayAddress>,
    attempts: u64,
    waits: BTreeMap<GatewayAddress, Wait>,
    /// New links in a row that led to a replica which had one already.
    duplicates: u32,
    /// When a wait was last cut short.
    hastened: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    address: GatewayAddress,
    /// None for links without a control stream.
    replica: Option<ReplicaId>,
    since: Instant,
    due: Instant,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Serving,
    /// Does not answer probes; may come back.
    Silent,
    /// The peer asked us to go.
    Leaving,
    /// Takes no more streams; closes after its last.
    Retired,
}

#[derive(Debug, Default)]
struct Wait {
    /// In a row.
    failures: u32,
    /// Links in a row that were to be left as soon as they were there.
    goodbyes: u32,
    until: Option<Instant>,
    /// The attempt that used the address last: the one used longest ago goes first.
    last: Attempt,
    /// The last attempt that ended led to no link.
    refused: bool,
}

/// A link that has come up.
#[derive(Debug, Clone)]
pub(super) struct Established {
    pub(super) link: LinkId,
    pub(super) replica: Option<ReplicaId>,
    pub(super) due: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Dial {
        attempt: Attempt,
        address: GatewayAddress,
    },
    /// Take no more streams, close after the last.
    Retire(LinkId),
}

impl Plan {
    pub(super) fn new(addresses: Vec<GatewayAddress>) -> Self {
        Self {
            addresses,
            replicas: 1,
            extra: 0,
            stopped: false,
            links: BTreeMap::new(),
            dialling: BTreeMap::new(),
            attempts: 0,
            waits: BTreeMap::new(),
            duplicates: 0,
            hastened: None,
        }
    }

    /// The peer advertises other addresses; links to those that are gone become stale.
    pub(super) fn set_addresses(&mut self, addresses: Vec<GatewayAddress>) {
        self.waits.retain(|address, _| addresses.contains(address));
        self.addresses = addresses;
    }

    pub(super) fn set_replicas(&mut self, replicas: u32) {
        self.replicas = (replicas as usize).clamp(1, REPLICAS_LINKED_MAX);
    }

    /// Links beyond one for each replica: what load asks for, up to a bound.
    pub(super) fn set_extra(&mut self, extra: usize) {
        self.extra = extra.min(EXTRA_MAX);
    }

    /// Replicas that shall each have a link.
    pub(super) fn replicas(&self) -> usize {
        self.replicas
    }

    /// Wants no links any more: all are retired.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Says what to do next; none until something happens, or until [`Self::wakes`].
    pub(super) fn next_step(&mut self, now: Instant) -> Option<Step> {
        if let Some(link) = self.to_retire(now) {
            self.set_standing(link, Standing::Retired);
            return Some(Step::Retire(link));
        }
        let missing = self.missing(now) > 0;
        let address =
            self.next_address(now).filter(|address| missing || self.may_find_another(address, now))?;
        self.attempts += 1;
        self.waits.entry(address.clone()).or_default().last = self.attempts;
        self.dialling.insert(self.attempts, address.clone());
        Some(Step::Dial { attempt: self.attempts, address })
    }

    /// When to ask again although nothing happened.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        let due = self.links.values().filter(|link| link.standing != Standing::Retired).map(|link| link.due);
        let waits = self.waits.values().filter_map(|wait| wait.until);
        let waits = waits.filter(|_| self.missing(now) > 0 || self.is_uncovered(now));
        due.chain(waits).filter(|at| *at > now).min()
    }

    /// A link came up; false refuses it, since its replica has one and another has none.
    pub(super) fn established(
        &mut self,
        attempt: Attempt,
        link: Established,
        now: Instant,
        rng: &mut impl Rng,
    ) -> bool {
        let Some(address) = self.dialling.remove(&attempt) else { return false };
        if self.is_duplicate(link.replica.as_ref(), now) && self.duplicates < DUPLICATES_MAX {
            self.duplicates += 1;
            let pause = DUPLICATE_PAUSE.mul_f64(rng.random_range(0.5..=1.0));
            self.waits.entry(address).or_default().until = Some(now + pause);
            return false;
        }
        self.duplicates = 0;
        let Established { link, replica, due } = link;
        let wait = self.waits.entry(address.clone()).or_default();
        (wait.until, wait.refused) = (None, false);
        let held = Held { address, replica, since: now, due, standing: Standing::Serving };
        self.links.insert(link, held);
        true
    }

    /// The peer is there: one try at once, in the place of a long wait; how often has failed still counts.
    ///
    /// Seldom: each of our tries may be what makes the peer try, and its tries are what brings us here.
    pub(super) fn stop_waiting(&mut self, now: Instant) {
        let needed = self.links.is_empty() || self.is_uncovered(now);
        if needed && self.hastened.is_none_or(|at| now >= at + HASTE_PAUSE) {
            self.hastened = Some(now);
            self.waits.values_mut().for_each(|wait| wait.until = None);
        }
    }

    pub(super) fn failed(&mut self, attempt: Attempt, now: Instant, rng: &mut impl Rng) {
        if let Some(address) = self.dialling.remove(&attempt) {
            self.back_off(&address, now, rng);
            self.waits.entry(address).or_default().refused = true;
        }
    }

    /// Nothing is connected, every address has refused us, and none is being tried.
    pub(super) fn is_shut_out(&self) -> bool {
        let refused = |address| self.waits.get(address).is_some_and(|wait| wait.refused);
        self.links.is_empty() && self.dialling.is_empty() && self.addresses.iter().all(refused)
    }

    /// The peer said that it goes, or stopped taking streams.
    pub(super) fn leaving(&mut self, link: LinkId, now: Instant, rng: &mut impl Rng) {
        let Some(held) = self.links.get_mut(&link) else { return };
        if matches!(held.standing, Standing::Leaving | Standing::Retired) {
            return;
        }
        held.standing = Standing::Leaving;
        // A gateway that goes may go on accepting; it shall not make us dial in a loop.
        if now.duration_since(held.since) < SHORT_LIFE {
            let address = held.address.clone();
            let wait = self.waits.entry(address.clone()).or_default();
            wait.goodbyes = wait.goodbyes.saturating_add(1);
            if wait.goodbyes > GOODBYES_MAX {
                return self.back_off(&address, now, rng);
            }
            wait.until = Some(now + GOODBYE_PAUSE.mul_f64(rng.random_range(0.5..=1.0)));
        }
    }

    pub(super) fn silent(&mut self, link: LinkId) {
        if self.standing(link) == Some(Standing::Serving) {
            self.set_standing(link, Standing::Silent);
        }
    }

    pub(super) fn answered(&mut self, link: LinkId, now: Instant) {
        let Some(held) = self.links.get_mut(&link) else { return };
        if held.standing == Standing::Silent {
            held.standing = Standing::Serving;
        }
        // Only what lasts is a success: coming up and going at once is a failure too.
        if held.standing == Standing::Serving && now.duration_since(held.since) >= SHORT_LIFE {
            let wait = self.waits.entry(held.address.clone()).or_default();
            (wait.failures, wait.goodbyes) = (0, 0);
        }
    }

    pub(super) fn closed(&mut self, link: LinkId, now: Instant, rng: &mut impl Rng) {
        let Some(held) = self.links.remove(&link) else { return };
        // Nor shall one that accepts and then closes.
        let unexpected = matches!(held.standing, Standing::Serving | Standing::Silent);
        if unexpected && now.duration_since(held.since) < SHORT_LIFE {
            self.back_off(&held.address, now, rng);
        }
    }

    fn back_off(&mut self, address: &GatewayAddress, now: Instant, rng: &mut impl Rng) {
        let wait = self.waits.entry(address.clone()).or_default();
        wait.failures = wait.failures.saturating_add(1);
        wait.until = Some(now + REDIAL.after(wait.failures, rng.random_range(0.0..=1.0)));
    }

    fn wanted(&self) -> usize {
        if self.stopped { 0 } else { self.replicas + self.extra }
    }

    fn missing(&self, now: Instant) -> usize {
        self.wanted().saturating_sub(self.fresh(now).count() + self.dialling.len())
    }

    /// Some replica has no link; others may have two, which were dialled in the place of one that was away.
    fn is_uncovered(&self, now: Instant) -> bool {
        let unnamed = self.fresh(now).filter(|link| link.replica.is_none());
        let addresses: BTreeSet<_> = unnamed.map(|link| &link.address).collect();
        !self.stopped && self.covered(now).len() + addresses.len() < self.replicas
    }

    fn may_find_another(&self, address: &GatewayAddress, now: Instant) -> bool {
        let is_new = self.fresh(now).all(|link| link.address != *address);
        is_new && self.is_uncovered(now) && self.dialling.is_empty()
    }

    fn covered(&self, now: Instant) -> BTreeSet<&ReplicaId> {
        self.fresh(now).filter_map(|link| link.replica.as_ref()).collect()
    }

    fn fresh(&self, now: Instant) -> impl Iterator<Item = &Held> {
        self.links.values().filter(move |link| self.is_fresh(link, now))
    }

    fn is_fresh(&self, link: &Held, now: Instant) -> bool {
        link.standing == Standing::Serving
            && now < link.due
            && self.addresses.contains(&link.address)
            && !self.stopped
    }

    /// A stale link that is no longer needed: the one that was asked to leave, else the oldest.
    fn to_retire(&self, now: Instant) -> Option<LinkId> {
        let stale = || {
            let held = self.links.iter().filter(|(_, link)| link.standing != Standing::Retired);
            held.filter(|(_, link)| !self.is_fresh(link, now))
        };
        let needed = self.wanted().saturating_sub(self.fresh(now).count());
        if stale().count() <= needed {
            return None;
        }
        let urgency = |link: &Held| (link.standing != Standing::Leaving, link.due);
        stale().min_by_key(|(_, link)| urgency(link)).map(|(id, _)| *id)
    }

    /// The address that may be dialled with the fewest links on it, or the one used longest ago.
    fn next_address(&self, now: Instant) -> Option<GatewayAddress> {
        let on = |address: &GatewayAddress| {
            let links = self.fresh(now).filter(|link| link.address == *address).count();
            links + self.dialling.values().filter(|dialled| *dialled == address).count()
        };
        let wait = |address: &GatewayAddress| self.waits.get(address);
        let ready = |address: &&GatewayAddress| {
            wait(address).and_then(|wait| wait.until).is_none_or(|until| until <= now)
        };
        let key = |address: &&GatewayAddress| (on(address), wait(address).map_or(0, |wait| wait.last));
        self.addresses.iter().filter(ready).min_by_key(key).cloned()
    }

    /// Leads to a replica that has a link while another has none.
    fn is_duplicate(&self, replica: Option<&ReplicaId>, now: Instant) -> bool {
        let Some(replica) = replica else { return false };
        let covered = self.covered(now);
        covered.contains(replica) && covered.len() < self.replicas
    }

    fn standing(&self, link: LinkId) -> Option<Standing> {
        self.links.get(&link).map(|held| held.standing)
    }

    fn set_standing(&mut self, link: LinkId, standing: Standing) {
        if let Some(held) = self.links.get_mut(&link)
            && held.standing != Standing::Retired
        {
            held.standing = standing;
        }
    }
}

/// Links beyond one for each replica that carry `demand` streams with a quarter to spare.
pub(super) fn extra_for(demand: usize, replicas: usize) -> usize {
    demand.div_ceil(STREAMS_PER_LINK).saturating_sub(replicas)
}

/// Three quarters of what a link can carry.
const STREAMS_PER_LINK: usize = 75;
/// More replicas than this are reached through those that have links.
const REPLICAS_LINKED_MAX: usize = 4;
/// With 100 streams a link, 1600 requests at once to one peer.
const EXTRA_MAX: usize = 12;
/// A load balancer of four replicas misses the last of them eight times in a row once in ten.
const DUPLICATES_MAX: u32 = 8;
const DUPLICATE_PAUSE: Duration = Duration::from_millis(300);
/// Such a gateway is alive, and requests wait for the next link: no need to double it.
const GOODBYE_PAUSE: Duration = Duration::from_millis(500);
/// As many as a drain of some ten seconds brings; more are no drain.
const GOODBYES_MAX: u32 = 30;
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// A peer that came back is dialled at once; one that comes and goes is not.
const HASTE_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
