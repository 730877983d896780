//! The claims of every store, on a real etcd.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;
use federation::clock;
use federation::store::battery::Subject;
use federation::store::{Etcd, Revision, Store};
use rustls::pki_types::UnixTime;
use tests::TestEtcd;
use tokio::time::sleep;

/// An etcd of its own for each claim: revisions belong to all of an etcd.
#[derive(Debug)]
struct Fixture {
    etcd: TestEtcd,
    store: Arc<Etcd>,
}

impl Fixture {
    async fn new() -> Self {
        let etcd = TestEtcd::start().await;
        let store = Arc::new(etcd.open().await);
        Self { etcd, store }
    }

    async fn client(&self) -> Client {
        Client::connect(self.etcd.endpoints(), None).await.unwrap()
    }
}

#[async_trait]
impl Subject for Fixture {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn now(&self) -> UnixTime {
        clock::unix_now()
    }

    /// etcd has its own clock, and ends leases a moment after their time.
    async fn advance(&mut self, by: Duration) {
        sleep(by).await;
        let mut leases = self.client().await.lease_client();
        loop {
            let mut over = false;
            for lease in leases.leases().await.unwrap().leases() {
                over |= leases.time_to_live(lease.id(), None).await.unwrap().ttl() <= 0;
            }
            if !over {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn compact(&self, up_to: Revision) {
        self.client().await.compact(up_to.0.cast_signed(), None).await.unwrap();
    }
}

federation::store_battery!(Fixture::new());
