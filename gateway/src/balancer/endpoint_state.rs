//! What this process has seen of one target: requests in flight, and whether connecting failed lately.
//!
//! A failed connect marks the target for a short while, longer each time in a row. When the mark ends, one
//! request at a time tries it, until a connect succeeds: a dead endpoint costs one request, not a burst.
//! All of it is passive and advisory: where every target is marked, they are used all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The first mark: about as long as a restart that nobody should notice.
const COOL_DOWN_FIRST: Duration = Duration::from_secs(1);
/// Longest mark: a target that came back is used again within this.
const COOL_DOWN_MAX: Duration = Duration::from_secs(10);

/// Relaxed order everywhere: each number stands alone, and a decision on a stale one is still a good one.
#[derive(Debug)]
pub(super) struct EndpointState {
    /// Where the clock of `failing_until` starts.
    epoch: Instant,
    in_flight: AtomicU32,
    failures: AtomicU32,
    failing_until_ms: AtomicU64,
}

/// One request or connection that a target has in flight, until dropped.
#[derive(Debug)]
pub struct InFlight {
    state: Arc<EndpointState>,
}

impl EndpointState {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            failing_until_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { state: self.clone() }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn is_failing(&self, now: Instant) -> bool {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let marked = self.since_epoch(now) < self.failing_until_ms.load(Ordering::Relaxed);
        marked || self.in_flight() > 0
    }

    /// A burst of requests that fail together counts once.
    fn fail(&self, now: Instant) {
        let now = self.since_epoch(now);
        if now < self.failing_until_ms.load(Ordering::Relaxed) {
            return;
        }
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let until = now.saturating_add(millis(cool_down(before)));
        self.failing_until_ms.store(until, Ordering::Relaxed);
    }

    fn recover(&self) {
        // Read first: the usual case must not take the cache line from others.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.failing_until_ms.store(0, Ordering::Relaxed);
        }
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.epoch))
    }
}

impl InFlight {
    /// The target took the connection, or answered.
    pub fn connected(&self) {
        self.state.recover();
    }

    /// The target could not be connected to, or its gateway said so.
    pub fn connect_failed(&self, now: Instant) {
        self.state.fail(now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn cool_down(failures_before: u32) -> Duration {
    let doubled = 2u32.checked_pow(failures_before).and_then(|times| COOL_DOWN_FIRST.checked_mul(times));
    doubled.map_or(COOL_DOWN_MAX, |pause| pause.min(COOL_DOWN_MAX))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "an Instant can only come from a clock")]
        Instant::now()
    }

    #[test]
    fn marks_double_up_to_the_longest() {
        let seconds: Vec<_> = (0..6).map(|failures| cool_down(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(cool_down(u32::MAX), COOL_DOWN_MAX);
    }

    #[test]
    fn a_burst_of_failures_is_one_mark() {
        let start = start();
        let state = Arc::new(EndpointState::new(start));
        let requests: Vec<_> = (0..64).map(|_| state.begin()).collect();
        requests.iter().for_each(|request| request.connect_failed(start));
        drop(requests);
        assert!(state.is_failing(start + Duration::from_millis(999)));
        assert!(!state.is_failing(start + Duration::from_secs(1)));
    }

    #[test]
    fn after_the_mark_one_request_tries() {
        let start = start();
        let state = Arc::new(EndpointState::new(start));
        state.begin().connect_failed(start);
        let later = start + Duration::from_secs(2);
        let trial = state.begin();
        assert!(state.is_failing(later), "the second waits for the first");
        trial.connect_failed(later);
        assert!(state.is_failing(later + Duration::from_millis(1999)), "the second mark is longer");
        drop(trial);
        let trial = state.begin();
        trial.connected();
        assert!(!state.is_failing(later));
        assert_eq!(state.in_flight(), 1);
        drop(trial);
        assert_eq!(state.in_flight(), 0);
    }
}
