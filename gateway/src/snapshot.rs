//! The one door from control plane to data plane.
//!
//! A request loads the current view once and uses it to its end, whatever is published meanwhile. There is
//! one writer; readers take no lock. A generation that is not newer than the current one is not published.

use std::sync::Arc;

use arc_swap::ArcSwap;
use federation::snapshot::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::router::Router;

/// A snapshot with what was compiled from it.
#[derive(Debug)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub router: Router,
}

/// The view that new requests get.
#[derive(Debug)]
pub struct CurrentView {
    current: ArcSwap<View>,
    published: watch::Sender<Arc<View>>,
}

impl View {
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { router: Router::compile(snapshot.clone()), snapshot }
    }

    fn succeed(&self, snapshot: Arc<Snapshot>) -> Self {
        Self { router: self.router.succeed(snapshot.clone()), snapshot }
    }
}

impl CurrentView {
    pub fn new(first: Arc<Snapshot>) -> Arc<Self> {
        let first = Arc::new(View::new(first));
        Arc::new(Self { current: ArcSwap::new(first.clone()), published: watch::Sender::new(first) })
    }

    /// The view for one request or connection.
    pub fn load(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// For what follows changes: listeners, links, the balancer's housekeeping.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.published.subscribe()
    }

    /// Makes a newer snapshot current; what subscribers see is what requests get already.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Option<Arc<View>> {
        let current = self.load();
        if snapshot.generation <= current.snapshot.generation {
            return None;
        }
        let view = Arc::new(current.succeed(snapshot));
        self.current.store(view.clone());
        self.published.send_replace(view.clone());
        Some(view)
    }

    /// Publishes what the control plane sends until it ends or `shutdown`; `applied` runs after each.
    pub async fn follow(
        &self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: CancellationToken,
        mut applied: impl FnMut(&Arc<View>),
    ) {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(view) = self.publish(snapshot) {
                applied(&view);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use federation::snapshot::Generation;

    use super::*;
    use crate::testing::snapshot;

    #[tokio::test]
    async fn requests_see_what_the_control_plane_sent_last() {
        let at = |generation| {
            let mut snapshot = snapshot().build();
            snapshot.generation = Generation(generation);
            Arc::new(snapshot)
        };
        let (sender, receiver) = watch::channel(at(2));
        let views = CurrentView::new(at(1));
        let old = views.load();
        let shutdown = CancellationToken::new();
        let mut seen = Vec::new();
        let follow = views.follow(receiver, shutdown.clone(), |view| {
            seen.push(view.snapshot.generation.0);
            match view.snapshot.generation.0 {
                2 => _ = sender.send(at(5)),
                _ => shutdown.cancel(),
            }
        });
        follow.await;
        assert_eq!(seen, [2, 5]);
        assert_eq!(views.load().snapshot.generation, Generation(5));
        assert_eq!(old.snapshot.generation, Generation(1), "a request keeps its view");
        assert!(views.publish(at(4)).is_none(), "generations only grow");
        assert_eq!(views.subscribe().borrow().snapshot.generation, Generation(5));
    }
}
