//! The one place of the data plane that reads clocks; decisions take the time as an argument.

use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::UnixTime;

/// Now, for measuring.
#[expect(clippy::disallowed_methods, reason = "this is the rim where time enters")]
pub fn now() -> Instant {
    Instant::now()
}

/// Now, for showing.
#[expect(clippy::disallowed_methods, reason = "this is the rim where time enters")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Now, for judging certificates; a clock before 1970 is 1970, when nothing is valid yet.
pub fn unix() -> UnixTime {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixTime::since_unix_epoch(since)
}
