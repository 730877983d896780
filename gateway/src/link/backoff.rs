//! How long to wait before dialling again: full jitter, so that many dialers of one gateway that came
//! back never knock at the same moment (U15).

use std::time::Duration;

use rand::Rng;

/// Counts failures in a row of one address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: anything up to a ceiling that doubles each time.
    pub(super) fn fail(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = CEILING_FIRST.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX)).min(CEILING_MAX);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rng.random_range(0.0..=1.0)).max(WAIT_MIN)
    }

    pub(super) fn succeed(&mut self) {
        self.failures = 0;
    }
}

const CEILING_FIRST: Duration = Duration::from_millis(200);
/// A peer that comes back after a long outage is seen within half a minute.
const CEILING_MAX: Duration = Duration::from_secs(30);
/// 0.2 s doubled eight times is above the ceiling.
const DOUBLINGS_MAX: u32 = 8;
/// Full jitter may draw nothing; a loop without any pause would be a busy one.
const WAIT_MIN: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_never_beyond() {
        let mut rng = StdRng::seed_from_u64(1);
        for (failures, ceiling_ms) in
            [(0, 200), (1, 400), (4, 3200), (7, 25_600), (8, 30_000), (4000, 30_000)]
        {
            let longest = (0..2000).map(|_| Backoff { failures }.fail(&mut rng)).max().unwrap();
            let ceiling = Duration::from_millis(ceiling_ms);
            assert!(longest <= ceiling && longest > ceiling.mul_f64(0.95), "{failures}: {longest:?}");
        }
    }

    #[test]
    fn jitter_is_full_and_never_nothing() {
        let mut rng = StdRng::seed_from_u64(2);
        let waits: Vec<_> = (0..2000).map(|_| Backoff { failures: 20 }.fail(&mut rng)).collect();
        let early = waits.iter().filter(|wait| **wait < CEILING_MAX / 2).count();
        assert!((800..1200).contains(&early), "half of the waits lie in the first half: {early}");
        assert!(waits.iter().all(|wait| *wait >= WAIT_MIN));
    }

    #[test]
    fn a_success_starts_over() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut backoff = Backoff { failures: u32::MAX };
        backoff.fail(&mut rng);
        assert_eq!(backoff.failures, u32::MAX);
        backoff.succeed();
        assert!(backoff.fail(&mut rng) <= CEILING_FIRST);
    }
}
