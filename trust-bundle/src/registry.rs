//! Every live connection of the process: who is at its other end, and a way to end it.
//!
//! Removing trust must also end what was established under it (2.4, Q2), so whoever opens a connection
//! registers it here, and holds the entry for as long as the connection lives. Two ways to end one:
//! *drain* asks it to finish what it has, *cut* ends it now. The registry only says so; whoever owns
//! the connection does it. A connection that is opened while trust is being removed must look once more
//! after it has registered: see [`TrustSnapshot::vouches_for`](crate::TrustSnapshot::vouches_for).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::verify::PeerIdentity;

/// Shards of the table, so that accepting does not wait for a walk over all connections (Q6).
const SHARDS: usize = 16;

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The other end dialled us.
    Accepted,
    /// We dialled the other end.
    Dialled,
}

/// The live connections of a process.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    table: Arc<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last: AtomicU64,
    shards: [Mutex<HashMap<u64, Weak<Connection>>>; SHARDS],
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a connection; it stays listed until the last `Arc` of it is dropped.
    ///
    /// `owner` is the listener or link that it belongs to; no peer means that none was authenticated.
    pub fn open(&self, origin: Origin, owner: &str, peer: Option<PeerIdentity>) -> Arc<Connection> {
        let id = self.table.last.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Arc::new(Connection {
            id,
            origin,
            owner: owner.into(),
            peer,
            drain: watch::Sender::new(false),
            cut: CancellationToken::new(),
            table: Arc::downgrade(&self.table),
        });
        self.table.shard(id).lock().insert(id, Arc::downgrade(&connection));
        connection
    }

    /// Asks the matching connections to finish; says how many there were.
    pub fn drain(&self, matches: impl Fn(&Connection) -> bool) -> usize {
        self.for_each(matches, |connection| connection.drain())
    }

    /// Ends the matching connections at once; says how many there were.
    pub fn cut(&self, matches: impl Fn(&Connection) -> bool) -> usize {
        self.for_each(matches, |connection| connection.cut())
    }

    /// How many live connections match.
    pub fn count(&self, matches: impl Fn(&Connection) -> bool) -> usize {
        self.for_each(matches, |_| ())
    }

    /// All live connections, oldest first.
    pub fn list(&self) -> Vec<Arc<Connection>> {
        let mut all: Vec<_> = (0..SHARDS).flat_map(|shard| self.table.live(shard)).collect();
        all.sort_by_key(|connection| connection.id);
        all
    }

    fn for_each(&self, matches: impl Fn(&Connection) -> bool, act: impl Fn(&Connection)) -> usize {
        let live = (0..SHARDS).flat_map(|shard| self.table.live(shard));
        live.filter(|connection| matches(connection)).map(|connection| act(&connection)).count()
    }
}

impl Table {
    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Weak<Connection>>> {
        &self.shards[id as usize % SHARDS]
    }

    // A copy, because the drop of a last `Arc` takes the lock again.
    fn live(&self, shard: usize) -> Vec<Arc<Connection>> {
        self.shards[shard].lock().values().filter_map(Weak::upgrade).collect()
    }
}

/// One live connection.
pub struct Connection {
    id: u64,
    origin: Origin,
    owner: Box<str>,
    peer: Option<PeerIdentity>,
    drain: watch::Sender<bool>,
    cut: CancellationToken,
    table: Weak<Table>,
}

impl Connection {
    /// Its number, unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who opened it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The listener or link that it belongs to.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Who is at the other end, if that was proven.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    /// Turns true once, when this connection shall finish what it has and close.
    pub fn drained(&self) -> watch::Receiver<bool> {
        self.drain.subscribe()
    }

    /// Asks it to finish what it has and close.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Ends it now; whatever is in flight is lost.
    pub fn cut(&self) {
        self.cut.cancel();
        // Whoever only waits for a drain stops too.
        self.drain();
    }

    /// Whether it was ended by [`Self::cut`].
    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Fires when it is cut; select on it around all I/O of the connection.
    pub fn cut_token(&self) -> &CancellationToken {
        &self.cut
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.shard(self.id).lock().remove(&self.id);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} ({:?}, {}, ", self.id, self.origin, self.owner)?;
        match &self.peer {
            Some(peer) => write!(f, "{})", peer.id()),
            None => f.write_str("no peer)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestAuthority, handshake, id, now, td};
    use crate::verify::{
        ClientAuth, ExpectedPeer, PeerSide, TrustStore, authenticate, client_config, server_config,
    };

    /// Identities as a server in trust domain `a` sees them.
    struct Peers {
        trust: TrustStore,
        a: TestAuthority,
    }

    impl Peers {
        fn new() -> Self {
            let (trust, a) = (TrustStore::new(), TestAuthority::root("a"));
            trust.put(a.bundle("a", 1)).unwrap();
            Self { trust, a }
        }

        fn meet(&self, authority: &TestAuthority, uri: &str) -> PeerIdentity {
            let server = self.a.leaf("spiffe://a/gateway");
            let expected = ExpectedPeer::Exact(server.svid().id().clone());
            let client = client_config(&self.trust, &authority.leaf(uri).handle(), expected, &[]);
            let server = server_config(&self.trust, &server.handle(), ClientAuth::Required, &[]);
            let (_, server) = handshake(&client, &server).unwrap();
            authenticate(&self.trust, &server, PeerSide::Client, now()).unwrap()
        }
    }

    #[test]
    fn entry_lives_as_long_as_the_connection() {
        let registry = Registry::new();
        let one = registry.open(Origin::Accepted, "mesh", None);
        let two = registry.open(Origin::Dialled, "link cloud", None);
        assert_ne!(one.id(), two.id());
        assert_eq!(registry.count(|c| c.origin() == Origin::Dialled), 1);
        assert_eq!(registry.list().iter().map(|c| c.id()).collect::<Vec<_>>(), [one.id(), two.id()]);
        let again = one.clone();
        drop(one);
        assert_eq!(registry.count(|c| c.owner() == "mesh"), 1);
        drop(again);
        assert_eq!(registry.count(|_| true), 1);
        drop(two);
        assert!(registry.list().is_empty());
    }

    #[test]
    fn connection_outlives_its_registry() {
        let registry = Registry::new();
        let connection = registry.open(Origin::Accepted, "mesh", None);
        drop(registry);
        connection.cut();
        assert!(connection.is_cut());
    }

    #[test]
    fn drain_reaches_only_what_matches_and_is_no_cut() {
        let registry = Registry::new();
        let (mesh, link) =
            (registry.open(Origin::Accepted, "mesh", None), registry.open(Origin::Accepted, "link", None));
        let watching = mesh.drained();
        assert_eq!(registry.drain(|c| c.owner() == "mesh"), 1);
        assert!(*watching.borrow() && *mesh.drained().borrow());
        assert!(!*link.drained().borrow());
        assert!(!mesh.is_cut());
    }

    #[tokio::test]
    async fn cut_wakes_whoever_holds_the_token() {
        let registry = Registry::new();
        let connection = registry.open(Origin::Accepted, "mesh", None);
        let token = connection.cut_token().clone();
        let mut drained = connection.drained();
        assert_eq!(registry.cut(|_| true), 1);
        token.cancelled().await;
        drained.wait_for(|drained| *drained).await.unwrap();
        assert!(connection.is_cut());
        assert_eq!(registry.cut(|c| !c.is_cut()), 0);
    }

    #[test]
    fn removed_trust_cuts_the_connections_that_rested_on_it() {
        let peers = Peers::new();
        let (b, next_b) = (TestAuthority::root("b"), TestAuthority::root("b"));
        peers.trust.put(b.bundle("b", 1)).unwrap();
        let registry = Registry::new();
        let open = |peer| registry.open(Origin::Accepted, "east-west", peer);
        let ours = open(Some(peers.meet(&peers.a, "spiffe://a/workload")));
        let theirs = open(Some(peers.meet(&b, "spiffe://b/gateway")));
        let plain = open(None);
        let cut_unvouched = || {
            let snapshot = peers.trust.load();
            registry.cut(|c| c.peer().is_some_and(|peer| !snapshot.vouches_for(peer)))
        };
        assert_eq!(cut_unvouched(), 0);
        peers.trust.put(next_b.bundle("b", 2)).unwrap();
        assert_eq!(cut_unvouched(), 1);
        assert!(theirs.is_cut() && !ours.is_cut() && !plain.is_cut());
        let renewed = open(Some(peers.meet(&next_b, "spiffe://b/gateway")));
        peers.trust.remove(&td("b"));
        cut_unvouched();
        assert!(renewed.is_cut());
        assert_eq!(registry.count(|c| c.peer().is_some_and(|p| *p.id() == id("spiffe://b/gateway"))), 2);
        assert_eq!(
            format!("{ours:?}"),
            format!("connection {} (Accepted, east-west, spiffe://a/workload)", ours.id())
        );
    }

    #[test]
    fn connections_come_and_go_while_others_are_cut() {
        let registry = Registry::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        drop(registry.open(Origin::Accepted, "mesh", None));
                    }
                });
            }
            for _ in 0..50 {
                registry.cut(|_| true);
                registry.list();
            }
        });
        assert_eq!(registry.count(|_| true), 0);
    }
}
