//! A process that finds another store than it knew, on a real etcd (E18).

use std::path::Path;
use std::sync::Arc;

use federation::clock;
use federation::config::{Config, Overrides};
use federation::store::backup::{Backup, Existing};
use federation::store::familiarity::{self, Found};
use federation::store::meta::{self, Owner, Unfit};
use federation::store::{Fault, Key, OpenError, Store, Transaction, connect, keys, open};
use tests::TestEtcd;

/// A cluster of this name, with its data in a directory.
fn config(etcd: &TestEtcd, cluster: &str, directory: &Path) -> Config {
    let settings = [
        format!("cluster={cluster}"),
        format!("data={}", directory.display()),
        format!("store.etcd.endpoints={}", etcd.endpoints().join(",")),
    ];
    Config::load(None, &Overrides::new([], &settings).unwrap()).unwrap()
}

async fn start(config: &Config) -> Result<Arc<dyn Store>, OpenError> {
    open(config, clock::unix_now()).await
}

async fn put(store: &dyn Store, value: &str) {
    let key = Key::new(&format!("{}applied/Service/shop/cart", keys::ROOT)).unwrap();
    store.commit(Transaction::new().put(key, value.to_owned())).await.unwrap();
}

/// What `isthmus store accept` does.
async fn accept(config: &Config) {
    let store = connect(config, clock::unix_now()).await.unwrap();
    let meta = meta::read(&*store).await.unwrap();
    let found = Found::look(&*store, meta.as_ref()).await.unwrap();
    familiarity::remember(&config.data, &found.known).unwrap();
}

fn is_suspicious(outcome: &Result<Arc<dyn Store>, OpenError>) -> bool {
    matches!(outcome, Err(OpenError::Unfit(Unfit::Fault(Fault::Suspicious(_)))))
}

#[tokio::test]
async fn a_store_that_was_set_back_is_not_used_until_it_is_accepted() {
    let (mut etcd, data) = (TestEtcd::start().await, tempfile::tempdir().unwrap());
    let config = config(&etcd, "onprem", data.path());
    put(&*start(&config).await.unwrap(), "early").await;
    etcd.kill(0);
    etcd.set_aside(0);
    etcd.restart(0).await;
    let store = start(&config).await.unwrap();
    for n in 0..10 {
        put(&*store, &n.to_string()).await;
    }
    drop(start(&config).await.unwrap());

    etcd.kill(0);
    etcd.put_back(0);
    etcd.restart(0).await;
    for _again in 0..2 {
        let refused = start(&config).await;
        assert!(is_suspicious(&refused), "{refused:?}");
    }
    accept(&config).await;
    put(&*start(&config).await.unwrap(), "again").await;

    etcd.kill(0);
    etcd.restart_empty(0).await;
    assert!(is_suspicious(&start(&config).await));
    let connected = connect(&config, clock::unix_now()).await.unwrap();
    assert_eq!(meta::read(&*connected).await, Ok(None), "nothing is written before it is accepted");
    accept(&config).await;
    assert!(start(&config).await.is_ok());
}

#[tokio::test]
async fn a_restored_backup_needs_no_confirmation() {
    let (mut etcd, data) = (TestEtcd::start().await, tempfile::tempdir().unwrap());
    let (config, owner) =
        (config(&etcd, "onprem", data.path()), Owner::of(&config(&etcd, "onprem", data.path())));
    let store = start(&config).await.unwrap();
    for n in 0..10 {
        put(&*store, &n.to_string()).await;
    }
    let file = Backup::take(&*store, &owner).await.unwrap().render().unwrap();
    drop(start(&config).await.unwrap());

    etcd.kill(0);
    etcd.restart_empty(0).await;
    assert!(is_suspicious(&start(&config).await));
    let connected = connect(&config, clock::unix_now()).await.unwrap();
    let backup = Backup::parse(&file).unwrap();
    backup.restore(&*connected, &owner, Existing::Refuse).await.unwrap();
    let restored = start(&config).await.unwrap();
    assert_eq!(Backup::take(&*restored, &owner).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn two_clusters_do_not_share_one_prefix() {
    let (etcd, data) = (TestEtcd::start().await, tempfile::tempdir().unwrap());
    drop(start(&config(&etcd, "onprem", &data.path().join("a"))).await.unwrap());
    let refused = start(&config(&etcd, "cloud", &data.path().join("b"))).await.unwrap_err();
    assert!(matches!(refused, OpenError::Unfit(Unfit::OtherCluster { .. })), "{refused}");
}
