//! How fast: a token bucket for what we send and take, and a backoff for what we try again.
//!
//! Both are told the time and the chance, and know nothing of what they pace.

use std::time::{Duration, Instant};

/// So many at once, then so many a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub burst: u32,
    pub per_second: f64,
}

/// A bucket of tokens that fills with time.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// Begins full.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.burst), filled: now }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    /// When the next token is there; `now` or earlier if one is there already.
    pub fn ready_at(&self, now: Instant) -> Instant {
        let mut then = self.clone();
        then.fill(now);
        let missing = (1.0 - then.tokens).max(0.0);
        now + Duration::from_secs_f64(missing / self.rate.per_second.max(f64::MIN_POSITIVE)).min(LONGEST_WAIT)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate.per_second).min(f64::from(self.rate.burst));
        self.filled = self.filled.max(now);
    }
}

/// A rate of almost nothing must not become a time that overflows.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Exponential backoff with full jitter, so that many that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

/// How to dial a peer again: soon, and within half a minute once a long outage is over (U15).
pub const REDIAL: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(30) };

impl Backoff {
    /// How long to wait after so many failures; `chance` is from 0 to 1.
    pub fn after(&self, failures: u32, chance: f64) -> Duration {
        let doubled =
            self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.longest).mul_f64(chance.clamp(0.0, 1.0)).max(WAIT_MIN)
    }
}

/// Full jitter may draw nothing; a loop without any pause would be a busy one.
const WAIT_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an instant can only be had from the clock")]
    fn test_start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let start = test_start();
        let mut bucket = TokenBucket::new(Rate { burst: 3, per_second: 2.0 }, start);
        assert_eq!((0..5).filter(|_| bucket.take(start)).count(), 3);
        assert_eq!(bucket.ready_at(start), start + Duration::from_millis(500));
        let later = start + Duration::from_millis(1600);
        assert_eq!((0..5).filter(|_| bucket.take(later)).count(), 3);
        assert!(!bucket.take(start), "time that goes back gives nothing");
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(
            (0..9).filter(|_| bucket.take(much_later)).count(),
            3,
            "it never holds more than its burst"
        );
    }

    #[test]
    fn backoff_doubles_up_to_its_longest() {
        let at = |failures, chance| REDIAL.after(failures, chance).as_millis();
        assert_eq!(
            [at(1, 1.0), at(2, 1.0), at(3, 1.0), at(8, 1.0), at(9, 1.0)],
            [200, 400, 800, 25_600, 30_000]
        );
        assert_eq!([at(1, 0.0), at(5, 0.5), at(1000, 1.0)], [10, 1600, 30_000]);
    }
}
