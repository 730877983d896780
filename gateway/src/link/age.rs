//! How old a link may grow. Pure: lives are given as what is left of them.
//!
//! A link is replaced well before the SVIDs that authenticated it end (V32), and at least once an hour,
//! so that load spreads over replicas that came later. The dialler replaces; the end that accepted only
//! enforces that nothing outlives the dialler's SVID for long.

use std::time::Duration;

use rustls::pki_types::UnixTime;

/// Streams that outlast the SVID which opened them may go on for this long.
pub(super) const GRACE_AFTER_EXPIRY: Duration = Duration::from_secs(600);

/// When a link that begins now shall have been replaced; `jitter` is in 0..1.
pub(super) fn replace_after(own_life_left: Duration, peer_life_left: Duration, jitter: f64) -> Duration {
    let by_life = own_life_left.min(peer_life_left).mul_f64(0.6 + 0.2 * jitter);
    let by_age = AGE_MAX.mul_f64(0.8 + 0.2 * jitter);
    by_life.min(by_age).max(AGE_MIN)
}

/// When a connection ends for good that was authenticated by an SVID until `not_after`.
pub(super) fn ends_after(not_after: UnixTime, now: UnixTime) -> Duration {
    life_left(not_after, now) + GRACE_AFTER_EXPIRY
}

pub(super) fn life_left(not_after: UnixTime, now: UnixTime) -> Duration {
    Duration::from_secs(not_after.as_secs().saturating_sub(now.as_secs()))
}

const AGE_MAX: Duration = Duration::from_secs(3600);
/// A peer whose renewal is late offers the same short life again and again.
const AGE_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_shorter_life_and_the_hour_decide() {
        for (own, peer, jitter, expected) in [
            (s(86_400), s(86_400), 0.0, s(2880)),
            (s(86_400), s(86_400), 1.0, s(3600)),
            (s(20), s(86_400), 0.0, s(12)),
            (s(86_400), s(20), 1.0, s(16)),
            (s(10), s(20), 0.5, s(7)),
            (s(0), s(20), 0.5, s(1)),
        ] {
            let after = replace_after(own, peer, jitter);
            let off = after.abs_diff(expected);
            assert!(off < Duration::from_millis(1), "{own:?} {peer:?} {jitter}: {after:?}");
        }
    }

    #[test]
    fn an_expired_identity_is_given_the_grace_and_no_more() {
        let at = |seconds| UnixTime::since_unix_epoch(s(seconds));
        assert_eq!(ends_after(at(1000), at(900)), s(700));
        assert_eq!(ends_after(at(1000), at(5000)), s(600));
    }
}
