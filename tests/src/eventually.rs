//! Waiting for what is about to happen, and for no longer than a test may take.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Long enough for a loaded machine; nothing that works takes as long.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let (what, caller, mut holds) = (what.to_owned(), std::panic::Location::caller(), holds);
    async move {
        let waiting = async {
            while !holds() {
                sleep(PAUSE).await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{caller}: never came true: {what}");
    }
}

/// Waits for something that must end.
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let (what, caller) = (what.to_owned(), std::panic::Location::caller());
    async move {
        let Ok(done) = timeout(PATIENCE, future).await else { panic!("{caller}: never ended: {what}") };
        done
    }
}
