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
