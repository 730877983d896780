//! A cluster as peering sees one, with stand-ins for its gateway and its catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::server::Acceptor;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{BuiltinCa, Bundle, CaSettings, Registry, SvidHandle, TrustDomain, TrustStore, renewal};

use crate::catalog::Event;
use crate::clock;
use crate::issuer::{Issuer, Role};
use crate::model::{
    AppProtocol, ClusterName, Endpoint, Export, Freshness, Host, Import, Locality, Peer, Readiness, Service,
    ServiceKind, ServiceName, ServicePort, Timestamp, Transport,
};
use crate::pace::{Backoff, Rate};
use crate::peering::addresses::AddressRules;
use crate::peering::membership::Thresholds;
use crate::peering::{Deps, HandedOver, PeerStatus, Peering, PeeringService, Settings};
use crate::snapshot::{Generation, LocalCluster, LocalService, PeerView, ServiceView, Snapshot};
use crate::store::embedded::ChangeLog;
use crate::store::{Embedded, Entry, keys, list_all};

/// Long enough for a busy machine; nothing waits this long unless it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something holds.
pub(super) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, poll).await.is_ok(), "never: {what}");
}

pub(super) fn name(text: &str) -> ClusterName {
    text.try_into().unwrap()
}

pub(super) fn service_name(text: &str) -> ServiceName {
    text.try_into().unwrap()
}

/// What is left of a cluster when its process ends.
pub(super) struct Site {
    pub(super) directory: TempDir,
    pub(super) cluster: ClusterName,
    pub(super) domain: TrustDomain,
    pub(super) ca: Arc<BuiltinCa>,
    pub(super) svid_ttl: Duration,
    /// Stays the same over restarts, as it does in life.
    pub(super) listener: Arc<TcpListener>,
}

impl Site {
    pub(super) async fn new(cluster: &str) -> Self {
        Self::with(cluster, cluster, Duration::from_secs(3600)).await
    }

    pub(super) async fn with(cluster: &str, domain: &str, svid_ttl: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::try_from(format!("{domain}.example").as_str()).unwrap();
        let ca = open_ca(directory.path(), &domain);
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        Self { directory, cluster: name(cluster), domain, ca, svid_ttl, listener }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(super) fn svid(&self, role: Role) -> trust_bundle::X509Svid {
        Issuer::new(self.ca.clone(), self.svid_ttl, self.svid_ttl).issue_role(role).unwrap()
    }

    /// Starts the cluster's process.
    pub(super) async fn start(self) -> TestCluster {
        let cluster = self.start_silently().await;
        cluster.export(&[]);
        cluster
    }

    /// Starts it as it is before its sources have spoken.
    pub(super) async fn start_silently(self) -> TestCluster {
        TestCluster::start(self).await
    }
}

pub(super) fn open_ca(directory: &FilePath, domain: &TrustDomain) -> Arc<BuiltinCa> {
    let settings = CaSettings::default();
    Arc::new(BuiltinCa::open(&directory.join("ca"), domain.clone(), settings, clock::unix_now()).unwrap())
}

/// One cluster's control plane, with stand-ins for its gateway and its catalog.
pub(super) struct TestCluster {
    pub(super) site: Site,
    pub(super) peering: Peering,
    pub(super) store: Arc<Embedded>,
    pub(super) trust: TrustStore,
    pub(super) registry: Registry,
    pub(super) federation_svid: SvidHandle,
    pub(super) join_svid: SvidHandle,
    pub(super) bundle: watch::Sender<Arc<Bundle>>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) catalog: Arc<Mutex<Catalog>>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// What the catalog has been told.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) peers: BTreeMap<ClusterName, Peer>,
    pub(super) imports: BTreeMap<ClusterName, BTreeMap<ServiceName, Arc<Import>>>,
    pub(super) freshness: BTreeMap<ClusterName, Vec<Freshness>>,
    pub(super) replaced: usize,
}

pub(super) fn settings() -> Settings {
    Settings {
        thresholds: Thresholds::default(),
        heartbeat: Duration::from_millis(200),
        updates: Rate { burst: 1000, per_second: 1000.0 },
        intake: Rate { burst: 1000, per_second: 1000.0 },
        redial: Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(100) },
        ..Settings::default()
    }
}

impl TestCluster {
    /// Every key and value of the store, for who looks for something in there.
    pub(super) async fn everything_stored(&self) -> Vec<u8> {
        let listing = list_all(&*self.store, &keys::everything()).await.unwrap();
        let entry = |entry: &Entry| [entry.key.as_str().as_bytes(), &entry.value].concat();
        listing.entries.iter().flat_map(entry).collect()
    }

    pub(super) async fn new(cluster: &str) -> Self {
        Site::new(cluster).await.start().await
    }

    pub(super) async fn start(site: Site) -> Self {
        let store =
            Embedded::open(&site.directory.path().join("store"), ChangeLog::default(), clock::unix_now());
        let store = Arc::new(store.unwrap());
        let (trust, registry) = (TrustStore::new(), Registry::new());
        trust.put(site.ca.bundle()).unwrap();
        let (federation_svid, join_svid) =
            (SvidHandle::new(site.svid(Role::Federation)), SvidHandle::new(site.svid(Role::Join)));
        let (bundle, bundles) = watch::channel(Arc::new(site.ca.bundle()));
        let (snapshot, snapshots) = watch::channel(Arc::new(empty_snapshot(&site)));
        let (events, told) = mpsc::channel(64);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let deps = Deps {
            cluster: site.cluster.clone(),
            trust_domain: site.domain.clone(),
            gateway_id: Role::Gateway.id(&site.domain),
            advertise: vec![site.address().into()],
            address_rules: AddressRules::default(),
            store: store.clone(),
            trust: trust.clone(),
            registry: registry.clone(),
            federation_svid: federation_svid.clone(),
            join_svid: join_svid.clone(),
            bundle: bundles,
            snapshot: snapshots,
            events,
            tasks: tasks.clone(),
            settings: settings(),
        };
        let (peering, work, connections) = Peering::build(deps).await.unwrap();
        let catalog = Arc::new(Mutex::new(Catalog::default()));
        tasks.spawn(work.run((), stop.clone()));
        tasks.spawn(accept(site.listener.clone(), connections, stop.clone()));
        tasks.spawn(listen(told, catalog.clone()));
        Self {
            site,
            peering,
            store,
            trust,
            registry,
            federation_svid,
            join_svid,
            bundle,
            snapshot,
            catalog,
            tasks,
            stop,
        }
    }

    /// Ends the process, as a restart does.
    pub(super) async fn stop(self) -> Site {
        let Self { site, peering, store, tasks, stop, snapshot, bundle, .. } = self;
        stop.cancel();
        drop((snapshot, bundle, peering));
        tasks.close();
        assert!(tokio::time::timeout(PATIENCE, tasks.wait()).await.is_ok(), "tasks outlive the process");
        let store = Arc::into_inner(store).expect("somebody still holds the store");
        drop(store);
        site
    }

    /// Joins by a token of the other, as an operator would.
    pub(super) async fn join(&self, acceptor: &Self) -> Peer {
        let token =
            acceptor.peering.invite(&self.site.cluster, Duration::from_secs(900), "test").await.unwrap();
        self.peering.join(&token.text()).await.unwrap()
    }

    /// Exports these services, and these only, to all peers: a name and how many endpoints.
    pub(super) fn export(&self, services: &[(&str, usize)]) {
        let mut next = Snapshot::clone(&self.snapshot.borrow());
        next.generation = Generation(next.generation.0 + 1);
        next.services =
            services.iter().map(|(text, count)| (service_name(text), service(text, *count))).collect();
        let exported: BTreeSet<_> = next.services.keys().cloned().collect();
        let view = |status: PeerStatus| {
            let view = PeerView {
                peer: status.peer,
                freshness: Freshness::Fresh,
                exported_to: exported.clone(),
                imports: BTreeMap::new(),
            };
            (view.peer.name.clone(), Arc::new(view))
        };
        next.peers = self.peering.peers().into_iter().map(view).collect();
        self.snapshot.send_replace(Arc::new(next));
    }

    pub(super) fn peer(&self, other: &Self) -> Option<PeerStatus> {
        self.peering.peers().into_iter().find(|status| status.peer.name == other.site.cluster)
    }

    /// Ready endpoints of another cluster's services, as the catalog knows them.
    pub(super) fn imported(&self, other: &Self) -> Vec<(String, u32)> {
        let catalog = self.catalog.lock();
        let imports = catalog.imports.get(&other.site.cluster);
        let show = |import: &Arc<Import>| (import.service.to_string(), import.ready());
        imports.into_iter().flat_map(BTreeMap::values).map(show).collect()
    }

    pub(super) async fn imports_eventually(&self, other: &Self, expected: &[(&str, u32)]) {
        let expected: Vec<_> = expected.iter().map(|(text, ready)| ((*text).to_owned(), *ready)).collect();
        eventually(&format!("{} imports {expected:?}", self.site.cluster), async || {
            self.imported(other) == expected
        })
        .await;
    }

    pub(super) async fn has_a_stream_to(&self, other: &Self) {
        eventually(&format!("{} has a stream", self.site.cluster), async || {
            self.peer(other).is_some_and(|status| status.stream.is_some())
        })
        .await;
    }

    /// Puts other SVIDs in place when it is time, as the renewal does.
    pub(super) fn renew_at_half_of_life(&self) {
        let due = renewal::due_at(&self.federation_svid.current(), 0.5);
        if clock::unix_now() >= due {
            self.federation_svid.replace(self.site.svid(Role::Federation));
            self.join_svid.replace(self.site.svid(Role::Join));
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.registry.count(|_| true)
    }
}

pub(super) fn empty_snapshot(site: &Site) -> Snapshot {
    Snapshot::empty(Arc::new(LocalCluster {
        name: site.cluster.clone(),
        trust_domain: site.domain.clone(),
        locality: Locality::default(),
        gateways: None,
    }))
}

pub(super) fn service(text: &str, count: usize) -> Arc<ServiceView> {
    let endpoint = |n: usize| {
        Arc::new(Endpoint {
            host: Host::try_from(format!("10.0.{}.{}", n / 250, n % 250).as_str()).unwrap(),
            ports: Arc::new([("http".to_owned(), 8080)].into()),
            locality: Locality::default(),
            readiness: Readiness::Ready,
            weight: 1,
            hostname: None,
        })
    };
    let name = service_name(text);
    let port =
        ServicePort { name: "http".into(), port: 80, transport: Transport::Tcp, protocol: AppProtocol::Http };
    let local = LocalService {
        service: Service { name: name.clone(), kind: ServiceKind::ClusterSetIp, ports: vec![port] },
        endpoints: (0..count).map(endpoint).collect(),
        export: Some(Export { service: name.clone(), created: Timestamp::from_unix(1) }),
    };
    Arc::new(ServiceView { name, local: Some(local), merged: None })
}

/// A gateway as far as peering needs one: looks at the SNI and hands the connection over.
pub(super) async fn accept(
    listener: Arc<TcpListener>,
    connections: mpsc::Sender<HandedOver>,
    stop: CancellationToken,
) {
    let accepting = async {
        while let Ok((stream, peer_address)) = listener.accept().await {
            let Some(service) = asked_for(&stream).await else { continue };
            let stream = Box::new(stream);
            drop(connections.try_send(HandedOver { stream, peer_address, service }));
        }
    };
    stop.run_until_cancelled(accepting).await;
}

pub(super) async fn asked_for(stream: &TcpStream) -> Option<PeeringService> {
    let mut hello = vec![0; 8192];
    loop {
        let seen = stream.peek(&mut hello).await.ok().filter(|seen| *seen > 0)?;
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &hello[..seen]).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return match accepted.client_hello().server_name()?.split('.').next()? {
                "federation" => Some(PeeringService::Federation),
                "join" => Some(PeeringService::Join),
                _ => None,
            };
        }
    }
}

pub(super) async fn listen(mut told: mpsc::Receiver<Event>, catalog: Arc<Mutex<Catalog>>) {
    while let Some(event) = told.recv().await {
        catalog.lock().note(event);
    }
}

impl Catalog {
    fn note(&mut self, event: Event) {
        match event {
            Event::PeerChanged(peer) => drop(self.peers.insert(peer.name.clone(), peer)),
            Event::PeerRemoved(peer) => {
                self.peers.remove(&peer);
                self.imports.remove(&peer);
            }
            Event::ImportsReplaced { peer, imports } => {
                self.replaced += 1;
                self.imports.insert(peer, imports);
            }
            Event::ImportChanged(import) => {
                let imports = self.imports.entry(import.peer.clone()).or_default();
                imports.insert(import.service.clone(), import);
            }
            Event::ImportRemoved { peer, service } => {
                self.imports.entry(peer).or_default().remove(&service);
            }
            Event::FreshnessChanged { peer, freshness } => {
                self.freshness.entry(peer).or_default().push(freshness);
            }
            other => panic!("peering has nothing to say of {other:?}"),
        }
    }
}
