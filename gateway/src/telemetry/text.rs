//! Text for logs: bounded, and times as RFC 3339.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

/// At most `bytes_max` of a stranger's text, cut between characters (T22).
pub(super) fn bounded(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A time in UTC with milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rfc3339(pub(super) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Years beyond 9999 do not come from a clock.
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let time =
            i64::try_from(since.as_secs()).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, milliseconds) = (time.date(), since.subsec_millis());
        write!(f, "{:04}-{:02}-{:02}T", date.year(), u8::from(date.month()), date.day())?;
        write!(f, "{:02}:{:02}:{:02}.{milliseconds:03}Z", time.hour(), time.minute(), time.second())
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Anything that shows itself, as a string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<T>(pub(super) T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        let at = |seconds, millis: u32| SystemTime::UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000);
        assert_eq!(Rfc3339(at(0, 0)).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Rfc3339(at(1_709_210_096, 7)).to_string(), "2024-02-29T12:34:56.007Z");
        assert_eq!(Rfc3339(at(u64::MAX / 4, 0)).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn text_is_cut_between_characters() {
        for (text, bytes_max, expected) in [("abc", 5, "abc"), ("abc", 2, "ab"), ("aä", 2, "a"), ("", 0, "")]
        {
            assert_eq!(bounded(text, bytes_max), expected);
        }
    }
}
