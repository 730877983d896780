//! What the gateways of this cluster say, put together: which of them live, what they reach.
//!
//! A path to a peer is up if any live gateway says so: gateways stand in different places, and traffic
//! goes through those that can. What a gateway said is forgotten some time after its stream has ended,
//! so that a federation process that restarts a stream does not lose a working path for it. In one
//! process there is one gateway, and it is never gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::state::Position;
use super::{Path, ReplicaName, Report, Unbound};
use crate::clock;
use crate::model::{ClusterName, GatewayAddress, Timestamp};
use crate::snapshot::Generation;

/// How long what a gateway said is believed without its stream: it needs some seconds to come back.
pub const GATEWAY_GRACE: Duration = Duration::from_secs(10);
/// A gateway that is restarted is back by then, a drain of the old one included: it counts all the time.
const RESTART_TIME_MAX: Duration = Duration::from_secs(60);
/// Gateways of one cluster; more are not let in.
const GATEWAYS_MAX: usize = 1024;
/// Peers that one gateway can speak of; what it says of more is not kept.
const PATHS_MAX: usize = 4096;

/// One handle on all gateways; cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateways {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    known: Mutex<Known>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    gateways: BTreeMap<ReplicaName, Gateway>,
    /// What the leader has for all of them.
    newest: Position,
    /// The newest generation that any gateway was found to hold.
    seen: Generation,
    last: u64,
}

/// A gateway as an operator sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    pub replica: ReplicaName,
    pub addresses: Vec<GatewayAddress>,
    /// None once its stream has ended.
    pub connected_since: Option<Timestamp>,
    /// What it holds.
    pub held: Position,
    /// The generation with which it serves requests.
    pub serving: Generation,
    /// It does not serve from the newest state yet.
    pub behind: bool,
}

#[derive(Debug)]
struct Gateway {
    status: GatewayStatus,
    /// Tells the streams of one gateway apart: a new one may come before the old one has ended.
    stream: u64,
    gone_at: Option<Instant>,
    paths: BTreeMap<ClusterName, Path>,
    unbound: Vec<Unbound>,
}

/// A gateway's stream; the gateway is gone when it is dropped, unless it has another one.
#[derive(Debug)]
pub struct Attached {
    gateways: Gateways,
    replica: ReplicaName,
    stream: u64,
}

impl Default for Gateways {
    fn default() -> Self {
        let (changed, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { known: Mutex::default(), changed }) }
    }
}

impl Gateways {
    /// Takes a gateway in; none if there are too many.
    pub fn attach(
        &self,
        replica: ReplicaName,
        addresses: Vec<GatewayAddress>,
        held: Position,
    ) -> Option<Attached> {
        let stream = {
            let mut known = self.shared.known.lock();
            known.forget(instant());
            if known.gateways.len() >= GATEWAYS_MAX && !known.gateways.contains_key(&replica) {
                return None;
            }
            known.last += 1;
            let stream = known.last;
            known.seen = known.seen.max(held.generation);
            let status = GatewayStatus {
                replica: replica.clone(),
                addresses,
                connected_since: Some(clock::timestamp_now()),
                held,
                serving: Generation::default(),
                behind: true,
            };
            let former = known.gateways.remove(&replica);
            let (paths, unbound) = former.map(|former| (former.paths, former.unbound)).unwrap_or_default();
            let gateway = Gateway { status, stream, gone_at: None, paths, unbound };
            known.gateways.insert(replica.clone(), gateway);
            stream
        };
        self.wake();
        Some(Attached { gateways: self.clone(), replica, stream })
    }

    /// What the leader has for its gateways.
    pub fn publish(&self, newest: Position) {
        self.shared.known.lock().newest = newest;
    }

    /// The newest generation that a gateway came with: a leader whose own are older leads in vain.
    pub fn seen(&self) -> Generation {
        self.shared.known.lock().seen
    }

    /// Wakes when something was said, or a gateway came or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    pub fn list(&self) -> Vec<GatewayStatus> {
        let mut known = self.shared.known.lock();
        known.forget(instant());
        let newest = known.newest;
        let status = |gateway: &Gateway| {
            let status = gateway.status.clone();
            let behind = status.serving < newest.generation || status.held.digest != newest.digest;
            GatewayStatus { behind, ..status }
        };
        known.gateways.values().map(status).collect()
    }

    /// What is known of the path to each peer of which any gateway has spoken.
    pub fn paths(&self) -> BTreeMap<ClusterName, Path> {
        let mut known = self.shared.known.lock();
        known.forget(instant());
        let mut paths: BTreeMap<ClusterName, Path> = BTreeMap::new();
        for (peer, path) in known.gateways.values().flat_map(|gateway| &gateway.paths) {
            let better = paths.get(peer).is_none_or(|held| is_better(path, held));
            if better {
                paths.insert(peer.clone(), *path);
            }
        }
        paths
    }

    /// Sockets that gateways wanted and could not have.
    pub fn unbound(&self) -> Vec<(ReplicaName, Unbound)> {
        let mut known = self.shared.known.lock();
        known.forget(instant());
        let of = |gateway: &Gateway| {
            let replica = gateway.status.replica.clone();
            gateway.unbound.clone().into_iter().map(move |unbound| (replica.clone(), unbound))
        };
        known.gateways.values().flat_map(of).collect()
    }

    /// Tells `tell` of every path that is different from what it was told before; a path of which no
    /// gateway speaks any more is none. Goes on until it is dropped.
    pub async fn follow_paths(&self, tell: impl AsyncFn(ClusterName, Option<Path>)) {
        let mut told: BTreeMap<ClusterName, Path> = BTreeMap::new();
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let paths = self.paths();
            let gone: BTreeSet<_> = told.keys().filter(|peer| !paths.contains_key(*peer)).cloned().collect();
            for peer in gone {
                tell(peer, None).await;
            }
            for (peer, path) in &paths {
                if told.get(peer) != Some(path) {
                    tell(peer.clone(), Some(*path)).await;
                }
            }
            told = paths;
            // A grace that ends is no change that anybody makes.
            let _in_any_case = tokio::time::timeout(GATEWAY_GRACE / 4, changes.changed()).await;
        }
    }

    /// Follows how many gateways serve, from now on.
    pub fn count(&self) -> Count {
        Count { changes: self.changes(), gateways: self.clone(), told: None, fewer_since: None }
    }

    fn connected(&self) -> u32 {
        let known = self.shared.known.lock();
        let all = known.gateways.values();
        all.filter(|gateway| gateway.status.connected_since.is_some()).count() as u32
    }

    fn wake(&self) {
        self.shared.changed.send_modify(|changes| *changes += 1);
    }
}

impl Attached {
    pub fn replica(&self) -> &ReplicaName {
        &self.replica
    }

    pub fn report(&self, report: Report) {
        self.change(|gateway| match report {
            Report::Path { peer, path } => {
                if gateway.paths.len() < PATHS_MAX || gateway.paths.contains_key(&peer) {
                    gateway.paths.insert(peer, path);
                }
            }
            Report::Applied { generation } => gateway.status.serving = generation,
            Report::Unbound(sockets) => gateway.unbound = sockets,
        });
    }

    /// What the gateway has taken in, and what it serves with.
    pub fn applied(&self, held: Position, serving: Generation) {
        self.change(|gateway| {
            gateway.status.held = held;
            gateway.status.serving = serving;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Gateway)) {
        let mut known = self.gateways.shared.known.lock();
        let current = known.gateways.get_mut(&self.replica).filter(|gateway| gateway.stream == self.stream);
        let Some(gateway) = current else { return };
        change(gateway);
        let held = gateway.status.held.generation;
        known.seen = known.seen.max(held);
        drop(known);
        self.gateways.wake();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.change(|gateway| {
            gateway.gone_at = Some(instant());
            gateway.status.connected_since = None;
        });
    }
}

/// The number of gateways that serve, as it is told to peers.
#[derive(Debug)]
pub struct Count {
    gateways: Gateways,
    changes: watch::Receiver<u64>,
    told: Option<u32>,
    fewer_since: Option<Instant>,
}

impl Count {
    /// Another number than before: more at once, fewer when none of those that are missing can be in a
    /// restart any more. Who leads before its gateways have found it waits for them first: peers would
    /// give up links for a number that is wrong for some seconds.
    pub async fn next(&mut self) -> u32 {
        if self.told.is_none() && self.gateways.connected() == 0 {
            tokio::time::sleep(GATEWAY_GRACE).await;
        }
        loop {
            self.changes.borrow_and_update();
            let (now, count) = (instant(), self.gateways.connected());
            let is_over = |since: Instant| now.saturating_duration_since(since) >= RESTART_TIME_MAX;
            let fewer = self.told.is_some_and(|told| count < told);
            self.fewer_since = if fewer { self.fewer_since.or(Some(now)) } else { None };
            if self.told.is_none_or(|told| count > told) || self.fewer_since.is_some_and(is_over) {
                (self.told, self.fewer_since) = (Some(count), None);
                return count;
            }
            let _in_any_case = tokio::time::timeout(GATEWAY_GRACE / 4, self.changes.changed()).await;
        }
    }
}

impl Known {
    fn forget(&mut self, now: Instant) {
        let over = |gone: Instant| now.saturating_duration_since(gone) >= GATEWAY_GRACE;
        self.gateways.retain(|_, gateway| !gateway.gone_at.is_some_and(over));
    }
}

/// Up is better than down, and nearer than farther.
fn is_better(path: &Path, held: &Path) -> bool {
    match (path, held) {
        (Path::Up { round_trip: new }, Path::Up { round_trip: old }) => new < old,
        (Path::Up { .. }, Path::Down) => true,
        (Path::Down, _) => false,
    }
}

#[expect(clippy::disallowed_methods, reason = "the rim: when a stream ended is asked nowhere else")]
fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(gateways: &Gateways, replica: &str) -> Attached {
        gateways.attach(replica.try_into().unwrap(), Vec::new(), Position::default()).unwrap()
    }

    fn say(gateway: &Attached, path: Path) {
        gateway.report(Report::Path { peer: "cloud".try_into().unwrap(), path });
    }

    fn up(millis: u64) -> Path {
        Path::Up { round_trip: Duration::from_millis(millis) }
    }

    fn path(gateways: &Gateways) -> Option<Path> {
        gateways.paths().values().next().copied()
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_is_up_if_any_live_gateway_says_so() {
        let gateways = Gateways::default();
        let (a, b) = (attach(&gateways, "a"), attach(&gateways, "b"));
        assert_eq!(path(&gateways), None);
        say(&a, Path::Down);
        assert_eq!(path(&gateways), Some(Path::Down));
        say(&b, up(7));
        assert_eq!(path(&gateways), Some(up(7)));
        say(&a, up(3));
        assert_eq!(path(&gateways), Some(up(3)));
        drop(a);
        assert_eq!(path(&gateways), Some(up(3)), "its stream may come back");
        tokio::time::advance(GATEWAY_GRACE).await;
        assert_eq!(path(&gateways), Some(up(7)));
        say(&b, Path::Down);
        assert_eq!(path(&gateways), Some(Path::Down));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_comes_back_is_the_same_one() {
        let gateways = Gateways::default();
        let first = attach(&gateways, "a");
        say(&first, up(1));
        let second = attach(&gateways, "a");
        drop(first);
        tokio::time::advance(2 * GATEWAY_GRACE).await;
        assert_eq!(path(&gateways), Some(up(1)), "what the old stream's end says no longer counts");
        assert_eq!(gateways.list().len(), 1);
        assert!(gateways.list()[0].connected_since.is_some());
        drop(second);
        assert!(gateways.list()[0].connected_since.is_none());
        tokio::time::advance(GATEWAY_GRACE).await;
        assert_eq!((gateways.list().len(), path(&gateways)), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn who_serves_from_an_older_state_is_behind() {
        let gateways = Gateways::default();
        let gateway = attach(&gateways, "a");
        let newest = Position { generation: Generation(7), digest: super::super::state::Digest([7; 32]) };
        gateways.publish(newest);
        assert!(gateways.list()[0].behind);
        gateway.applied(newest, Generation(6));
        assert!(gateways.list()[0].behind);
        gateway.report(Report::Applied { generation: Generation(7) });
        assert!(!gateways.list()[0].behind);
        assert_eq!(gateways.seen(), Generation(7));
    }

    #[tokio::test(start_paused = true)]
    async fn followers_are_told_of_paths_that_changed() {
        let gateways = Gateways::default();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let following = gateways.follow_paths(async |peer, path| drop(told.send((peer.to_string(), path))));
        let saying = async {
            let gateway = attach(&gateways, "a");
            say(&gateway, up(1));
            assert_eq!(heard.recv().await.unwrap(), ("cloud".to_owned(), Some(up(1))));
            say(&gateway, Path::Down);
            assert_eq!(heard.recv().await.unwrap(), ("cloud".to_owned(), Some(Path::Down)));
            drop(gateway);
            assert_eq!(heard.recv().await.unwrap(), ("cloud".to_owned(), None));
        };
        tokio::select! {
            () = following => {}
            () = saying => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_or_a_new_leader_does_not_change_the_number_of_gateways() {
        let gateways = Gateways::default();
        let mut count = gateways.count();
        let counting = tokio_util::task::TaskTracker::new().spawn(async move { (count.next().await, count) });
        tokio::time::sleep(GATEWAY_GRACE / 2).await;
        let (_a, b) = (attach(&gateways, "a"), attach(&gateways, "b"));
        let (told, mut count) = counting.await.unwrap();
        assert_eq!(told, 2, "they find the new leader one after the other");
        drop(b);
        let silent = tokio::time::timeout(RESTART_TIME_MAX / 2, count.next());
        silent.await.expect_err("the gateway is in a restart");
        let (b, c) = (attach(&gateways, "b-again"), attach(&gateways, "c"));
        assert_eq!(count.next().await, 3);
        drop((b, c));
        assert_eq!(count.next().await, 1);
    }

    #[tokio::test]
    async fn the_number_of_gateways_is_bounded() {
        let gateways = Gateways::default();
        let all: Vec<_> = (0..GATEWAYS_MAX).map(|n| attach(&gateways, &format!("g{n}"))).collect();
        assert!(gateways.attach("one-more".try_into().unwrap(), Vec::new(), Position::default()).is_none());
        assert!(gateways.attach("g7".try_into().unwrap(), Vec::new(), Position::default()).is_some());
        drop(all);
    }
}
