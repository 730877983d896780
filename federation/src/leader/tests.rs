//! Two candidates on one store.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::clock;
use crate::store::embedded::ChangeLog;
use crate::store::keys::Place;
use crate::store::{CommitError, Embedded, Fault, Store, Transaction};

/// Longer than any of these tests: nothing here ends by the time that passes.
const TTL: Duration = Duration::from_secs(600);
/// What must happen has long happened by then.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    store: Arc<dyn Store>,
    _directory: TempDir,
}

/// A candidate and what it says.
struct Side {
    candidate: Candidate,
    told: watch::Sender<Leadership>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), ChangeLog::default(), clock::unix_now()).unwrap();
        Self { store: Arc::new(store), _directory: directory }
    }

    fn side(&self, name: &str) -> Side {
        let address = "127.0.0.1:15012".parse().unwrap();
        self.side_with(name, address, TTL)
    }

    fn side_with(&self, name: &str, address: GatewayAddress, ttl: Duration) -> Side {
        let name = name.try_into().unwrap();
        let candidate = Candidate::new(self.store.clone(), name, vec![address], ttl);
        Side { candidate, told: watch::channel(Leadership::default()).0 }
    }

    /// The time of all leases is over.
    async fn expire(&self) {
        let later = Duration::from_secs(clock::unix_now().as_secs()) + 2 * TTL;
        let ended = self.store.expire(UnixTime::since_unix_epoch(later)).await.unwrap();
        assert_eq!(ended.len(), 1);
    }
}

impl Side {
    async fn lead(&self) -> Lead {
        timeout(PATIENCE, self.candidate.campaign(&self.told)).await.expect("nobody else leads")
    }

    fn leads(&self) -> bool {
        self.told.borrow().is_leading()
    }

    async fn until_following(&self) -> Leader {
        let mut told = self.told.subscribe();
        let following = told.wait_for(|now| matches!(now, Leadership::Following { .. }));
        timeout(PATIENCE, following).await.unwrap().unwrap().leader().unwrap().clone()
    }
}

fn some_write() -> Transaction {
    Transaction::new().put(Place::TrustEpoch.key(), "1")
}

#[tokio::test]
async fn who_resigns_is_followed_at_once() {
    let world = World::new();
    let (a, b) = (world.side("a"), world.side("b"));
    let lead = a.lead().await;
    let ((), second) = tokio::join!(
        async {
            let leader = b.until_following().await;
            assert_eq!(leader, *lead.leader());
            assert_eq!(leader.addresses.len(), 1, "a follower can say where to go");
            a.candidate.resign(lead).await;
        },
        b.lead(),
    );
    assert!(b.leads());
    assert_eq!(second.leader().name.as_str(), "b");
}

#[tokio::test]
async fn a_leader_that_was_paused_cannot_write_and_learns_it() {
    let world = World::new();
    let (a, b) = (world.side("a"), world.side("b"));
    let mut paused = a.lead().await;
    let fenced = paused.fenced(world.store.clone());
    fenced.commit(some_write()).await.unwrap();
    world.expire().await;
    let _second = b.lead().await;
    let refused = fenced.commit(some_write()).await.unwrap_err();
    assert!(matches!(refused, CommitError::Fault(Fault::Unavailable(_))), "{refused}");
    let lost = timeout(PATIENCE, a.candidate.keep(&mut paused)).await.unwrap();
    assert_eq!(lost, Lost::Deposed);
}

#[tokio::test]
async fn nobody_leads_behind_a_lease_that_has_ended() {
    let world = World::new();
    let a = world.side("a");
    let lead = a.lead().await;
    world.expire().await;
    let refused = lead.fenced(world.store.clone()).commit(some_write()).await;
    assert!(refused.is_err(), "nobody leads, and the lead is over all the same");
    // It may well lead again, with another fence.
    let again = a.lead().await;
    again.fenced(world.store.clone()).commit(some_write()).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_has_ended_is_noticed_when_it_is_to_be_kept() {
    let world = World::new();
    // Renewed within the second, and long enough for any machine to do it.
    let a = world.side_with("a", "127.0.0.1:15012".parse().unwrap(), Duration::from_secs(3));
    let mut lead = a.lead().await;
    world.expire().await;
    let lost = timeout(PATIENCE, a.candidate.keep(&mut lead)).await.unwrap();
    assert!(matches!(lost, Lost::Expired | Lost::Unconfirmed(_)), "{lost}");
}

#[tokio::test]
async fn the_lead_that_a_process_lost_sight_of_is_its_own() {
    let world = World::new();
    let a = world.side("a");
    let before = a.lead().await;
    let after = a.lead().await;
    assert!(before.fenced(world.store.clone()).commit(some_write()).await.is_err());
    after.fenced(world.store.clone()).commit(some_write()).await.unwrap();
}
