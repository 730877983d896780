//! When an SVID is renewed, and how worried to be when it was not; pure (V30).

use std::time::Duration;

use rustls::pki_types::UnixTime;

use crate::svid::X509Svid;

/// Renewals spread over this part of half the life, so that replicas do not come all at once.
const SPREAD: f64 = 0.1;

/// How an SVID stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Younger than two thirds of its life.
    Fresh,
    /// Renewal is late; readiness says degraded.
    Late,
    /// A quarter of its life is left: somebody should look.
    Alarming,
    /// It is of no use any more.
    Expired,
}

/// When to renew: at half the life, give or take a tenth; `jitter` is a random number from 0 to 1.
pub fn due_at(svid: &X509Svid, jitter: f64) -> UnixTime {
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
    at(svid, 0.5 * (1.0 + SPREAD * (2.0 * jitter - 1.0)))
}

/// How the SVID stands at this time.
pub fn standing_at(svid: &X509Svid, now: UnixTime) -> Standing {
    match now {
        now if now > svid.not_after() => Standing::Expired,
        now if now >= at(svid, 3.0 / 4.0) => Standing::Alarming,
        now if now >= at(svid, 2.0 / 3.0) => Standing::Late,
        _ => Standing::Fresh,
    }
}

/// The time at this part of the life, in whole seconds as certificates count them.
fn at(svid: &X509Svid, part: f64) -> UnixTime {
    let (from, to) = (svid.not_before().as_secs(), svid.not_after().as_secs());
    let life = Duration::from_secs(to.saturating_sub(from));
    UnixTime::since_unix_epoch(Duration::from_secs(from) + life.mul_f64(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestAuthority, date, later, now};

    /// An SVID that lives from now for so many seconds.
    fn living(seconds: u64) -> (UnixTime, X509Svid) {
        let from = now();
        let leaf = TestAuthority::root("a").leaf_with(&["spiffe://a/x"], |p| {
            p.not_before = date(from);
            p.not_after = date(later(from, seconds));
        });
        (from, leaf.svid())
    }

    #[test]
    fn v30_renewal_is_due_at_half_the_life_and_spread() {
        let (from, svid) = living(1000);
        for (jitter, due) in [(0.0, 450), (0.25, 475), (0.5, 500), (1.0, 550), (-3.0, 450), (7.0, 550)] {
            assert_eq!(due_at(&svid, jitter), later(from, due), "{jitter}");
        }
        assert_eq!(due_at(&svid, f64::NAN), later(from, 500));
        let (from, svid) = living(1);
        assert_eq!(due_at(&svid, 0.5), from);
    }

    #[test]
    fn v30_standing_worsens_with_age() {
        let (from, svid) = living(1200);
        let cases = [
            (0, Standing::Fresh),
            (799, Standing::Fresh),
            (800, Standing::Late),
            (899, Standing::Late),
            (900, Standing::Alarming),
            (1200, Standing::Alarming),
            (1201, Standing::Expired),
        ];
        for (age, standing) in cases {
            assert_eq!(standing_at(&svid, later(from, age)), standing, "{age}");
        }
    }
}
