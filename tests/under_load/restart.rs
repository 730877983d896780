//! A whole cluster restarts on its data under constant load: its peer goes on without a failed request,
//! and whatever was there before the restart is there after it, unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use federation::model::{ClusterName, ServiceName, Timestamp};
use federation::snapshot::Snapshot;
use http::Version;
use tests::{
    Connections, EchoServer, Exported, HttpEcho, Load, RunningLoad, TestCluster, eventually, export_document,
    service_documents, slice_document,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::observed::Judge;

const RESTARTS: usize = 2;
const SHARED: &str = "shared.shop.svc.clusterset.local";
/// For one connection, a restart within it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that show where the load goes.
const ENOUGH: usize = 50;

/// Both clusters have `shared`; that of `onprem` is about to go, so that `cloud` is asked while it can be.
struct World {
    onprem: TestCluster,
    cloud: TestCluster,
    near: HttpEcho,
    far: HttpEcho,
    _ledger: EchoServer,
}

impl World {
    async fn new() -> Self {
        let (near, far, ledger) =
            (HttpEcho::start().await, HttpEcho::start().await, EchoServer::start().await);
        let going = ", conditions: {ready: false, serving: true, terminating: true}";
        let shared = service_documents("shared.shop", "80=http", &[])
            + &slice_document("shared.shop", 1, "p", near.address(), going)
            + &export_document("shared.shop");
        let mut onprem =
            TestCluster::new("onprem").with_service("own.shop", "80=http", &[near.address()], Exported::Yes);
        onprem.write_document("shared", &shared);
        let mut cloud = TestCluster::new("cloud")
            .with_service("shared.shop", "80=http", &[far.address()], Exported::Yes)
            .with_service("web.shop", "80=http", &[far.address()], Exported::Yes)
            .with_service("ledger.bank", "9000=tcp", &[ledger.address()], Exported::Yes);
        onprem.start().await;
        cloud.start().await;
        onprem.join(&cloud).await;
        onprem.until_answered("web.shop.svc.clusterset.local").await;
        cloud.until_answered("own.shop.svc.clusterset.local").await;
        Self { onprem, cloud, near, far, _ledger: ledger }
    }

    fn loads(&self) -> Vec<RunningLoad> {
        let mesh = self.onprem.addresses().mesh;
        let versions = [Version::HTTP_11, Version::HTTP_2].into_iter();
        versions.map(|version| Load { version, workers: 3, ..Load::new(mesh, SHARED) }.start()).collect()
    }

    async fn until_served_by(&self, echo: &HttpEcho, name: &str) {
        let before = echo.asked();
        eventually(&format!("{name} serves"), || echo.asked() > before + ENOUGH).await;
    }
}

/// What a restart must not change.
#[derive(Debug, PartialEq, Eq)]
struct Lasting {
    addresses: BTreeMap<ServiceName, Vec<IpAddr>>,
    exported: BTreeMap<ServiceName, Timestamp>,
    imported: BTreeMap<(ClusterName, ServiceName), Timestamp>,
    joined: BTreeMap<ClusterName, Timestamp>,
}

impl Lasting {
    fn of(snapshot: &Snapshot) -> Self {
        let services = || snapshot.services.values();
        let merged = services().filter_map(|service| Some((service.name.clone(), service.merged.as_ref()?)));
        let export = |service: &std::sync::Arc<federation::snapshot::ServiceView>| {
            Some((service.name.clone(), service.local.as_ref()?.export.as_ref()?.created))
        };
        let imports = snapshot.peers.iter().flat_map(|(peer, view)| {
            let imports = view.imports.iter();
            imports.map(|(service, import)| ((peer.clone(), service.clone()), import.created))
        });
        let peers = snapshot.peers.iter();
        Self {
            addresses: merged.map(|(name, merged)| (name, merged.addresses.clone())).collect(),
            exported: services().filter_map(export).collect(),
            imported: imports.collect(),
            joined: peers.map(|(name, view)| (name.clone(), view.peer.joined)).collect(),
        }
    }
}

async fn objects(cluster: &TestCluster) -> BTreeSet<String> {
    let objects = cluster.operator().objects(None).await;
    objects
        .iter()
        .map(|object| format!("{} of {} since {}", object.key, object.source, object.created))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_fails_no_request_of_the_peer_and_changes_nothing() {
    let mut world = World::new().await;
    let (near, far) = (Lasting::of(&world.onprem.snapshot()), Lasting::of(&world.cloud.snapshot()));
    assert_eq!((near.imported.len(), near.addresses.len()), (3, 4), "{near:?}");
    assert!(near.addresses.values().all(|addresses| addresses.len() == 1), "{near:?}");
    let written = objects(&world.cloud).await;
    let judge = Judge::start(&world.onprem, move |snapshot| {
        let now = Lasting::of(snapshot);
        (now != near).then(|| format!("{now:?}"))
    });
    let loads = world.loads();
    for _ in 0..RESTARTS {
        world.until_served_by(&world.far, "cloud").await;
        world.cloud.stop().await;
        world.until_served_by(&world.near, "onprem").await;
        world.cloud.start().await;
        assert_eq!(Lasting::of(&world.cloud.snapshot()), far);
        assert_eq!(objects(&world.cloud).await, written);
    }
    world.until_served_by(&world.far, "cloud").await;
    world.cloud.until_answered("own.shop.svc.clusterset.local").await;
    for load in loads {
        let report = load.stop().await;
        println!("{report}");
        assert!(report.failures.is_empty(), "{report}");
    }
    let objections = judge.stop().await;
    assert!(objections.is_empty(), "{objections:#?}");
}

/// What waits in the queues of the kept sockets is served by the next process: nobody is refused, and nobody
/// who has connected is sent away before he was heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_keeps_its_sockets_fails_nobody() {
    let (echo, ledger) = (HttpEcho::start().await, EchoServer::start().await);
    let mut cluster = TestCluster::new("onprem")
        .keeping_its_sockets()
        .with_service("own.shop", "80=http", &[echo.address()], Exported::Yes)
        .with_service("ledger.bank", "9000=tcp", &[ledger.address()], Exported::Yes);
    cluster.start().await;
    cluster.until_answered("own.shop.svc.clusterset.local").await;
    let ledger_name = "ledger.bank".parse().expect("a service name");
    let address = || cluster.snapshot().services[&ledger_name].merged.as_ref()?.addresses.first().copied();
    let virtual_port = SocketAddr::new(address().expect("an address of its own"), 9000);
    eventually("the virtual port is open", || std::net::TcpStream::connect(virtual_port).is_ok()).await;

    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let tcp = tasks.spawn(keep_connecting(virtual_port, stop.clone()));
    let load = Load::new(cluster.addresses().mesh, "own.shop.svc.clusterset.local");
    let loads = [
        (Version::HTTP_11, Connections::Kept),
        (Version::HTTP_11, Connections::Fresh),
        (Version::HTTP_2, Connections::Kept),
    ];
    let loads =
        loads.map(|(version, connections)| Load { version, connections, workers: 3, ..load.clone() }.start());
    for _ in 0..RESTARTS {
        let before = ledger.accepted();
        for load in &loads {
            let so_far = load.answered();
            eventually("requests are answered", || load.answered() > so_far + ENOUGH as u64).await;
        }
        eventually("connections are carried", || ledger.accepted() > before + ENOUGH).await;
        cluster.stop().await;
        cluster.start().await;
    }
    for load in loads {
        let so_far = load.answered();
        eventually("requests are answered again", || load.answered() > so_far + ENOUGH as u64).await;
        let report = load.stop().await;
        println!("{report}");
        assert!(report.failures.is_empty(), "{report}");
    }
    stop.cancel();
    assert_eq!(tcp.await.expect("no panic"), Vec::<String>::new());
}

/// One short connection after the other; what went wrong with them.
async fn keep_connecting(to: SocketAddr, stop: CancellationToken) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.is_cancelled() {
        let once = async {
            let mut stream = TcpStream::connect(to).await?;
            let mut answer = [0; 4];
            stream.write_all(b"ping").await?;
            stream.read_exact(&mut answer).await
        };
        match tokio::time::timeout(PATIENCE, once).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => failures.push(error.to_string()),
            Err(_) => failures.push("no answer".to_owned()),
        }
    }
    failures
}
