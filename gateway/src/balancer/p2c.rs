//! Power of two choices: draw two by weight, take the one with less in flight for its weight.
//!
//! At rest the shares are the weights; under load a slow one gets less. Knows nothing of endpoints.

use rand::Rng;

/// Draws that may hit an ineligible one before all are looked at.
const DRAWS_MAX: usize = 4;

/// Weights of a fixed set, ready to draw from.
#[derive(Debug)]
pub(super) struct Weights {
    /// Sums of all weights up to and with each.
    cumulative: Box<[u64]>,
}

impl Weights {
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let sums = weights.scan(0u64, |sum, weight| {
            *sum += u64::from(weight);
            Some(*sum)
        });
        Self { cumulative: sums.collect() }
    }

    /// One of the eligible; none only if there is none with a weight.
    pub(super) fn pick(
        &self,
        eligible: impl Fn(usize) -> bool,
        in_flight: impl Fn(usize) -> u32,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let first = self.draw(&eligible, rng)?;
        if self.cumulative.len() == 1 {
            return Some(first);
        }
        let Some(second) = self.draw(&|at| at != first && eligible(at), rng) else { return Some(first) };
        let load = |at: usize, other: usize| u128::from(in_flight(at)) * u128::from(self.weight(other));
        // Equal load keeps the first, which was drawn by weight.
        Some(if load(second, first) < load(first, second) { second } else { first })
    }

    fn draw(&self, eligible: &impl Fn(usize) -> bool, rng: &mut impl Rng) -> Option<usize> {
        let total = *self.cumulative.last()?;
        if total == 0 {
            return None;
        }
        let mut draws = (0..DRAWS_MAX).map(|_| self.holder(rng.random_range(0..total)));
        draws.find(|at| eligible(*at)).or_else(|| self.draw_among(eligible, rng))
    }

    /// Looks at all, so that the last eligible one is found: each replaces the one before with the
    /// probability of its share so far.
    fn draw_among(&self, eligible: &impl Fn(usize) -> bool, rng: &mut impl Rng) -> Option<usize> {
        let mut sum = 0;
        let mut drawn = None;
        for at in (0..self.cumulative.len()).filter(|at| self.weight(*at) > 0 && eligible(*at)) {
            sum += self.weight(at);
            if rng.random_range(0..sum) < self.weight(at) {
                drawn = Some(at);
            }
        }
        drawn
    }

    fn holder(&self, ticket: u64) -> usize {
        self.cumulative.partition_point(|sum| *sum <= ticket)
    }

    fn weight(&self, at: usize) -> u64 {
        let before = at.checked_sub(1).map_or(0, |before| self.cumulative[before]);
        self.cumulative[at] - before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn shares(weights: &[u32], in_flight: &[u32], eligible: impl Fn(usize) -> bool) -> Vec<u32> {
        let table = Weights::new(weights.iter().copied());
        let mut rng = StdRng::seed_from_u64(7);
        let mut hits = vec![0; weights.len()];
        for _ in 0..10_000 {
            if let Some(at) = table.pick(&eligible, |at| in_flight[at], &mut rng) {
                hits[at] += 1;
            }
        }
        hits
    }

    #[test]
    fn at_rest_the_shares_are_the_weights() {
        for (weights, expected) in [
            (&[1, 1][..], &[5000, 5000][..]),
            (&[1, 3], &[2500, 7500]),
            (&[1, 0, 1], &[5000, 0, 5000]),
            (&[5], &[10_000]),
            (&[10, 20, 70], &[1000, 2000, 7000]),
        ] {
            let hits = shares(weights, &vec![0; weights.len()], |_| true);
            for (hits, expected) in hits.iter().zip(expected) {
                assert!(hits.abs_diff(*expected) < 200, "{weights:?} {hits:?}");
            }
        }
    }

    #[test]
    fn the_busier_of_two_is_left_alone() {
        assert_eq!(shares(&[1, 1], &[5, 1], |_| true), [0, 10_000]);
        assert_eq!(shares(&[1, 10], &[1, 5], |_| true), [0, 10_000], "load is for the weight");
        let three = shares(&[1, 1, 1], &[9, 0, 0], |_| true);
        assert_eq!(three[0], 0);
        assert!(three[1].abs_diff(5000) < 300, "{three:?}");
    }

    proptest! {
        #[test]
        fn picks_exactly_where_one_is_eligible(
            weights in prop::collection::vec(0u32..5, 0..40),
            eligible in any::<u64>(),
            seed in any::<u64>(),
        ) {
            let table = Weights::new(weights.iter().copied());
            let may = |at: usize| eligible >> at & 1 == 1;
            let picked = table.pick(may, |_| 0, &mut StdRng::seed_from_u64(seed));
            let exists = (0..weights.len()).any(|at| may(at) && weights[at] > 0);
            prop_assert_eq!(picked.is_some(), exists);
            if let Some(at) = picked {
                prop_assert!(may(at) && weights[at] > 0);
            }
        }
    }
}
