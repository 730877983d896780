//! How much what we know of each peer can be believed; pure.
//!
//! ```text
//!                    path up            path unknown             path down
//!   stream goes on   fresh              fresh                    expired
//!   stream is late   suspect            suspect, then expired    expired
//! ```
//! Two signals are kept apart. The *stream* goes on while heartbeats come and what they say was reached
//! also arrives: a connection that lives but brings nothing is late (consul#22868). The *path* is what
//! the gateways' own probes say. Losing only the stream never takes a working path out of rotation;
//! losing the path does so at once, because the gateways have waited already.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::control::Path;
use crate::model::{ClusterName, Freshness};
use crate::store::Revision;

/// When a signal counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Without progress of the stream for this long, a peer is suspect.
    pub suspect_after: Duration,
    /// Without progress and without any word of the path for this long, it is expired.
    pub expired_after: Duration,
}

impl Default for Thresholds {
    /// Three heartbeats of 5 s; a minute for a restart of the gateways.
    fn default() -> Self {
        Self { suspect_after: Duration::from_secs(15), expired_after: Duration::from_secs(60) }
    }
}

/// Something that was seen of a peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// The relationship is known, or has begun anew.
    Known,
    /// The relationship is over.
    Forgotten,
    /// A heartbeat: the peer's exports are at this revision.
    Reached(Revision),
    /// A stream begins where we hold the peer's exports to; that alone is no progress.
    Resumes(Revision),
    /// We hold the peer's exports up to this revision.
    Holds(Revision),
    Path(Path),
    /// No gateway is left that could say something of the path.
    PathUnknown,
    /// Time has passed.
    Tick,
}

/// A peer that is now believed more or less than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub peer: ClusterName,
    pub freshness: Freshness,
}

/// All peers.
#[derive(Debug)]
pub struct Membership {
    thresholds: Thresholds,
    members: BTreeMap<ClusterName, Member>,
}

#[derive(Debug, Clone)]
struct Member {
    /// When the stream last was where the peer said it should be, or when we began to wait.
    progress: Option<Instant>,
    waiting_since: Instant,
    reached: Revision,
    holds: Revision,
    path: Option<Path>,
    freshness: Freshness,
}

impl Membership {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, members: BTreeMap::new() }
    }

    /// Takes in an event of one peer.
    pub fn apply(&mut self, peer: &ClusterName, event: Event, now: Instant) -> Option<Change> {
        match event {
            Event::Forgotten => {
                self.members.remove(peer);
                return None;
            }
            // Whoever begins anew with the peer has not been told yet.
            Event::Known if self.members.contains_key(peer) => {
                let freshness = self.members.get(peer)?.freshness;
                return Some(Change { peer: peer.clone(), freshness });
            }
            Event::Known => {
                self.members.insert(peer.clone(), Member::new(now));
            }
            Event::Reached(_)
            | Event::Resumes(_)
            | Event::Holds(_)
            | Event::Path(_)
            | Event::PathUnknown
            | Event::Tick => {}
        }
        let member = self.members.get_mut(peer)?;
        member.observe(event, now);
        member.judge(&self.thresholds, now).map(|freshness| Change { peer: peer.clone(), freshness })
    }

    /// Lets time pass for all peers.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let judged = self.members.iter_mut().filter_map(|(peer, member)| {
            let freshness = member.judge(&self.thresholds, now)?;
            Some(Change { peer: peer.clone(), freshness })
        });
        judged.collect()
    }

    /// When the next tick can change something.
    pub fn wake_at(&self) -> Option<Instant> {
        self.members.values().filter_map(|member| member.wake_at(&self.thresholds)).min()
    }

    pub fn freshness(&self, peer: &ClusterName) -> Option<Freshness> {
        self.members.get(peer).map(|member| member.freshness)
    }
}

impl Member {
    /// What was read back from the store may be old, but traffic goes on with it.
    fn new(now: Instant) -> Self {
        Self {
            progress: None,
            waiting_since: now,
            reached: Revision::default(),
            holds: Revision::default(),
            path: None,
            freshness: Freshness::Suspect,
        }
    }

    fn observe(&mut self, event: Event, now: Instant) {
        match event {
            Event::Reached(revision) => {
                self.reached = revision;
                self.note_progress(self.holds >= revision, now);
            }
            Event::Resumes(revision) => self.holds = revision,
            Event::Holds(revision) => {
                let moved = self.holds != revision;
                self.holds = revision;
                self.note_progress(moved, now);
            }
            Event::Path(path) => self.path = Some(path),
            Event::PathUnknown => self.path = None,
            Event::Known | Event::Forgotten | Event::Tick => {}
        }
    }

    fn note_progress(&mut self, made: bool, now: Instant) {
        if made {
            self.progress = Some(now);
            self.waiting_since = now;
        }
    }

    /// Returns the verdict if it is another one than before.
    fn judge(&mut self, thresholds: &Thresholds, now: Instant) -> Option<Freshness> {
        let verdict = self.verdict(thresholds, now);
        (std::mem::replace(&mut self.freshness, verdict) != verdict).then_some(verdict)
    }

    fn verdict(&self, thresholds: &Thresholds, now: Instant) -> Freshness {
        let late = self.progress.is_none_or(|progress| now >= progress + thresholds.suspect_after);
        let lost = now >= self.waiting_since + thresholds.expired_after;
        match self.path {
            Some(Path::Down) => Freshness::Expired,
            _ if !late => Freshness::Fresh,
            None if lost => Freshness::Expired,
            _ => Freshness::Suspect,
        }
    }

    /// When the verdict turns by itself, if it does.
    fn wake_at(&self, thresholds: &Thresholds) -> Option<Instant> {
        match self.freshness {
            Freshness::Fresh => self.progress.map(|progress| progress + thresholds.suspect_after),
            Freshness::Suspect if self.path.is_none() => Some(self.waiting_since + thresholds.expired_after),
            Freshness::Suspect | Freshness::Expired => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP: Event = Event::Path(Path::Up { round_trip: Duration::from_millis(20) });
    const DOWN: Event = Event::Path(Path::Down);

    #[expect(clippy::disallowed_methods, reason = "an instant can only be had from the clock")]
    fn start() -> Instant {
        Instant::now()
    }

    fn peer() -> ClusterName {
        ClusterName::try_from("cloud").unwrap()
    }

    fn reached(revision: u64) -> Event {
        Event::Reached(Revision(revision))
    }

    fn holds(revision: u64) -> Event {
        Event::Holds(Revision(revision))
    }

    /// Events with the second at which they happen, and what the peer is then.
    fn run(story: &[(u64, Event, Freshness)]) {
        let start = start();
        let mut membership = Membership::new(Thresholds::default());
        membership.apply(&peer(), Event::Known, start);
        let mut before = Freshness::Suspect;
        for (second, event, expected) in story {
            let now = start + Duration::from_secs(*second);
            let change = membership.apply(&peer(), *event, now);
            assert_eq!(membership.freshness(&peer()), Some(*expected), "{event:?} at {second} s");
            let told = (before != *expected).then(|| Change { peer: peer(), freshness: *expected });
            assert_eq!(change, told, "only changes are told: {event:?} at {second} s");
            before = *expected;
        }
    }

    #[test]
    fn a_relationship_that_begins_anew_is_told_what_is_believed() {
        let now = start();
        let mut membership = Membership::new(Thresholds::default());
        assert_eq!(membership.apply(&peer(), Event::Known, now), None);
        membership.apply(&peer(), reached(0), now);
        let told = Change { peer: peer(), freshness: Freshness::Fresh };
        assert_eq!(membership.apply(&peer(), Event::Known, now), Some(told));
    }

    /// Else a peer that comes up again and again, and says nothing but hello, would stay fresh for ever.
    #[test]
    fn a_stream_that_only_begins_is_no_progress() {
        use Freshness::{Fresh, Suspect};
        run(&[
            (1, holds(5), Fresh),
            (15, Event::Resumes(Revision(0)), Fresh),
            (16, Event::Tick, Suspect),
            (17, Event::Resumes(Revision(5)), Suspect),
            (18, reached(6), Suspect),
            (19, holds(6), Fresh),
        ]);
    }

    #[test]
    fn the_table_holds() {
        use Freshness::{Expired, Fresh, Suspect};
        for story in [
            // The stream alone.
            &[
                (0, Event::Tick, Suspect),
                (1, reached(0), Fresh),
                (15, Event::Tick, Fresh),
                (16, Event::Tick, Suspect),
            ][..],
            // Losing only the stream never expires a working path.
            &[
                (1, reached(0), Fresh),
                (2, UP, Fresh),
                (20, UP, Suspect),
                (70, UP, Suspect),
                (125, UP, Suspect),
            ],
            // Losing the path expires at once, whatever the stream says.
            &[
                (1, reached(0), Fresh),
                (2, UP, Fresh),
                (3, DOWN, Expired),
                (4, reached(0), Expired),
                (5, UP, Fresh),
            ],
            // Nothing is heard of either.
            &[
                (1, reached(0), Fresh),
                (30, Event::Tick, Suspect),
                (60, Event::Tick, Suspect),
                (61, Event::Tick, Expired),
            ],
            // A restart: what was read back counts for a while.
            &[(59, Event::Tick, Suspect), (60, Event::Tick, Expired), (61, reached(0), Fresh)],
            // Gateways that are gone no longer vouch for the path, nor against it.
            &[
                (1, DOWN, Expired),
                (30, reached(0), Expired),
                (31, Event::PathUnknown, Fresh),
                (45, Event::Tick, Suspect),
            ],
            &[(1, UP, Suspect), (70, UP, Suspect), (71, Event::PathUnknown, Expired), (72, UP, Suspect)],
        ] {
            run(story);
        }
    }

    #[test]
    fn heartbeats_without_progress_are_late() {
        use Freshness::{Fresh, Suspect};
        run(&[
            (1, holds(5), Fresh),
            (2, reached(5), Fresh),
            (5, reached(9), Fresh),
            (10, reached(9), Fresh),
            (17, reached(9), Suspect),
            (18, holds(7), Fresh),
            (30, reached(9), Fresh),
            (33, reached(9), Suspect),
            (34, holds(9), Fresh),
            (40, reached(9), Fresh),
            (54, reached(9), Fresh),
        ]);
    }

    #[test]
    fn another_epoch_begins_anywhere() {
        run(&[
            (1, holds(900), Freshness::Fresh),
            (2, holds(3), Freshness::Fresh),
            (20, reached(3), Freshness::Fresh),
        ]);
    }

    #[test]
    fn strangers_are_not_judged() {
        let mut membership = Membership::new(Thresholds::default());
        assert_eq!(membership.apply(&peer(), UP, start()), None);
        membership.apply(&peer(), Event::Known, start());
        membership.apply(&peer(), Event::Forgotten, start());
        assert_eq!(membership.freshness(&peer()), None);
        assert_eq!(membership.wake_at(), None);
    }

    fn events() -> impl Strategy<Value = (u64, Event)> {
        let event = prop_oneof![
            Just(UP),
            Just(DOWN),
            Just(Event::Tick),
            Just(Event::Known),
            Just(Event::PathUnknown),
            (0..9_u64).prop_map(reached),
            (0..9_u64).prop_map(holds),
        ];
        (0..40_u64, event)
    }

    proptest! {
        /// Waking exactly when it asks to be woken shows every change that time brings.
        #[test]
        fn it_asks_to_be_woken_before_time_changes_a_verdict(story in proptest::collection::vec(events(), 1..30)) {
            let mut now = start();
            let mut membership = Membership::new(Thresholds::default());
            for (pause, event) in story {
                let until = now + Duration::from_secs(pause);
                while let Some(wake) = membership.wake_at().filter(|wake| *wake > now && *wake <= until) {
                    now = wake;
                    membership.tick(now);
                }
                prop_assert_eq!(membership.tick(until), vec![]);
                now = until;
                membership.apply(&peer(), event, now);
            }
        }

        /// A working path is never taken out of rotation by what happens to the stream.
        #[test]
        fn a_working_path_never_expires(story in proptest::collection::vec(events(), 1..30)) {
            let mut now = start();
            let mut membership = Membership::new(Thresholds::default());
            membership.apply(&peer(), Event::Known, now);
            for (pause, event) in story {
                if matches!(event, Event::Path(_) | Event::PathUnknown) {
                    continue;
                }
                now += Duration::from_secs(pause);
                membership.apply(&peer(), UP, now);
                membership.apply(&peer(), event, now);
                prop_assert_ne!(membership.freshness(&peer()), Some(Freshness::Expired));
            }
        }
    }
}
