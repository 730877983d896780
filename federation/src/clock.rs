//! The rim's clock: everything that decides gets the time from here as an argument.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;

use crate::model::Timestamp;

/// The time of day; a clock before 1970 counts as 1970, and no certificate is valid then.
#[expect(clippy::disallowed_methods, reason = "this is the one clock of the control plane")]
pub fn unix_now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO))
}

/// The same as the model writes it.
pub fn timestamp_now() -> Timestamp {
    timestamp(unix_now())
}

pub fn timestamp(time: UnixTime) -> Timestamp {
    Timestamp::from_unix(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}
