//! Can a peer be reached, judged by the answers to probes alone.
//!
//! Out after `max(2.5 s, 4 × smoothed round trip)` without an answer, in again with the first answer
//! (design.md, section 6, "Bounded staleness"). The same judgement serves one link, to pass over it
//! while it is silent, and all links to a peer together, to take the cluster out of rotation. Errors of
//! requests are no evidence here: a service in trouble never ejects its gateway.

use std::time::{Duration, Instant};

/// How often a link is probed; five answers are missed before a path is out.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// What is known of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PathState {
    last_answer: Option<Instant>,
    up: bool,
    smoothed: Option<Duration>,
}

/// A path changed sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    WentUp,
    WentDown,
}

impl PathState {
    /// A probe was answered.
    pub(super) fn answered(&mut self, round_trip: Duration, now: Instant) -> Option<Change> {
        // An answer that waited out an outage measures the outage, not the path.
        let sample = round_trip.min(self.patience());
        self.smoothed = Some(self.smoothed.map_or(sample, |smoothed| (smoothed * 7 + sample) / 8));
        self.last_answer = Some(now);
        let was_up = std::mem::replace(&mut self.up, true);
        (!was_up).then_some(Change::WentUp)
    }

    /// Time passed.
    pub(super) fn observe(&mut self, now: Instant) -> Option<Change> {
        let overdue = self.deadline().is_some_and(|deadline| now >= deadline);
        if overdue { self.lose() } else { None }
    }

    /// Nothing is connected and nothing can be: no need to wait for probes.
    pub(super) fn lose(&mut self) -> Option<Change> {
        std::mem::replace(&mut self.up, false).then_some(Change::WentDown)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// How long ago the last answer came; nothing before the first.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        self.last_answer.map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed
    }

    /// When the path goes out unless an answer comes; none while it is out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.last_answer.filter(|_| self.up).map(|last| last + self.patience())
    }

    fn patience(&self) -> Duration {
        let by_distance = self.smoothed.map_or(PATIENCE_MIN, |smoothed| smoothed * 4);
        by_distance.clamp(PATIENCE_MIN, PATIENCE_MAX)
    }
}

const PATIENCE_MIN: Duration = Duration::from_millis(2500);
/// A peer that answers slowly on purpose cannot make us wait for ever.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made in any other way")]
    fn some_moment() -> Instant {
        Instant::now()
    }

    /// Answers at these moments, each with this round trip; then what holds when.
    fn run(answers: &[(u64, u64)], claims: &[(u64, bool)]) {
        let start = some_moment();
        let mut path = PathState::default();
        let moments = answers.iter().map(|(at, _)| *at).chain(claims.iter().map(|(at, _)| *at));
        let mut moments: Vec<_> = moments.collect();
        moments.sort_unstable();
        moments.dedup();
        for at in moments {
            for (_, round_trip) in answers.iter().filter(|(answered, _)| *answered == at) {
                path.answered(ms(*round_trip), start + ms(at));
            }
            path.observe(start + ms(at));
            for (_, up) in claims.iter().filter(|(claimed, _)| *claimed == at) {
                assert_eq!(path.is_up(), *up, "{at} ms after the start");
            }
        }
    }

    #[test]
    fn a_path_is_down_until_the_first_answer() {
        run(&[(100, 10)], &[(0, false), (99, false), (100, true)]);
    }

    #[test]
    fn a_near_path_goes_out_after_two_and_a_half_seconds() {
        run(&[(0, 5), (500, 5)], &[(2999, true), (3000, false)]);
    }

    #[test]
    fn a_far_path_is_given_four_round_trips() {
        run(&[(0, 900)], &[(3599, true), (3600, false)]);
    }

    #[test]
    fn one_answer_brings_it_back_at_once() {
        run(&[(0, 5), (60_000, 5)], &[(2500, false), (59_999, false), (60_000, true), (62_499, true)]);
    }

    #[test]
    fn an_answer_after_an_outage_does_not_stretch_the_patience() {
        run(&[(0, 5), (30_000, 30_000)], &[(30_000, true), (32_499, true), (32_500, false)]);
    }

    #[test]
    fn nobody_can_buy_more_than_ten_seconds() {
        let answers: Vec<_> = (0..200).map(|n| (n * 1000, 60_000)).collect();
        run(&answers, &[(199_000, true), (209_000, false)]);
    }

    #[test]
    fn changes_are_told_once() {
        let start = some_moment();
        let mut path = PathState::default();
        assert_eq!(path.observe(start), None);
        assert_eq!(path.answered(ms(1), start), Some(Change::WentUp));
        assert_eq!(path.answered(ms(1), start), None);
        assert_eq!(path.observe(start + ms(2499)), None);
        assert_eq!(path.observe(start + ms(2500)), Some(Change::WentDown));
        assert_eq!(path.observe(start + ms(9000)), None);
        assert_eq!(path.lose(), None);
        assert_eq!(path.answered(ms(1), start + ms(9001)), Some(Change::WentUp));
        assert_eq!(path.lose(), Some(Change::WentDown));
    }

    #[test]
    fn the_round_trip_is_smoothed() {
        let start = some_moment();
        let mut path = PathState::default();
        path.answered(ms(80), start);
        path.answered(ms(160), start);
        assert_eq!(path.round_trip(), Some(ms(90)));
    }
}
