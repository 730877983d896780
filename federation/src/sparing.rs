//! Which of many like log lines are written: a stranger who knocks a thousand times shall fill no disk.
//!
//! The first few of a kind pass in each window; the first of a later window says how many were kept back
//! meanwhile. Counters still count each of them. Keys are words of ours and never of the stranger, since
//! each is remembered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Lines of one kind in one window.
const LINES_MAX: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);

/// What was written lately, by kind.
#[derive(Debug, Clone)]
pub struct Sparing<K> {
    told: BTreeMap<K, Told>,
}

#[derive(Debug, Clone)]
struct Told {
    since: Instant,
    lines: u32,
    kept_back: u64,
}

impl<K: Ord> Sparing<K> {
    pub const fn new() -> Self {
        Self { told: BTreeMap::new() }
    }

    /// Says whether to write a line, and then how many like it were not written before.
    pub fn admits(&mut self, kind: K, now: Instant) -> Option<u64> {
        let told = self.told.entry(kind).or_insert(Told { since: now, lines: 0, kept_back: 0 });
        if now.saturating_duration_since(told.since) >= WINDOW {
            (told.since, told.lines) = (now, 0);
        }
        if told.lines == LINES_MAX {
            told.kept_back = told.kept_back.saturating_add(1);
            return None;
        }
        told.lines += 1;
        Some(std::mem::take(&mut told.kept_back))
    }
}

impl<K: Ord> Default for Sparing<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the start of a test's time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_flood_is_three_lines_a_window_and_what_was_kept_back_is_said() {
        let (mut sparing, start) = (Sparing::new(), start());
        let mut said = Vec::new();
        for millisecond in 0..30_000 {
            said.extend(sparing.admits("slow", start + Duration::from_millis(millisecond)));
        }
        assert_eq!(said, [0, 0, 0, 9_997, 0, 0, 9_997, 0, 0]);
        assert_eq!(sparing.admits("slow", start + Duration::from_secs(60)), Some(9_997), "none is forgotten");
    }

    #[test]
    fn one_kind_does_not_silence_another() {
        let (mut sparing, now) = (Sparing::new(), start());
        assert_eq!((0..100).filter_map(|_| sparing.admits("one", now)).count(), LINES_MAX as usize);
        assert_eq!(sparing.admits("other", now), Some(0));
    }
}
