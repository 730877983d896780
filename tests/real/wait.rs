//! Waiting for what must come true, for no longer than a test may take.

use std::time::Duration;

use anyhow::bail;

use crate::clock::{self, Micros};

const PAUSE: Duration = Duration::from_millis(50);

/// Repeats until it succeeds; if it never does, says what it said last.
pub(crate) fn until<T>(
    what: &str,
    time_max: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = clock::now() + time_max.as_micros() as Micros;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if clock::now() > deadline => {
                bail!("never came true within {time_max:?}: {what}: {error:#}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
