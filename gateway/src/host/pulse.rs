//! Signs of life: beats where the work is done, felt by whoever decides whether to go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Often enough for the shortest `WatchdogSec=` that makes sense.
const BEAT: Duration = Duration::from_millis(500);

/// Grows for as long as the runtime that carries it does its work.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Beats until told to stop; belongs on the runtime that is watched.
    pub async fn beat(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_some() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a look at a process found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) beats: u64,
    pub(super) admin_answers: bool,
}

/// Who makes no progress between two looks; none means that all is well.
pub(super) fn stalled(before: Option<Look>, now: Look) -> Option<&'static str> {
    if before.is_some_and(|before| before.beats == now.beats) {
        Some("the data plane")
    } else if !now.admin_answers {
        Some("the admin API")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_progress_is_life() {
        let look = |beats, admin_answers| Look { beats, admin_answers };
        for (before, now, expected) in [
            (None, look(0, true), None),
            (Some(look(0, true)), look(1, true), None),
            (Some(look(1, true)), look(1, true), Some("the data plane")),
            (Some(look(1, true)), look(2, false), Some("the admin API")),
            (Some(look(1, false)), look(2, true), None),
        ] {
            assert_eq!(stalled(before, now), expected, "{before:?} {now:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_beats_until_told_to_stop() {
        let (pulse, stop) = (Pulse::default(), CancellationToken::new());
        let beating = pulse.clone().beat(stop.clone());
        let watching = async {
            tokio::time::sleep(BEAT * 3).await;
            stop.cancel();
        };
        tokio::join!(beating, watching);
        assert!(pulse.beats() >= 2, "{}", pulse.beats());
    }
}
