//! What goes wrong, by chance, and how all of it is healed at the end.

use crate::disk::Trouble;
use crate::mutation::Mutation;
use crate::world::{Repair, World};

impl World {
    pub(crate) fn accident(&mut self) {
        let node = self.dice.index(self.clusters.len());
        let what = match self.dice.below(100) {
            0..=12 => self.kill(node),
            13..=24 => self.trouble(node),
            25..=31 => self.store_away(node),
            32..=51 => self.cut(node),
            52..=63 => self.lose_stream(),
            64..=71 => self.jump(node),
            72..=80 => self.slow(node),
            81..=88 => self.dial_twice(node),
            89..=93 => self.delay(node),
            94..=96 => self.back_up(node),
            _ => self.restore(node),
        };
        *self.tally.faults.entry(what).or_default() += 1;
    }

    fn kill(&mut self, node: usize) -> &'static str {
        let pause = self.dice.between(50, 40_000);
        self.crash(node, Some(pause));
        "crash and restart"
    }

    /// One of the next commits fails, or the process dies of it; it may have happened or not.
    fn trouble(&mut self, node: usize) -> &'static str {
        let (after, happened) = (self.dice.below(4) as u32, self.dice.percent(50));
        let (trouble, what) = match self.dice.percent(50) {
            true if happened => (Trouble::Crash { happened }, "crash after a commit"),
            true => (Trouble::Crash { happened }, "crash before a commit"),
            false if happened => (Trouble::Fault { happened }, "a fault after a commit"),
            false => (Trouble::Fault { happened }, "a fault before a commit"),
        };
        let disk = &mut self.clusters[node].disk;
        disk.trouble = Some((after, trouble));
        disk.forgets = self.mutation == Some(Mutation::ForgetsACommit);
        self.log.say(self.now, format_args!("{}: {what} is ahead", self.clusters[node].name));
        what
    }

    fn store_away(&mut self, node: usize) -> &'static str {
        let pause = self.dice.between(500, 40_000);
        self.clusters[node].disk.unavailable = true;
        self.log.say(self.now, format_args!("{}: the store is away", self.clusters[node].name));
        self.after(pause, crate::world::Step::Mend(Repair::Store(node)));
        "store unavailable"
    }

    fn cut(&mut self, a: usize) -> &'static str {
        let b = self.dice.index(self.clusters.len());
        let (pause, both) = (self.dice.between(200, 60_000), self.dice.percent(50));
        let ways = if both { vec![(a, b), (b, a)] } else { vec![(a, b)] };
        for (from, to) in ways {
            self.cuts.insert((from, to));
            let (from_name, to_name) = (&self.clusters[from].name, &self.clusters[to].name);
            self.log.say(self.now, format_args!("nothing goes from {from_name} to {to_name}"));
            self.after(pause, crate::world::Step::Mend(Repair::Cut(from, to)));
        }
        if both { "partition" } else { "one-way partition" }
    }

    fn lose_stream(&mut self) -> &'static str {
        let ids: Vec<_> = self.streams.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.dice.index(ids.len())];
            self.log.say(self.now, format_args!("stream {id} is lost"));
            let nodes = self.streams[&id].sides.each_ref().map(|side| side.node);
            // What is on its way is lost with it, and sometimes only one side hears of it.
            self.streams.get_mut(&id).expect("one of them").wires.iter_mut().for_each(|wire| {
                let scheduled = wire.scheduled;
                *wire = crate::network::Wire { scheduled, ..Default::default() };
            });
            let both = self.dice.percent(60);
            self.end(id, nodes[0], "it was lost");
            self.settle(nodes[0]);
            if both {
                self.end(id, nodes[1], "it was lost");
                self.settle(nodes[1]);
            }
        }
        "loss of a stream"
    }

    fn jump(&mut self, node: usize) -> &'static str {
        let seconds = self.dice.between(0, 7_200) as i64 - 3_600;
        self.clusters[node].skew_seconds += seconds;
        self.log.say(self.now, format_args!("{}: the clock jumps by {seconds} s", self.clusters[node].name));
        if seconds < 0 { "clock jumps back" } else { "clock jumps forward" }
    }

    fn slow(&mut self, node: usize) -> &'static str {
        self.clusters[node].slow_until = self.now + self.dice.between(500, 30_000);
        self.log.say(self.now, format_args!("{} is slow", self.clusters[node].name));
        "slow consumer"
    }

    fn dial_twice(&mut self, node: usize) -> &'static str {
        let now = self.now;
        if let Some(life) = &mut self.clusters[node].life {
            life.peers
                .values_mut()
                .filter(|peer| peer.is_active())
                .for_each(|peer| peer.dials_at = Some(now));
        }
        self.dial_who_is_due(node);
        self.settle(node);
        "duplicate connections"
    }

    fn delay(&mut self, node: usize) -> &'static str {
        let (to, latency) = (self.dice.index(self.clusters.len()), self.dice.between(1, 3_000));
        self.latency_ms.insert((node, to), latency);
        "delay"
    }

    fn back_up(&mut self, node: usize) -> &'static str {
        self.clusters[node].disk.back_up();
        self.ledger.backed_up(node);
        "backup"
    }

    fn restore(&mut self, node: usize) -> &'static str {
        let pause = self.dice.between(50, 20_000);
        self.crash(node, Some(pause));
        if self.clusters[node].life.is_none() && self.clusters[node].disk.restore() {
            self.log.say(self.now, format_args!("{}: the store is an older one", self.clusters[node].name));
            self.ledger.restored(node);
        }
        "restart from an older store"
    }

    pub(crate) fn mend(&mut self, repair: &Repair) {
        match repair {
            Repair::Cut(from, to) => drop(self.cuts.remove(&(*from, *to))),
            Repair::Store(node) => self.clusters[*node].disk.unavailable = false,
        }
    }

    /// Operators and accidents rest, and what cannot heal by itself is done by hand.
    pub(crate) fn heal_all(&mut self) {
        self.quiet = true;
        self.log.say(self.now, format_args!("everything is healed"));
        self.cuts.clear();
        self.latency_ms.clear();
        for node in 0..self.clusters.len() {
            let cluster = &mut self.clusters[node];
            cluster.disk.unavailable = false;
            cluster.disk.trouble = None;
            cluster.slow_until = 0;
            self.start(node);
        }
        for (node, name) in std::mem::take(&mut self.owed_removals) {
            self.remove_peer(node, &name);
        }
        // Who was removed and could not be told is removed here too, as its operator was asked to.
        for node in 0..self.clusters.len() {
            let names: Vec<_> =
                self.clusters[node].life.iter().flat_map(|life| life.peers.keys().cloned()).collect();
            for name in names {
                let other = self.names[&name];
                if self.is_related(node, other) && !self.is_related(other, node) {
                    self.remove_peer(node, &name);
                }
            }
        }
    }
}
