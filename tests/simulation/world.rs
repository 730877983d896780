//! All clusters, what lies between them, and one agenda in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use federation::model::ClusterName;
use federation::pace::Backoff;
use federation::peering::Settings;

use crate::cluster::{Cluster, Published, instant, millis};
use crate::dice::Dice;
use crate::disk::NotDone;
use crate::ledger::{Ledger, Violation};
use crate::log::Log;
use crate::mutation::Mutation;
use crate::network::{Phase, Stream};

/// How long everything is left alone at the end: longer than any pause and any patience together.
pub(crate) const QUIET_MS: u64 = 240_000;
/// Gateways look at the path this often.
const PROBE_EVERY_MS: u64 = 2_000;

/// What a run consists of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) clusters: usize,
    pub(crate) relationships: usize,
    /// How long operators and accidents are at work.
    pub(crate) busy_ms: u64,
    /// Times between two accidents; none happen without.
    pub(crate) accident_every_ms: Option<u64>,
    /// A cluster may have very many services at once.
    pub(crate) crowds: bool,
}

impl Plan {
    /// What a seed stands for.
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xa5a5);
        let clusters = match dice.below(10) {
            0 => dice.between(8, 20),
            1..=3 => dice.between(4, 8),
            _ => dice.between(2, 4),
        } as usize;
        Self {
            clusters,
            relationships: clusters + dice.index(clusters + 1),
            busy_ms: dice.between(20_000, 180_000),
            accident_every_ms: (!dice.percent(5)).then(|| dice.between(1_000, 12_000)),
            crowds: dice.percent(8),
        }
    }
}

/// Something that is due.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Wake(usize),
    /// A dial comes to its end, one way or the other.
    Connect {
        from: usize,
        life: u64,
        to: usize,
    },
    /// Words on a wire have arrived.
    Deliver {
        stream: u64,
        from: usize,
    },
    Probe(usize),
    Start(usize),
    Operate,
    Accident,
    /// What an accident broke for a time.
    Mend(Repair),
    HealAll,
}

#[derive(Debug, Clone)]
pub(crate) enum Repair {
    Cut(usize, usize),
    Store(usize),
}

/// Counts for the closing note.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) checks: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) operations: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) now: u64,
    agenda: BTreeMap<(u64, u64), Step>,
    sequence: u64,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) names: BTreeMap<ClusterName, usize>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    /// Directions in which nothing goes.
    pub(crate) cuts: BTreeSet<(usize, usize)>,
    pub(crate) latency_ms: BTreeMap<(usize, usize), u64>,
    pub(crate) redial: Backoff,
    pub(crate) log: Log,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) quiet: bool,
    /// Removals that failed, for the operator to try again.
    pub(crate) owed_removals: BTreeSet<(usize, ClusterName)>,
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, mutation: Option<Mutation>) -> Self {
        let name = |number: usize| ClusterName::try_from(format!("c{number:03}").as_str()).expect("a label");
        let names: BTreeMap<_, _> = (0..plan.clusters).map(|number| (name(number), number)).collect();
        let clusters = (0..plan.clusters).map(|number| Cluster::new(name(number))).collect();
        let mut world = Self {
            plan,
            dice: Dice::new(seed),
            now: 0,
            agenda: BTreeMap::new(),
            sequence: 0,
            clusters,
            names,
            streams: BTreeMap::new(),
            cuts: BTreeSet::new(),
            latency_ms: BTreeMap::new(),
            redial: Settings::default().redial,
            log: Log::default(),
            ledger: Ledger::default(),
            tally: Tally::default(),
            mutation,
            quiet: false,
            owed_removals: BTreeSet::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.clusters.len() {
            self.furnish(node);
            self.start(node);
            let first = self.dice.below(PROBE_EVERY_MS);
            self.after(first, Step::Probe(node));
        }
        for _ in 0..self.plan.relationships {
            self.join_somebody();
        }
        let busy = self.plan.busy_ms;
        self.after(300, Step::Operate);
        if let Some(every) = self.plan.accident_every_ms {
            self.after(every, Step::Accident);
        }
        self.after(busy, Step::HealAll);
    }

    pub(crate) fn after(&mut self, pause_ms: u64, step: Step) {
        self.at(self.now + pause_ms, step);
    }

    pub(crate) fn at(&mut self, time: u64, step: Step) {
        self.sequence += 1;
        self.agenda.insert((time.max(self.now), self.sequence), step);
    }

    /// Runs to the end, or to the first invariant that falls.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        let end = self.plan.busy_ms + QUIET_MS;
        while let Some(((time, _), step)) = self.agenda.pop_first() {
            if time > end {
                break;
            }
            self.now = time;
            self.tally.events += 1;
            self.take(step);
            self.ledger.take_violation()?;
            self.check_time()?;
        }
        self.now = end;
        self.check_end()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Wake(node) => {
                if self.clusters[node].wakes_at.is_some_and(|at| at <= self.now) {
                    self.clusters[node].wakes_at = None;
                    self.wake(node);
                }
            }
            Step::Connect { from, life, to } => self.connect(from, life, to),
            Step::Deliver { stream, from } => self.deliver(stream, from),
            Step::Probe(node) => {
                self.probe(node);
                self.after(PROBE_EVERY_MS, Step::Probe(node));
            }
            Step::Start(node) => self.start(node),
            Step::Operate if self.quiet => {}
            Step::Operate => {
                self.operate();
                let pause = self.dice.between(100, 2_500);
                self.after(pause, Step::Operate);
            }
            Step::Accident if self.quiet => {}
            Step::Accident => {
                self.accident();
                let every = self.plan.accident_every_ms.unwrap_or(1_000);
                let pause = self.dice.between(every / 2, every * 3 / 2);
                self.after(pause, Step::Accident);
            }
            Step::Mend(repair) => self.mend(&repair),
            Step::HealAll => self.heal_all(),
        }
    }

    pub(crate) fn start(&mut self, node: usize) {
        if self.clusters[node].life.is_some() {
            return;
        }
        let epoch = self.dice.roll();
        let reads_at = self.now + self.dice.below(1_500);
        let mutation = self.mutation;
        self.clusters[node].start(self.now, epoch, reads_at, mutation);
        let (name, life) = (self.clusters[node].name.clone(), self.clusters[node].lives);
        self.log.say(self.now, format_args!("{name} starts, life {life}"));
        self.ledger.started(node);
        self.settle(node);
    }

    /// Everything in memory is gone, and its connections with it.
    pub(crate) fn crash(&mut self, node: usize, restart_in_ms: Option<u64>) {
        if self.clusters[node].life.take().is_none() {
            return;
        }
        let name = self.clusters[node].name.clone();
        self.log.say(self.now, format_args!("{name} crashes"));
        self.clusters[node].disk.trouble = None;
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                let ended = self.streams.get(&id).is_some_and(|stream| stream.sides[side].node == node);
                if ended {
                    // The kernel may tell the other side, or the machine is gone and nobody does.
                    let told = self.dice.percent(50);
                    self.abandon(id, side, told);
                }
            }
        }
        if let Some(pause) = restart_in_ms {
            self.after(pause, Step::Start(node));
        }
    }

    /// What is due at a cluster by itself.
    fn wake(&mut self, node: usize) {
        let now = self.now;
        let Some(life) = &mut self.clusters[node].life else { return };
        if life.membership.wake_at().is_some_and(|at| millis(at) <= now) {
            life.tick(now);
        }
        if life.reads_at.is_some_and(|at| at <= now) {
            let name = self.clusters[node].name.clone();
            self.log.say(now, format_args!("{name} has read its directory"));
            self.clusters[node].read_directory(now);
        }
        self.wake_streams(node);
        self.dial_who_is_due(node);
        self.settle(node);
    }

    /// After whatever happened at a cluster: publish, reckon when it must wake, and look at it.
    pub(crate) fn settle(&mut self, node: usize) {
        match self.clusters[node].publish(self.now) {
            Err(NotDone::Crashed) => {
                let pause = self.dice.between(100, 20_000);
                self.crash(node, Some(pause));
                return;
            }
            Err(NotDone::Fault | NotDone::Conflict) | Ok(Published::Nothing) => {}
            Ok(Published::Newer) => self.note_change(node),
        }
        self.reckon(node);
        self.check(node);
    }

    /// Speakers and the gateway learn that there is another snapshot.
    fn note_change(&mut self, node: usize) {
        // The gateway misses some: it is told what changed since the last that it has.
        let (told, mutation, now) = (self.dice.percent(30), self.mutation, self.now);
        let cluster = &mut self.clusters[node];
        if told
            && let Some(life) = &mut cluster.life
            && let Err(what) = cluster.gateway.follow(&mut life.sent, &life.snapshot, mutation)
        {
            self.ledger.fall("deltas_equal_the_full_state", now, &cluster.name, what);
        }
        for id in self.streams_of(node) {
            if let Some(side) = self.side_of(id, node)
                && let Some(speaker) = &mut side.speaker
            {
                speaker.note_change();
            }
        }
    }

    pub(crate) fn streams_of(&self, node: usize) -> Vec<u64> {
        let Some(life) = &self.clusters[node].life else { return Vec::new() };
        let seated = life.peers.values().filter_map(|peer| peer.seat.map(|seat| seat.stream));
        seated.filter(|id| self.streams.contains_key(id)).collect()
    }

    fn reckon(&mut self, node: usize) {
        let now = self.now;
        let Some(life) = &self.clusters[node].life else { return };
        let peers = life.peers.values();
        let dials = peers.filter(|peer| !peer.dialling).filter_map(|peer| peer.dials_at);
        let own = [life.reads_at, life.owed_at, life.membership.wake_at().map(millis)];
        let mut next: Option<u64> = own.into_iter().flatten().chain(dials).min();
        for id in self.streams_of(node) {
            let due = self.stream_due(id, node);
            next = [next, due].into_iter().flatten().min();
        }
        let Some(next) = next.map(|next| next.max(now + 1)) else { return };
        let sooner = self.clusters[node].wakes_at.is_none_or(|at| next < at || at <= now);
        if sooner {
            self.clusters[node].wakes_at = Some(next);
            self.at(next, Step::Wake(node));
        }
    }

    fn stream_due(&self, id: u64, node: usize) -> Option<u64> {
        let stream = self.streams.get(&id)?;
        let at = stream.sides.iter().position(|side| side.node == node)?;
        let (side, wire) = (&stream.sides[at], &stream.wires[at]);
        let silence = side.heard_at + crate::streams::patience_ms(side.phase) + 1;
        let stalled = wire.stuck_since.map(|since| since + crate::streams::SILENCE_MS + 1);
        let free = wire.waiting.is_empty() && side.phase == Phase::Open;
        let flush = side.speaker.as_ref().filter(|_| free).and_then(|s| s.due_at(instant(self.now)));
        let beat = free.then_some(side.heartbeat_at);
        [Some(silence), stalled, flush.map(millis), beat].into_iter().flatten().min()
    }

    /// Nothing goes in one of the two directions.
    pub(crate) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&(a, b)) || self.cuts.contains(&(b, a))
    }
}
