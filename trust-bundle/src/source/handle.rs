//! The SVID that a process shows right now; replaced while everything goes on (V31).

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::svid::X509Svid;

/// The live SVID of a process, shared by everything that shows it.
#[derive(Debug, Clone)]
pub struct SvidHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<X509Svid>,
    generation: watch::Sender<u64>,
}

impl SvidHandle {
    /// Begins with this SVID as generation 1.
    pub fn new(svid: X509Svid) -> Self {
        let current = ArcSwap::from_pointee(svid);
        Self { shared: Arc::new(Shared { current, generation: watch::Sender::new(1) }) }
    }

    /// The SVID to show in the next handshake.
    pub fn current(&self) -> Arc<X509Svid> {
        self.shared.current.load_full()
    }

    /// Shows another SVID from the next handshake on.
    pub fn replace(&self, svid: X509Svid) {
        // Within the modification, so that two writers cannot publish in one order and count in the other.
        self.shared.generation.send_modify(|generation| {
            self.shared.current.store(Arc::new(svid));
            *generation += 1;
        });
    }

    /// Grows with each replacement.
    pub fn generation(&self) -> u64 {
        *self.shared.generation.borrow()
    }

    /// Wakes with the new generation after each replacement.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::TestAuthority;

    #[test]
    fn replacement_is_seen_by_all_holders() {
        let root = TestAuthority::root("a");
        let handle = root.leaf("spiffe://a/x").handle();
        let (reader, mut changed) = (handle.clone(), handle.subscribe());
        let before = reader.current();
        assert_eq!((reader.generation(), changed.has_changed().unwrap()), (1, false));
        handle.replace(root.leaf("spiffe://a/x").svid());
        assert_eq!((reader.generation(), *changed.borrow_and_update()), (2, 2));
        assert_ne!(reader.current().chain(), before.chain());
    }
}
