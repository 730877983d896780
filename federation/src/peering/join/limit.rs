//! How often strangers may knock: one rate for all, one for each neighbourhood (J6); pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::model::Network;
use crate::pace::{Rate, TokenBucket};

/// Redemptions from everywhere (notes/trust 4.4).
const EVERYWHERE: Rate = Rate { burst: 10, per_second: 10.0 };
/// Redemptions from one network: an operator tries a few times, a guesser many.
const ONE_SOURCE: Rate = Rate { burst: 5, per_second: 0.2 };
/// Networks that are remembered; the one that has been quiet for longest is forgotten first.
const SOURCES_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Limit {
    everywhere: TokenBucket,
    sources: HashMap<Network, (TokenBucket, Instant)>,
}

impl Limit {
    pub(crate) fn new(now: Instant) -> Self {
        Self { everywhere: TokenBucket::new(EVERYWHERE, now), sources: HashMap::new() }
    }

    /// May this address try now. Who is over its own rate takes nothing from the others.
    pub(crate) fn admits(&mut self, address: IpAddr, now: Instant) -> bool {
        let source = Network::from(address);
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            self.forget_the_quietest();
        }
        let fresh = || (TokenBucket::new(ONE_SOURCE, now), now);
        let (bucket, seen) = self.sources.entry(source).or_insert_with(fresh);
        *seen = now;
        bucket.take(now) && self.everywhere.take(now)
    }

    fn forget_the_quietest(&mut self) {
        let quietest = self.sources.iter().min_by_key(|(_source, (_bucket, seen))| *seen);
        if let Some(source) = quietest.map(|(source, _)| *source) {
            self.sources.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an instant can only be had from the clock")]
    fn start() -> Instant {
        Instant::now()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn neighbours_share_a_rate() {
        let now = start();
        let mut limit = Limit::new(now);
        let tries = ["192.0.2.1", "192.0.2.200", "::ffff:192.0.2.7", "192.0.2.4", "192.0.2.5", "192.0.2.6"];
        let admitted: Vec<_> = tries.iter().map(|text| limit.admits(address(text), now)).collect();
        assert_eq!(admitted, [true, true, true, true, true, false]);
        assert!(limit.admits(address("192.0.3.1"), now), "another network is not held responsible");
        assert!(limit.admits(address("192.0.2.1"), now + Duration::from_secs(6)));
    }

    #[test]
    fn all_together_have_a_rate_too() {
        let now = start();
        let mut limit = Limit::new(now);
        let admitted = (0..50).filter(|n| limit.admits(address(&format!("198.51.{n}.1")), now)).count();
        assert_eq!(admitted, 10);
    }

    #[test]
    fn many_sources_cost_bounded_memory() {
        let now = start();
        let mut limit = Limit::new(now);
        for n in 0..3000_u32 {
            limit.admits(IpAddr::V4((n << 8).into()), now + Duration::from_millis(n.into()));
        }
        assert!(limit.sources.len() <= SOURCES_MAX);
    }
}
