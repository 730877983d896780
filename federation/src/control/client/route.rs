//! Whom to ask next: the configured processes in turn, or whom one of them named; pure.

use std::time::Duration;

use super::session::End;
use crate::model::GatewayAddress;
use crate::pace::Backoff;

/// Two processes that name each other must not be asked in a circle without a pause.
const REDIRECTS_MAX: usize = 3;

#[derive(Debug)]
pub(super) struct Route {
    endpoints: Vec<GatewayAddress>,
    at: usize,
    named: Option<GatewayAddress>,
    redirects: usize,
    failures: u32,
}

impl Route {
    pub(super) fn new(endpoints: Vec<GatewayAddress>) -> Self {
        Self { endpoints, at: 0, named: None, redirects: 0, failures: 0 }
    }

    pub(super) fn next(&mut self) -> Option<GatewayAddress> {
        self.named.take().or_else(|| self.endpoints.get(self.at % self.endpoints.len().max(1)).cloned())
    }

    /// Learns from how it went; says how long to wait.
    pub(super) fn judge(&mut self, end: End, redial: &Backoff, chance: f64) -> Duration {
        match end {
            End::Renewing => {
                (self.failures, self.redirects) = (0, 0);
                return Duration::ZERO;
            }
            End::NotLeader { leaders } if self.redirects < REDIRECTS_MAX && !leaders.is_empty() => {
                self.redirects += 1;
                self.named = leaders.into_iter().next();
                return Duration::ZERO;
            }
            End::Ended { was_led: true, .. } => (self.failures, self.redirects) = (0, 0),
            _ => {}
        }
        self.at = self.at.wrapping_add(1);
        // The next process may answer at once; only after all of them there is a pause.
        if self.redirects < REDIRECTS_MAX && !self.at.is_multiple_of(self.endpoints.len().max(1)) {
            return Duration::ZERO;
        }
        self.redirects = 0;
        self.failures = self.failures.saturating_add(1);
        redial.after(self.failures, chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDIAL: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

    fn address(text: &str) -> GatewayAddress {
        text.parse().unwrap()
    }

    fn lost() -> End {
        End::Ended { was_led: false, reason: "lost".to_owned() }
    }

    fn not_leader(leaders: &[&str]) -> End {
        End::NotLeader { leaders: leaders.iter().map(|text| address(text)).collect() }
    }

    #[test]
    fn all_are_asked_before_there_is_a_pause() {
        let mut route = Route::new(vec![address("a:1"), address("b:1")]);
        let mut asked = Vec::new();
        for expected in [0, 100, 0, 200, 0, 400] {
            asked.push(route.next().unwrap().to_string());
            assert_eq!(route.judge(lost(), &REDIAL, 1.0), Duration::from_millis(expected));
        }
        assert_eq!(asked, ["a:1", "b:1", "a:1", "b:1", "a:1", "b:1"]);
    }

    #[test]
    fn the_leader_that_is_named_is_asked_at_once() {
        let mut route = Route::new(vec![address("a:1"), address("b:1")]);
        assert_eq!(route.judge(not_leader(&["c:1"]), &REDIAL, 1.0), Duration::ZERO);
        assert_eq!(route.next(), Some(address("c:1")));
        assert_eq!(route.judge(not_leader(&[]), &REDIAL, 1.0), Duration::ZERO);
        assert_eq!(route.next(), Some(address("b:1")));
    }

    #[test]
    fn a_circle_of_names_is_left() {
        let mut route = Route::new(vec![address("a:1")]);
        let pauses: Vec<_> =
            (0..5).map(|_| route.judge(not_leader(&["a:1"]), &REDIAL, 1.0).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 0, 100, 0]);
    }

    #[test]
    fn without_endpoints_nobody_is_asked() {
        assert_eq!(Route::new(Vec::new()).next(), None);
    }
}
