//! The time of this machine, which all processes of a test share.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
pub(crate) type Micros = u64;

pub(crate) const SECOND: Micros = 1_000_000;

pub(crate) fn now() -> Micros {
    #[expect(clippy::disallowed_methods, reason = "the rim of a test is the test")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as Micros
}

/// As in the logs: 14:03:07.250.
pub(crate) fn of_day(at: Micros) -> String {
    let (seconds, milliseconds) = (at / SECOND, at % SECOND / 1000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{milliseconds:03}", seconds % 60)
}

/// As people say it: 1.25 s.
pub(crate) fn span(micros: Micros) -> String {
    format!("{:.2} s", micros as f64 / SECOND as f64)
}
