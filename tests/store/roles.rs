//! The users that `deploy/etcd-roles` makes can do what they must, and no more (E3).

use std::path::Path;
use std::time::Duration;

use federation::clock;
use federation::store::backup::Backup;
use federation::store::familiarity::Found;
use federation::store::meta::{self, Owner, Unfit};
use federation::store::{
    CommitError, Etcd, Fault, Key, LeaseError, Prefix, Revision, Store, Transaction, WatchEnd, keys, list_all,
};
use tests::{EtcdShape, TestEtcd};
use tokio::time::timeout;

use Operation::{
    Backup as TakeBackup, Compare, Delete, DeleteAll, Get, Grant, List, Look, Put, PutLeased, Revoke, Watch,
};

/// Something that a user tries, below the prefix unless it begins with '/'.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Get(&'static str),
    List(&'static str),
    Watch(&'static str),
    /// Asks by a transaction without effect.
    Compare(&'static str),
    Put(&'static str),
    PutLeased(&'static str),
    Delete(&'static str),
    DeleteAll(&'static str),
    Grant,
    /// Ends a lease with a key of federation on it.
    Revoke,
    /// What `isthmus store status` must be able to do.
    Look,
    /// `isthmus store backup`.
    Backup,
}

/// Operation; may federation, backup and inspection do it?
const TABLE: &[(Operation, [bool; 3])] = &[
    (Look, [true, true, true]),
    (TakeBackup, [true, true, false]),
    (Get("peer/cloud"), [true, true, true]),
    (Get("join/0"), [true, true, false]),
    (Get("trust/epoch"), [true, true, true]),
    (List("peer/"), [true, true, true]),
    (List("trust/"), [true, true, true]),
    (List("join/"), [true, true, false]),
    (List(""), [true, true, false]),
    (Watch("peer/"), [true, true, true]),
    (Watch("join/"), [true, true, false]),
    (Watch(""), [true, true, false]),
    (Compare("peer/cloud"), [true, true, true]),
    (Compare("join/0"), [true, true, false]),
    (Grant, [true, true, true]),
    (Put("peer/cloud"), [true, false, false]),
    (Put("join/1"), [true, false, false]),
    (PutLeased("trust/ack/gw-0"), [true, false, false]),
    (Revoke, [true, false, false]),
    (Delete("peer/cloud"), [true, false, false]),
    (DeleteAll("import/"), [true, false, false]),
    (DeleteAll(""), [true, false, false]),
    // What is beside the prefix belongs to others.
    (Get("/isthmus/v10/x"), [false, false, false]),
    (List("/isthmus/v10/"), [false, false, false]),
    (List("/isthmus/"), [false, false, false]),
    (Watch("/isthmus/"), [false, false, false]),
    (Put("/isthmus/v10/x"), [false, false, false]),
    (DeleteAll("/isthmus/"), [false, false, false]),
];

const USERS: [&str; 3] = ["isthmus-federation", "isthmus-backup", "isthmus-inspection"];

fn owner() -> Owner {
    Owner { cluster: "onprem".try_into().unwrap(), trust_domain: "onprem.example.org".try_into().unwrap() }
}

/// An etcd with client certificates, roles made by the script, and something of everything in it.
async fn etcd_with_roles() -> TestEtcd {
    let etcd = TestEtcd::start_as(EtcdShape { tls: true, ..EtcdShape::default() }).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/etcd-roles");
    for _twice in 0..2 {
        let made = etcd.command_as("root", &script).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let root = etcd.open().await;
    meta::claim(&root, &owner()).await.unwrap();
    fill(&root).await;
    etcd
}

async fn fill(root: &Etcd) {
    for path in ["peer/cloud", "join/0", "trust/epoch", "import/cloud/sync"] {
        root.commit(Transaction::new().put(key(path), "x")).await.unwrap();
    }
}

fn key(path: &str) -> Key {
    Key::new(&format!("{}{path}", keys::ROOT)).unwrap()
}

/// A store on the part of etcd that a path is in, and the path as that store calls it.
async fn at(etcd: &TestEtcd, user: &str, path: &str) -> Result<(Etcd, String), Fault> {
    let mut config = etcd.config_of(user);
    let mut path = path.to_owned();
    if path.starts_with('/') {
        let end = path.rfind('/').unwrap() + 1;
        config.prefix = Prefix::new(&path[..end]).unwrap();
        path = path[end..].to_owned();
    }
    match Etcd::open(config).await {
        Ok(store) => Ok((store, path)),
        Err(federation::store::etcd::OpenError::Fault(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

async fn attempt(etcd: &TestEtcd, user: &str, operation: Operation) -> Result<(), Fault> {
    let named = match operation {
        Get(path) | List(path) | Watch(path) | Compare(path) | Put(path) | PutLeased(path) | Delete(path)
        | DeleteAll(path) => path,
        Grant | Revoke | Look | TakeBackup => "",
    };
    let (store, path) = at(etcd, user, named).await?;
    let prefix = || Prefix::new(&format!("{}{path}", keys::ROOT)).unwrap();
    let now = clock::unix_now();
    match operation {
        Get(_) => store.get(&key(&path)).await.map(drop),
        List(_) => list_all(&store, &prefix()).await.map(drop),
        Watch(_) => watch(&store, &prefix()).await,
        Compare(_) => committed(store.commit(Transaction::new().when_absent(key(&path))).await),
        Put(_) => committed(store.commit(Transaction::new().put(key(&path), "y")).await),
        PutLeased(_) => {
            let lease = store.grant(Duration::from_secs(60), now).await?;
            committed(store.commit(Transaction::new().put_leased(key(&path), "y", lease)).await)
        }
        Delete(_) => committed(store.commit(Transaction::new().delete(key(&path))).await),
        DeleteAll(_) => committed(store.commit(Transaction::new().delete_prefix(prefix())).await),
        Grant => store.grant(Duration::from_secs(60), now).await.map(drop),
        Revoke => revoke(etcd, &store).await,
        Look => {
            let meta = unfit(meta::read(&store).await)?;
            Found::look(&store, meta.as_ref()).await.map(drop)
        }
        TakeBackup => unfit(Backup::take(&store, &owner()).await).map(drop),
    }
}

async fn watch(store: &Etcd, prefix: &Prefix) -> Result<(), Fault> {
    let ended = |end| match end {
        WatchEnd::Fault(fault) => fault,
        WatchEnd::Compacted { .. } => panic!("nothing was compacted"),
    };
    let mut watch = store.watch(prefix, Revision(1)).await.map_err(ended)?;
    timeout(Duration::from_secs(60), watch.next()).await.unwrap().map(drop).map_err(ended)
}

async fn revoke(etcd: &TestEtcd, store: &Etcd) -> Result<(), Fault> {
    let root = etcd.open().await;
    let lease = root.grant(Duration::from_secs(60), clock::unix_now()).await.unwrap();
    root.commit(Transaction::new().put_leased(key("trust/ack/gw-1"), "x", lease)).await.unwrap();
    match store.revoke(lease).await {
        Ok(()) => Ok(()),
        Err(LeaseError::Fault(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

fn committed(outcome: Result<Revision, CommitError>) -> Result<(), Fault> {
    match outcome {
        Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
        Err(CommitError::Fault(fault)) => Err(fault),
        Err(other) => panic!("{other}"),
    }
}

fn unfit<T>(outcome: Result<T, Unfit>) -> Result<T, Fault> {
    outcome.map_err(|unfit| match unfit {
        Unfit::Fault(fault) => fault,
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn each_user_can_do_what_it_must_and_no_more() {
    let etcd = etcd_with_roles().await;
    let root = etcd.open().await;
    for (operation, allowed) in TABLE {
        for (user, allowed) in USERS.into_iter().zip(*allowed) {
            fill(&root).await;
            let outcome = attempt(&etcd, user, *operation).await;
            if allowed {
                assert_eq!(outcome, Ok(()), "{user}: {operation:?}");
            } else {
                assert!(matches!(outcome, Err(Fault::Denied(_))), "{user}: {operation:?}: {outcome:?}");
            }
            meta::claim(&root, &owner()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_certificate_without_a_role_opens_nothing() {
    let etcd = etcd_with_roles().await;
    for operation in [Get("peer/cloud"), Put("peer/cloud"), Look] {
        let outcome = attempt(&etcd, "somebody", operation).await;
        assert!(matches!(outcome, Err(Fault::Denied(_))), "{operation:?}: {outcome:?}");
    }
}
