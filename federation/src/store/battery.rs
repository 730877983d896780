//! What every store must do, written once (design.md, section 6, "Store").
//!
//! `store_battery!` makes one test of each claim; the caller says how to make a `Subject`. A subject's
//! clock may be real (etcd ends leases by itself) or passed in (the embedded store).

#![allow(clippy::unwrap_used, reason = "a claim that does not hold panics, also outside of cfg(test)")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::pki_types::UnixTime;

use super::{
    Change, CommitError, Entry, InvalidTransaction, Key, LeaseError, OPERATIONS_MAX, Prefix, Revision, Store,
    Transaction, VALUE_BYTES_MAX, Watch, WatchEnd, list_all,
};

/// An empty store under test, and what only its maker can do to it.
#[async_trait]
pub trait Subject: fmt::Debug + Send + Sync {
    fn store(&self) -> Arc<dyn Store>;

    fn now(&self) -> UnixTime;

    /// Lets time pass and leases end.
    async fn advance(&mut self, by: Duration);

    /// Makes the history up to a revision unavailable.
    async fn compact(&self, up_to: Revision);
}

/// Makes a test of each claim, given an async expression that makes a `Subject`.
#[macro_export]
macro_rules! store_battery {
    ($make:expr) => {
        $crate::store_battery!(@each $make;
            revisions_count_transactions, reads_see_commits, absent_keys_have_revision_zero,
            transactions_are_all_or_nothing, one_of_many_rivals_commits, a_prefix_goes_in_one_revision,
            nothing_done_takes_no_revision, bounds_are_refused_before_anything_changes,
            pages_show_one_revision, listings_are_ordered_and_within_their_prefix,
            watches_replay_then_follow, watches_tell_their_prefix_alone, watches_resume_where_they_ended,
            revisions_are_never_torn, compacted_history_is_refused, many_watches_see_the_same,
            leases_take_their_keys_along, kept_leases_live_on, revoked_leases_end_at_once,
            keys_leave_a_lease_when_put_without, unknown_leases_are_refused,
        );
    };
    (@each $make:expr; $($claim:ident),+ $(,)?) => {$(
        #[tokio::test]
        async fn $claim() {
            $crate::store::battery::$claim(&mut $make.await).await;
        }
    )+};
}

fn key(path: &str) -> Key {
    Key::new(&format!("/isthmus/v1/battery/{path}")).unwrap()
}

fn prefix(path: &str) -> Prefix {
    Prefix::new(&format!("/isthmus/v1/battery/{path}")).unwrap()
}

async fn put(store: &dyn Store, path: &str, value: &str) -> Revision {
    store.commit(Transaction::new().put(key(path), value.to_owned())).await.unwrap()
}

async fn value(store: &dyn Store, path: &str) -> Option<String> {
    let entry = store.get(&key(path)).await.unwrap();
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

/// Reads a watch until it told as many changes as expected.
async fn told(watch: &mut Box<dyn Watch>, count: usize) -> Vec<String> {
    let mut shown = Vec::new();
    while shown.len() < count {
        let changes = watch.next().await.unwrap();
        assert!(!changes.changes.is_empty());
        assert!(changes.changes.iter().all(|change| change.revision() <= changes.revision));
        shown.extend(changes.changes.iter().map(show));
    }
    shown
}

fn show(change: &Change) -> String {
    let name = change.key().as_str().rsplit('/').next().unwrap_or_default();
    match change {
        Change::Put(Entry { value, .. }) => format!("{name}={}", String::from_utf8_lossy(value)),
        Change::Deleted { .. } => format!("-{name}"),
    }
}

pub async fn revisions_count_transactions(subject: &mut impl Subject) {
    let store = subject.store();
    let first = put(&*store, "a", "1").await;
    let second = store.commit(Transaction::new().put(key("b"), "2").put(key("c"), "3")).await.unwrap();
    assert_eq!(second, first.next());
    for name in ["b", "c"] {
        assert_eq!(store.get(&key(name)).await.unwrap().unwrap().revision, second);
    }
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().revision, first);
}

pub async fn reads_see_commits(subject: &mut impl Subject) {
    let store = subject.store();
    assert_eq!(value(&*store, "a").await, None);
    for n in 0..20 {
        put(&*store, "a", &n.to_string()).await;
        assert_eq!(value(&*store, "a").await, Some(n.to_string()));
    }
    store.commit(Transaction::new().delete(key("a"))).await.unwrap();
    assert_eq!(value(&*store, "a").await, None);
}

pub async fn absent_keys_have_revision_zero(subject: &mut impl Subject) {
    let store = subject.store();
    let create = || Transaction::new().when_absent(key("a")).put(key("a"), "1");
    let created = store.commit(create()).await.unwrap();
    let conflict = CommitError::Conflict { key: key("a"), expected: Revision::ABSENT, found: created };
    assert_eq!(store.commit(create()).await, Err(conflict));
    store.commit(Transaction::new().when(key("a"), created).delete(key("a"))).await.unwrap();
    assert!(store.commit(create()).await.is_ok());
}

pub async fn transactions_are_all_or_nothing(subject: &mut impl Subject) {
    let store = subject.store();
    let a = put(&*store, "a", "1").await;
    let b = put(&*store, "b", "1").await;
    let wrong = Transaction::new().when(key("a"), a).when(key("b"), a).put(key("a"), "2").delete(key("b"));
    let conflict = CommitError::Conflict { key: key("b"), expected: a, found: b };
    assert_eq!(store.commit(wrong).await, Err(conflict));
    assert_eq!(value(&*store, "a").await.as_deref(), Some("1"));
    let right = Transaction::new().when(key("a"), a).when(key("b"), b).put(key("a"), "2").delete(key("b"));
    assert_eq!(store.commit(right).await, Ok(b.next()));
    assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));
    assert_eq!(value(&*store, "b").await, None);
}

pub async fn one_of_many_rivals_commits(subject: &mut impl Subject) {
    let store = subject.store();
    let rivals = (0..32).map(|n| {
        let store = store.clone();
        async move {
            let take = Transaction::new().when_absent(key("a")).put(key("a"), n.to_string());
            store.commit(take).await.is_ok().then_some(n.to_string())
        }
    });
    let winners: Vec<String> = futures::future::join_all(rivals).await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(value(&*store, "a").await.as_ref(), winners.first());
}

pub async fn a_prefix_goes_in_one_revision(subject: &mut impl Subject) {
    let store = subject.store();
    for n in 0..150 {
        put(&*store, &format!("p/a/{n}"), "x").await;
    }
    let before = put(&*store, "p/ab", "stays").await;
    let gone = Transaction::new().delete_prefix(prefix("p/a/")).put(key("q"), "1");
    assert_eq!(store.commit(gone).await, Ok(before.next()));
    let left = list_all(&*store, &prefix("")).await.unwrap();
    assert_eq!(left.entries.len(), 2);
    let mut watch = store.watch(&prefix("p/"), before.next()).await.unwrap();
    assert_eq!(told(&mut watch, 150).await.len(), 150);
}

pub async fn nothing_done_takes_no_revision(subject: &mut impl Subject) {
    let store = subject.store();
    let revision = put(&*store, "a", "1").await;
    for idle in [
        Transaction::new(),
        Transaction::new().when(key("a"), revision),
        Transaction::new().delete(key("absent")),
        Transaction::new().delete_prefix(prefix("absent/")),
    ] {
        assert_eq!(store.commit(idle).await, Ok(revision));
    }
    assert_eq!(put(&*store, "a", "1").await, revision.next(), "a put of the same value is a change");
}

pub async fn bounds_are_refused_before_anything_changes(subject: &mut impl Subject) {
    let store = subject.store();
    let revision = put(&*store, "a", "1").await;
    let many = (0..=OPERATIONS_MAX).fold(Transaction::new(), |txn, n| txn.put(key(&n.to_string()), "x"));
    let refused = InvalidTransaction::TooManyOperations(OPERATIONS_MAX + 1);
    assert_eq!(store.commit(many).await, Err(refused.into()));
    let large = Transaction::new().put(key("b"), vec![0; VALUE_BYTES_MAX + 1]);
    assert!(matches!(store.commit(large).await, Err(CommitError::Invalid(_))));
    let full = (0..OPERATIONS_MAX).fold(Transaction::new(), |txn, n| txn.put(key(&n.to_string()), "x"));
    assert_eq!(store.commit(full).await, Ok(revision.next()));
    let largest = Transaction::new().put(key("b"), vec![7; VALUE_BYTES_MAX]);
    store.commit(largest).await.unwrap();
    let stored = store.get(&key("b")).await.unwrap().unwrap();
    assert_eq!(stored.value, vec![7; VALUE_BYTES_MAX]);
}

pub async fn pages_show_one_revision(subject: &mut impl Subject) {
    let store = subject.store();
    for n in 10..35 {
        put(&*store, &n.to_string(), "before").await;
    }
    let mut pages = store.list(&prefix(""), 10).await.unwrap();
    let mut listed = pages.next().await.unwrap().unwrap();
    assert_eq!(listed.len(), 10);
    for n in 10..60 {
        put(&*store, &n.to_string(), "after").await;
    }
    store.commit(Transaction::new().delete(key("34"))).await.unwrap();
    while let Some(page) = pages.next().await.unwrap() {
        assert!(page.len() <= 10);
        listed.extend(page);
    }
    assert_eq!(listed.len(), 25);
    assert!(listed.iter().all(|entry| entry.value == "before" && entry.revision <= pages.revision()));

    // List, then watch from the next revision, is everything and nothing twice (E11).
    let mut watch = store.watch(&prefix(""), pages.revision().next()).await.unwrap();
    assert_eq!(told(&mut watch, 51).await.len(), 51);
}

pub async fn listings_are_ordered_and_within_their_prefix(subject: &mut impl Subject) {
    let store = subject.store();
    assert!(list_all(&*store, &prefix("p/")).await.unwrap().entries.is_empty());
    for name in ["p/b", "p/a", "q", "p/c/d", "pa", "p"] {
        put(&*store, name, name).await;
    }
    let listing = list_all(&*store, &prefix("p/")).await.unwrap();
    let values: Vec<_> = listing.entries.iter().map(|entry| &entry.value[..]).collect();
    assert_eq!(values, [&b"p/a"[..], b"p/b", b"p/c/d"]);
}

pub async fn watches_replay_then_follow(subject: &mut impl Subject) {
    let store = subject.store();
    put(&*store, "a", "0").await;
    let from = put(&*store, "a", "1").await;
    put(&*store, "b", "2").await;
    let mut watch = store.watch(&prefix(""), from).await.unwrap();
    assert_eq!(told(&mut watch, 2).await, ["a=1", "b=2"]);
    let (live, ()) = tokio::join!(told(&mut watch, 2), async {
        put(&*store, "c", "3").await;
        store.commit(Transaction::new().delete(key("a"))).await.unwrap();
    });
    assert_eq!(live, ["c=3", "-a"]);
}

pub async fn watches_tell_their_prefix_alone(subject: &mut impl Subject) {
    let store = subject.store();
    let from = put(&*store, "q/a", "0").await;
    let mut watch = store.watch(&prefix("p/"), from).await.unwrap();
    for n in 0..5 {
        put(&*store, "q/a", &n.to_string()).await;
        put(&*store, "p", &n.to_string()).await;
    }
    let last = put(&*store, "p/a", "x").await;
    let changes = watch.next().await.unwrap();
    assert_eq!(changes.changes.iter().map(show).collect::<Vec<_>>(), ["a=x"]);
    assert_eq!(changes.changes.first().map(Change::revision), Some(last));
}

pub async fn watches_resume_where_they_ended(subject: &mut impl Subject) {
    let store = subject.store();
    let first = put(&*store, "a", "0").await;
    for n in 1..50 {
        put(&*store, "a", &n.to_string()).await;
    }
    let mut from = first;
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let mut watch = store.watch(&prefix(""), from).await.unwrap();
        let changes = watch.next().await.unwrap();
        seen.extend(changes.changes.iter().map(show));
        from = changes.revision.next();
    }
    assert_eq!(seen, (0..50).map(|n| format!("a={n}")).collect::<Vec<_>>());
}

pub async fn revisions_are_never_torn(subject: &mut impl Subject) {
    let store = subject.store();
    let from = put(&*store, "0", "x").await;
    for round in 0..30 {
        let whole =
            (0..60).fold(Transaction::new(), |txn, n| txn.put(key(&n.to_string()), round.to_string()));
        store.commit(whole).await.unwrap();
    }
    let mut watch = store.watch(&prefix(""), from.next()).await.unwrap();
    let mut whole: BTreeMap<Revision, usize> = BTreeMap::new();
    while whole.len() < 30 {
        let changes = watch.next().await.unwrap().changes;
        let mut here: BTreeMap<Revision, usize> = BTreeMap::new();
        for change in &changes {
            *here.entry(change.revision()).or_default() += 1;
        }
        assert!(here.values().all(|count| *count == 60), "a revision came in parts");
        whole.extend(here);
    }
}

pub async fn compacted_history_is_refused(subject: &mut impl Subject) {
    let store = subject.store();
    let first = put(&*store, "a", "0").await;
    for n in 1..10 {
        put(&*store, "a", &n.to_string()).await;
    }
    let last = put(&*store, "b", "x").await;
    subject.compact(last).await;
    let refused = store.watch(&prefix(""), first).await;
    let end = match refused {
        Err(end) => end,
        Ok(mut watch) => watch.next().await.unwrap_err(),
    };
    assert!(matches!(end, WatchEnd::Compacted { oldest } if oldest > first), "{end:?}");
    // What is there now can be listed, and followed from there.
    let listing = list_all(&*store, &prefix("")).await.unwrap();
    assert_eq!(listing.entries.len(), 2);
    let mut watch = store.watch(&prefix(""), listing.revision.next()).await.unwrap();
    put(&*store, "c", "y").await;
    assert_eq!(told(&mut watch, 1).await, ["c=y"]);
}

pub async fn many_watches_see_the_same(subject: &mut impl Subject) {
    let store = subject.store();
    let from = put(&*store, "a", "0").await.next();
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(store.watch(&prefix(""), from).await.unwrap());
    }
    for n in 0..10 {
        put(&*store, "a", &n.to_string()).await;
    }
    let expected: Vec<_> = (0..10).map(|n| format!("a={n}")).collect();
    for watch in &mut watches {
        assert_eq!(told(watch, 10).await, expected);
    }
}

pub async fn leases_take_their_keys_along(subject: &mut impl Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_secs(2), subject.now()).await.unwrap();
    let both = Transaction::new().put_leased(key("a"), "1", lease).put_leased(key("b"), "2", lease);
    let from = store.commit(both.put(key("c"), "3")).await.unwrap().next();
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().lease, Some(lease));
    subject.advance(Duration::from_secs(4)).await;
    assert_eq!(value(&*store, "a").await, None);
    assert_eq!(value(&*store, "b").await, None);
    assert_eq!(value(&*store, "c").await.as_deref(), Some("3"));
    let mut watch = store.watch(&prefix(""), from).await.unwrap();
    let mut gone = told(&mut watch, 2).await;
    gone.sort();
    assert_eq!(gone, ["-a", "-b"]);
    assert_eq!(store.keep_alive(lease, subject.now()).await, Err(LeaseError::NoSuchLease(lease)));
}

pub async fn kept_leases_live_on(subject: &mut impl Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_secs(8), subject.now()).await.unwrap();
    store.commit(Transaction::new().put_leased(key("a"), "1", lease)).await.unwrap();
    for _ in 0..10 {
        subject.advance(Duration::from_secs(1)).await;
        store.keep_alive(lease, subject.now()).await.unwrap();
    }
    assert_eq!(value(&*store, "a").await.as_deref(), Some("1"));
}

pub async fn revoked_leases_end_at_once(subject: &mut impl Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_secs(60), subject.now()).await.unwrap();
    store.commit(Transaction::new().put_leased(key("a"), "1", lease)).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(value(&*store, "a").await, None);
    assert_eq!(store.revoke(lease).await, Err(LeaseError::NoSuchLease(lease)));
}

pub async fn keys_leave_a_lease_when_put_without(subject: &mut impl Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_secs(60), subject.now()).await.unwrap();
    let leased = Transaction::new().put_leased(key("a"), "1", lease).put_leased(key("b"), "1", lease);
    store.commit(leased).await.unwrap();
    put(&*store, "a", "2").await;
    store.revoke(lease).await.unwrap();
    assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));
    assert_eq!(value(&*store, "b").await, None);
}

pub async fn unknown_leases_are_refused(subject: &mut impl Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_secs(60), subject.now()).await.unwrap();
    store.revoke(lease).await.unwrap();
    let put = Transaction::new().put(key("a"), "1").put_leased(key("b"), "2", lease);
    assert_eq!(store.commit(put).await, Err(CommitError::NoSuchLease(lease)));
    assert_eq!(value(&*store, "a").await, None);
}
