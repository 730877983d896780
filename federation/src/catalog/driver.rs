//! The one task that owns the catalog: events in, snapshots out, questions answered between.
//!
//! A burst of events is taken in as a whole, built once and published once. Nothing is published
//! before every source has told what it has: a process that starts would else withdraw from its peers
//! all that it is about to export (notes/trust E24).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::memory::Memory;
use super::{AddressPool, Catalog, Event, ObjectStatus, Source};
use crate::leader::first_generation;
use crate::model::ObjectKey;
use crate::snapshot::{LocalCluster, Snapshot};
use crate::store::{Fault, Store};

/// Events that may wait; sources wait for room, so that nothing is lost.
const EVENTS_MAX: usize = 1024;
const QUERIES_MAX: usize = 16;
/// How long a burst is followed before it is built.
const BURST_TIME_MAX: Duration = Duration::from_millis(20);
/// What could not be made durable is tried again this often.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Holds publication back until dropped: a source keeps it until it has told what it has.
#[derive(Debug, Clone)]
pub struct Loading {
    _held: mpsc::Sender<Infallible>,
}

/// Asks the catalog; cheap to clone.
#[derive(Debug, Clone)]
pub struct CatalogHandle {
    queries: mpsc::Sender<Query>,
}

#[derive(Debug)]
enum Query {
    Objects { kind: Option<String>, answer: oneshot::Sender<Vec<ObjectStatus>> },
    Owner { key: ObjectKey, answer: oneshot::Sender<Option<Source>> },
}

/// The catalog with its channels, before it runs.
#[derive(Debug)]
pub struct CatalogDriver {
    catalog: Catalog,
    memory: Memory,
    inbox: mpsc::Receiver<Event>,
    events: mpsc::Sender<Event>,
    queries: mpsc::Receiver<Query>,
    asking: mpsc::Sender<Query>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    loading: mpsc::Receiver<Infallible>,
    held: Option<mpsc::Sender<Infallible>>,
}

impl CatalogDriver {
    /// Reads back what the store remembers; generations begin after the first of this epoch.
    pub async fn build(
        cluster: LocalCluster,
        store: Arc<dyn Store>,
        pool: AddressPool,
        epoch: u64,
    ) -> Result<Self, Fault> {
        let (memory, remembered) = Memory::recall(store, pool).await?;
        let (snapshot, _) = watch::channel(Arc::new(Snapshot::empty(Arc::new(cluster.clone()))));
        let mut catalog = Catalog::new(cluster).after(first_generation(epoch));
        remembered.into_iter().for_each(|event| catalog.apply(event));
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let (asking, queries) = mpsc::channel(QUERIES_MAX);
        let (held, loading) = mpsc::channel(1);
        Ok(Self { catalog, memory, inbox, events, queries, asking, snapshot, loading, held: Some(held) })
    }

    /// Where sources send what happened.
    pub fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    pub fn handle(&self) -> CatalogHandle {
        CatalogHandle { queries: self.asking.clone() }
    }

    /// For a source to hold until its first pass is told.
    pub fn loading(&self) -> Loading {
        Loading { _held: self.held.clone().expect("sources are made before the driver runs") }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        self.held = None;
        // Only sources keep the channels open now.
        let (unheard, _) = mpsc::channel(1);
        self.events = unheard;
        let (unasked, _) = mpsc::channel(1);
        self.asking = unasked;
        shutdown.run_until_cancelled_owned(self.drive()).await;
    }

    async fn drive(mut self) {
        let mut loaded = false;
        let mut owed = false;
        loop {
            tokio::select! {
                biased;
                _all_told = self.loading.recv(), if !loaded => loaded = true,
                event = self.inbox.recv() => match event {
                    Some(event) => self.take_burst(event).await,
                    None => return,
                },
                Some(query) = self.queries.recv() => {
                    self.answer(query);
                    continue;
                }
                () = tokio::time::sleep(RETRY_PAUSE), if owed => {}
            }
            if loaded {
                // What sources told before they let go is in the channel already.
                while let Ok(event) = self.inbox.try_recv() {
                    self.take(event);
                }
                owed = !self.settle().await;
            }
        }
    }

    /// A lone event goes on at once; when more follow, they are awaited for a moment.
    async fn take_burst(&mut self, first: Event) {
        #[expect(
            clippy::disallowed_methods,
            reason = "the driver is the rim; this bounds how long it collects"
        )]
        let deadline = Instant::now() + BURST_TIME_MAX;
        self.take(first);
        tokio::task::yield_now().await;
        let Ok(second) = self.inbox.try_recv() else { return };
        self.take(second);
        while let Ok(Some(event)) = timeout_at(deadline, self.inbox.recv()).await {
            self.take(event);
        }
    }

    fn take(&mut self, mut event: Event) {
        self.memory.date(&mut event);
        self.catalog.apply(event);
    }

    /// Builds, makes durable what must be, publishes; false if something is left to be tried again.
    async fn settle(&mut self) -> bool {
        let effects = self.catalog.settle();
        let (events, remembered) = self.memory.remember(&effects, &self.catalog).await;
        events.into_iter().for_each(|event| self.catalog.apply(event));
        let complete = remembered.is_ok();
        if let Err(fault) = remembered {
            warn!(%fault, "not remembered yet; services without an address wait for theirs");
        }
        if let Some(snapshot) = self.catalog.snapshot() {
            self.snapshot.send_replace(snapshot);
        }
        complete
    }

    fn answer(&self, query: Query) {
        match query {
            Query::Objects { kind, answer } => drop(answer.send(self.objects(kind.as_deref()))),
            Query::Owner { key, answer } => {
                let held = self.catalog.objects(&key.kind).into_iter().find(|status| status.key == key);
                drop(answer.send(held.map(|status| status.source)));
            }
        }
    }

    fn objects(&self, kind: Option<&str>) -> Vec<ObjectStatus> {
        let kinds = self.catalog.kinds();
        let asked = kinds.iter().filter(|known| kind.is_none_or(|kind| is_kind(kind, known)));
        asked.flat_map(|kind| self.catalog.objects(kind)).collect()
    }
}

/// Kinds are asked for as people write them: `httproute`, `HTTPRoutes`, or as `kubectl` shortens them.
fn is_kind(asked: &str, kind: &str) -> bool {
    let short = SHORT_NAMES.iter().find(|(short, _)| asked.eq_ignore_ascii_case(short));
    let asked = short.map_or(asked, |(_, kind)| kind);
    asked.eq_ignore_ascii_case(kind)
        || asked.strip_suffix(['s', 'S']).is_some_and(|one| one.eq_ignore_ascii_case(kind))
}

/// Can there be objects of the kind at all?
pub fn is_known_kind(asked: &str) -> bool {
    KINDS.iter().any(|kind| is_kind(asked, kind))
}

/// Everything that may be asked for.
pub const KINDS: &[&str] =
    &["Service", "EndpointSlice", "ServiceExport", "ServiceImport", "Gateway", "HTTPRoute"];
const SHORT_NAMES: &[(&str, &str)] = &[
    ("svc", "Service"),
    ("eps", "EndpointSlice"),
    ("svcex", "ServiceExport"),
    ("svcim", "ServiceImport"),
    ("gtw", "Gateway"),
];

impl CatalogHandle {
    /// Every object of a kind, or of all, with what became of it; none once the process ends.
    pub async fn objects(&self, kind: Option<&str>) -> Vec<ObjectStatus> {
        let (answer, answered) = oneshot::channel();
        let query = Query::Objects { kind: kind.map(str::to_owned), answer };
        if self.queries.send(query).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }

    /// Which source an object is from.
    pub async fn owner(&self, key: ObjectKey) -> Option<Source> {
        let (answer, answered) = oneshot::channel();
        self.queries.send(Query::Owner { key, answer }).await.ok()?;
        answered.await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Object;
    use crate::clock;
    use crate::kubernetes::objects::parse_documents;
    use crate::leader::GENERATIONS_PER_EPOCH;
    use crate::model::{Label, Timestamp};
    use crate::store::Embedded;
    use crate::store::embedded::ChangeLog;

    const EXPORTED: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec:\n  ports: [{port: 80}]\n---\n\
        apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: cart, namespace: shop}\n";

    fn cluster() -> LocalCluster {
        LocalCluster {
            name: "onprem".try_into().unwrap(),
            trust_domain: "onprem.example".try_into().unwrap(),
            locality: crate::model::Locality::default(),
            gateways: None,
        }
    }

    async fn driver(directory: &tempfile::TempDir) -> CatalogDriver {
        let store = Embedded::open(directory.path(), ChangeLog::default(), clock::unix_now()).unwrap();
        let pool = AddressPool::new("127.80.0.0/20".parse().unwrap()).unwrap();
        CatalogDriver::build(cluster(), Arc::new(store), pool, 3).await.unwrap()
    }

    fn documents(at: i64) -> Vec<Event> {
        let read = |document: crate::kubernetes::objects::ParsedDocument| Event::ObjectApplied {
            source: Source::File { path: "a.yaml".into(), line: document.line },
            key: document.key,
            created: Timestamp::from_unix(at),
            object: document.object,
        };
        parse_documents(EXPORTED).into_iter().map(|document| read(document.unwrap())).collect()
    }

    /// Runs a driver with these events from one source, until a snapshot satisfies.
    async fn published(driver: CatalogDriver, events: Vec<Event>) -> (Arc<Snapshot>, Vec<ObjectStatus>) {
        let (sending, mut snapshots, handle) = (driver.events(), driver.snapshots(), driver.handle());
        let loading = driver.loading();
        let shutdown = CancellationToken::new();
        let running = driver.run(shutdown.clone());
        let asking = async {
            for event in events {
                sending.send(event).await.unwrap();
            }
            assert!(snapshots.borrow().services.is_empty(), "nothing is published while a source is loading");
            drop(loading);
            let filled = |s: &Arc<Snapshot>| {
                let cart = s.services.values().next().and_then(|service| service.merged.clone());
                cart.is_some_and(|merged| !merged.addresses.is_empty())
            };
            let snapshot = snapshots.wait_for(filled).await.unwrap().clone();
            let objects = handle.objects(Some("serviceexports")).await;
            shutdown.cancel();
            (snapshot, objects)
        };
        tokio::join!(running, asking).1
    }

    #[test]
    fn kinds_are_asked_for_in_many_spellings() {
        for (asked, kind) in [
            ("service", "Service"),
            ("Services", "Service"),
            ("svc", "Service"),
            ("HTTPRoutes", "HTTPRoute"),
            ("svcex", "ServiceExport"),
            ("svcim", "ServiceImport"),
            ("gtw", "Gateway"),
        ] {
            assert!(is_kind(asked, kind) && is_known_kind(asked), "{asked}");
        }
        assert!(!is_known_kind("pod") && !is_kind("svc", "ServiceExport"));
    }

    #[tokio::test]
    async fn age_and_address_outlive_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let (first, objects) = published(driver(&directory).await, documents(100)).await;
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0].created, Timestamp::from_unix(100));
        let (second, objects) = published(driver(&directory).await, documents(200)).await;
        assert_eq!(objects[0].created, Timestamp::from_unix(100));
        assert_eq!(second.generation.0 / GENERATIONS_PER_EPOCH, 3, "generations belong to their epoch");
        let addresses = |s: &Snapshot| s.services.values().next().unwrap().merged.clone().unwrap().addresses;
        assert_eq!(addresses(&first), addresses(&second));
    }

    #[tokio::test]
    async fn a_document_that_went_and_comes_again_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let removed = |event: Event| match event {
            Event::ObjectApplied { source, key, .. } => Event::ObjectRemoved { source, key },
            other => other,
        };
        let moved = |event: Event| match event {
            Event::ObjectApplied { key, created, object, .. } => {
                let source = Source::File { path: "b.yaml".into(), line: 1 };
                Event::ObjectApplied { source, key, created, object }
            }
            other => other,
        };
        let first = documents(100);
        // Moved to another file: told from there first, then gone from here.
        let second = documents(200).into_iter().map(moved).chain(documents(200).into_iter().map(removed));
        let (_, objects) =
            published(driver(&directory).await, first.into_iter().chain(second).collect()).await;
        assert_eq!(objects[0].created, Timestamp::from_unix(100));
        let gone = documents(300).into_iter().map(moved).map(removed);
        let again = documents(300).into_iter().map(moved).chain(gone).chain(documents(400)).collect();
        let (_, objects) = published(driver(&directory).await, again).await;
        assert_eq!(objects[0].created, Timestamp::from_unix(400));
    }

    #[tokio::test]
    async fn the_owner_of_an_object_is_its_first_source() {
        let directory = tempfile::tempdir().unwrap();
        let driver = driver(&directory).await;
        let (events, handle) = (driver.events(), driver.handle());
        let loading = driver.loading();
        let shutdown = CancellationToken::new();
        let asking = async {
            for event in documents(1) {
                events.send(event).await.unwrap();
            }
            let key = ObjectKey {
                kind: "Service".into(),
                namespace: Label::try_from("shop").unwrap(),
                name: "cart".try_into().unwrap(),
            };
            let object = Object::Export("desk.shop".try_into().unwrap());
            let created = Timestamp::from_unix(1);
            events
                .send(Event::ObjectApplied { source: Source::Applied, key: key.clone(), created, object })
                .await
                .unwrap();
            drop(loading);
            let mut snapshots = handle.objects(None).await;
            while snapshots.is_empty() {
                tokio::task::yield_now().await;
                snapshots = handle.objects(None).await;
            }
            assert!(matches!(handle.owner(key).await, Some(Source::File { .. })));
            shutdown.cancel();
        };
        tokio::join!(driver.run(shutdown.clone()), asking);
    }
}
