//! The task that follows the directory: wake, wait for quiet, read, tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Problems;
use super::documents::Documents;
use super::scan::Scanner;
use crate::catalog::Event;
use crate::clock;

/// A change is seen this late if the file system does not tell of it.
const POLL_PAUSE: Duration = Duration::from_secs(2);
/// Writers are given this long to finish.
const QUIET_TIME: Duration = Duration::from_millis(100);
/// A directory that is never quiet is read after this long.
const QUIET_ROUNDS_MAX: usize = 5;
/// Until what seems to be gone is looked for again.
const SETTLE_PAUSE: Duration = Duration::from_millis(300);

/// Tells the catalog what a directory holds.
#[derive(Debug)]
pub struct DirectorySource {
    root: PathBuf,
    scanner: Scanner,
    documents: Documents,
    problems: watch::Sender<Problems>,
}

impl DirectorySource {
    pub fn build(root: PathBuf) -> Self {
        let (problems, _) = watch::channel(Problems::default());
        Self { scanner: Scanner::new(root.clone()), root, documents: Documents::default(), problems }
    }

    pub fn problems(&self) -> watch::Receiver<Problems> {
        self.problems.subscribe()
    }

    /// Works until told to stop; drops `loading` once the first pass has been told.
    pub async fn run(self, events: mpsc::Sender<Event>, loading: impl Send, shutdown: CancellationToken) {
        shutdown.run_until_cancelled_owned(self.follow(events, loading)).await;
    }

    async fn follow(mut self, events: mpsc::Sender<Event>, loading: impl Send) {
        let woken = Arc::new(Notify::new());
        let mut watcher = None;
        let mut loading = Some(loading);
        loop {
            if watcher.is_none() {
                watcher = watch_directory(&self.root, Arc::clone(&woken));
            }
            let Some(settled) = self.pass(&events).await else { return };
            drop(loading.take());
            let pause = if settled { POLL_PAUSE } else { SETTLE_PAUSE };
            if timeout(pause, woken.notified()).await.is_ok() {
                wait_for_quiet(&woken).await;
            }
        }
    }

    /// Reads and tells; whether nothing has to be looked at again, or none if nobody listens.
    async fn pass(&mut self, events: &mpsc::Sender<Event>) -> Option<bool> {
        let mut scanner = std::mem::take(&mut self.scanner);
        let (scanner, scan) = tokio::task::spawn_blocking(move || {
            let scan = scanner.scan();
            (scanner, scan)
        })
        .await
        .ok()?;
        self.scanner = scanner;
        for event in self.documents.take_in(scan, clock::timestamp_now()) {
            events.send(event).await.ok()?;
        }
        self.publish_problems();
        Some(self.documents.is_settled())
    }

    fn publish_problems(&self) {
        let now: Problems = self.documents.problems().into();
        self.problems.send_if_modified(|held| {
            for problem in now.iter().filter(|problem| !held.contains(problem)) {
                warn!(file = %problem.file, line = problem.line, field = problem.field, "{}", problem.message);
            }
            let changed = *held != now;
            *held = now;
            changed
        });
    }
}

/// Waits until nothing has happened for a moment.
async fn wait_for_quiet(woken: &Notify) {
    for _round in 0..QUIET_ROUNDS_MAX {
        sleep(QUIET_TIME).await;
        // A permit that is already there is taken at once.
        if timeout(Duration::ZERO, woken.notified()).await.is_err() {
            return;
        }
    }
}

/// Without a watch the pause between two passes is all that delays a change.
fn watch_directory(root: &Path, woken: Arc<Notify>) -> Option<RecommendedWatcher> {
    let wake = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| changes_something(event.kind)) {
            woken.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(wake).ok()?;
    watcher.watch(root, RecursiveMode::Recursive).ok()?;
    Some(watcher)
}

/// Our own reading must not wake us.
fn changes_something(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
