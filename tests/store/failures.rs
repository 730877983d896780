//! What happens when the etcd, or a part of it, goes away, fills up, or is not the one that it was.

use std::sync::Arc;
use std::time::Duration;

use federation::clock;
use federation::config::EtcdConfig;
use federation::store::etcd::OpenError;
use federation::store::{
    Change, CommitError, Etcd, Fault, Key, LeaseError, Prefix, Revision, Store, Transaction, Watch, WatchEnd,
    keys, list_all,
};
use tests::{EtcdShape, TestEtcd};
use tokio::time::{sleep, timeout};

/// Nothing that works takes as long, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

fn key(path: &str) -> Key {
    Key::new(&format!("{}{path}", keys::ROOT)).unwrap()
}

async fn put(store: &Etcd, path: &str, value: &str) -> Result<Revision, CommitError> {
    store.commit(Transaction::new().put(key(path), value.to_owned())).await
}

/// Puts until it is done; a commit that failed may have happened, and putting again does no harm.
async fn put_at_last(store: &Etcd, path: &str, value: &str) -> Revision {
    let putting = async {
        loop {
            match put(store, path, value).await {
                Ok(revision) => return revision,
                Err(CommitError::Fault(Fault::Unavailable(_))) => sleep(PAUSE).await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    timeout(PATIENCE, putting).await.unwrap()
}

/// The next changes, as a reader gets them who watches again after a fault.
async fn told(watch: &mut Box<dyn Watch>) -> Vec<String> {
    let reading = async {
        loop {
            match watch.next().await {
                Ok(told) => return told.changes.iter().map(show).collect(),
                Err(WatchEnd::Fault(Fault::Unavailable(_))) => sleep(PAUSE).await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap()
}

fn show(change: &Change) -> String {
    match change {
        Change::Put(entry) => String::from_utf8_lossy(&entry.value).into_owned(),
        Change::Deleted { key, .. } => format!("-{key}"),
    }
}

#[tokio::test]
async fn commits_fail_clearly_while_etcd_is_down_and_work_again_after() {
    let mut etcd = TestEtcd::start().await;
    let store = etcd.open().await;
    let first = put(&store, "a", "before").await.unwrap();
    let mut watch = store.watch(&keys::everything(), first).await.unwrap();
    assert_eq!(told(&mut watch).await, ["before"]);

    etcd.kill(0);
    let refused = put(&store, "a", "meanwhile").await.unwrap_err();
    let CommitError::Fault(Fault::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains(&etcd.endpoints()[0]), "{why}");
    let read = store.get(&key("a")).await.unwrap_err();
    assert!(read.to_string().contains("Connection refused"), "{read}");
    assert!(matches!(watch.next().await, Err(WatchEnd::Fault(Fault::Unavailable(_)))));

    etcd.restart(0).await;
    let last = put_at_last(&store, "a", "after").await;
    assert!(last > first);
    let seen = told(&mut watch).await;
    assert_eq!(
        seen,
        ["after"],
        "the watch goes on where it was, and a commit that was refused did not happen"
    );
}

#[tokio::test]
async fn nothing_is_lost_or_torn_while_etcd_is_killed_again_and_again() {
    let mut etcd = TestEtcd::start().await;
    let store = Arc::new(etcd.open().await);
    let mut watch = store.watch(&keys::everything(), Revision(2)).await.unwrap();
    let writer = store.clone();
    let writing = async move {
        for n in 0..60 {
            put_at_last(&writer, "counter", &n.to_string()).await;
            sleep(PAUSE).await;
        }
    };
    let killing = async {
        for _ in 0..3 {
            sleep(Duration::from_millis(300)).await;
            etcd.kill(0);
            etcd.restart(0).await;
        }
    };
    let reading = async {
        let mut seen: Vec<String> = Vec::new();
        while seen.last().is_none_or(|last| last != "59") {
            seen.extend(told(&mut watch).await);
        }
        seen
    };
    let ((), (), mut seen) = tokio::join!(writing, killing, reading);
    // What was put again after a lost answer is there twice, one after the other.
    seen.dedup();
    assert_eq!(seen, (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_of_three_members_may_die() {
    let mut etcd = TestEtcd::start_as(EtcdShape { members: Some(3), ..EtcdShape::default() }).await;
    let store = etcd.open().await;
    let first = put_at_last(&store, "a", "0").await;
    let mut watch = store.watch(&keys::everything(), first.next()).await.unwrap();
    for member in 0..3 {
        etcd.kill(member);
        put_at_last(&store, "a", &format!("without {member}")).await;
        let mut seen = Vec::new();
        while seen.last() != Some(&format!("without {member}")) {
            seen.extend(told(&mut watch).await);
        }
        assert!(timeout(PATIENCE, store.get(&key("a"))).await.unwrap().is_ok());
        etcd.restart(member).await;
    }
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named_with_the_cause() {
    let endpoints = vec!["http://127.0.0.1:9".to_owned(), "http://127.0.0.2:9".to_owned()];
    let error = Etcd::open(EtcdConfig::at(endpoints)).await.unwrap_err().to_string();
    for part in ["http://127.0.0.1:9 (", "http://127.0.0.2:9 (", "Connection refused"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_full_etcd_still_reads_and_keeps_its_leases() {
    let arguments = vec!["--quota-backend-bytes".to_owned(), (2 << 20).to_string()];
    let etcd = TestEtcd::start_as(EtcdShape { arguments, ..EtcdShape::default() }).await;
    let store = etcd.open().await;
    let now = clock::unix_now();
    let lease = store.grant(Duration::from_secs(600), now).await.unwrap();
    store.commit(Transaction::new().put_leased(key("here"), "1", lease)).await.unwrap();
    let refused = loop {
        let large = Transaction::new().put(key("filler"), vec![7; 60_000]);
        if let Err(refused) = store.commit(large).await {
            break refused;
        }
    };
    assert!(matches!(refused, CommitError::Fault(Fault::NoSpace(_))), "{refused:?}");
    assert!(store.get(&key("here")).await.unwrap().is_some());
    assert_eq!(store.keep_alive(lease, now).await, Ok(()));
    assert!(matches!(store.grant(Duration::from_secs(5), now).await, Err(Fault::NoSpace(_))));
}

#[tokio::test]
async fn an_etcd_that_lost_its_disk_is_not_believed() {
    let mut etcd = TestEtcd::start().await;
    let store = etcd.open().await;
    for n in 0..5 {
        put(&store, "a", &n.to_string()).await.unwrap();
    }
    let mut watch = store.watch(&keys::everything(), Revision(2)).await.unwrap();
    told(&mut watch).await;
    etcd.kill(0);
    etcd.restart_empty(0).await;
    let found = timeout(PATIENCE, async {
        loop {
            match store.get(&key("a")).await {
                Err(Fault::Unavailable(_)) => sleep(PAUSE).await,
                other => return other,
            }
        }
    });
    assert!(matches!(found.await.unwrap(), Err(Fault::Suspicious(_))));
    assert!(matches!(list_all(&store, &keys::everything()).await, Err(Fault::Suspicious(_))));
    let end = timeout(PATIENCE, async {
        loop {
            match watch.next().await {
                Err(WatchEnd::Fault(Fault::Unavailable(_))) => sleep(PAUSE).await,
                other => return other,
            }
        }
    });
    assert!(matches!(end.await.unwrap(), Err(WatchEnd::Fault(Fault::Suspicious(_)))));
}

#[tokio::test]
async fn a_restart_gives_leases_their_whole_time_again() {
    let mut etcd = TestEtcd::start().await;
    let store = etcd.open().await;
    let lease = store.grant(Duration::from_secs(60), clock::unix_now()).await.unwrap();
    store.commit(Transaction::new().put_leased(key("a"), "1", lease)).await.unwrap();
    etcd.kill(0);
    etcd.restart(0).await;
    let kept = timeout(PATIENCE, async {
        loop {
            match store.keep_alive(lease, clock::unix_now()).await {
                Err(LeaseError::Fault(Fault::Unavailable(_))) => sleep(PAUSE).await,
                other => return other,
            }
        }
    });
    assert_eq!(kept.await.unwrap(), Ok(()));
    assert!(store.get(&key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn other_keys_of_the_same_etcd_are_not_ours() {
    let etcd = TestEtcd::start().await;
    let here = etcd.open().await;
    let mut config = etcd.config();
    config.prefix = Prefix::new("/sites/there/").unwrap();
    let there = Etcd::open(config).await.unwrap();
    put(&here, "a", "here").await.unwrap();
    put(&there, "a", "there").await.unwrap();
    for key in ["/isthmus/v1/no key of ours", "/isthmus/v10", "/isthmus/v1/a//b"] {
        etcd.etcdctl("root", &["put", key, "x"]);
    }
    for (store, value) in [(&here, "here"), (&there, "there")] {
        let listing = list_all(store, &keys::everything()).await.unwrap();
        assert_eq!(listing.entries.len(), 1, "{listing:?}");
        assert_eq!(listing.entries[0].value, value);
    }
    assert!(etcd.etcdctl("root", &["get", "/sites/there/a"]).contains("there"));
}

#[tokio::test]
async fn certificates_are_read_again_when_their_files_change() {
    let etcd = TestEtcd::start_as(EtcdShape { tls: true, ..EtcdShape::default() }).await;
    let mut config = etcd.config();
    let directory = tempfile::tempdir().unwrap();
    let tls = config.tls.as_mut().unwrap();
    let (good, ours) = (tls.client.clone().unwrap(), tls.client.as_mut().unwrap());
    (ours.cert, ours.key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let names = [(&good.cert, &ours.cert), (&good.key, &ours.key)];
    for (from, to) in names {
        std::fs::copy(from, to).unwrap();
    }
    let (cert, store) = (ours.cert.clone(), Etcd::open(config.clone()).await.unwrap());
    // What cannot be used is passed over, the old certificate stays.
    std::fs::write(&cert, "no certificate").unwrap();
    assert!(put(&store, "a", "1").await.is_ok());
    assert!(Etcd::open(config.clone()).await.is_err());
    std::fs::copy(&good.cert, &cert).unwrap();
    assert!(put(&store, "a", "2").await.is_ok());
    // Without any certificate, nobody gets in.
    config.tls.as_mut().unwrap().client = None;
    assert!(matches!(Etcd::open(config).await, Err(OpenError::Fault(Fault::Unavailable(_)))));
}
