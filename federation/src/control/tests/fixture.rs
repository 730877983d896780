//! A cluster with federation processes and gateways that can be started and killed one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{
    BuiltinCa, CaSettings, Registry, SpiffeId, SvidHandle, SvidKey, TrustDomain, TrustStore, X509Svid,
};

use crate::clock;
use crate::control::nodes::{Nodes, NodesDeps};
use crate::control::state::State;
use crate::control::{
    Client, ClientDeps, ControlPlane, ControlStatus, Gateways, Refusals, SIGNING_REQUESTS_MAX, Server,
    ServerDeps, Settings, SigningRequest, Standing, Term, TermDeps,
};
use crate::issuer::{Issuer, Role};
use crate::model::{
    ClusterName, Endpoint, Freshness, GatewayAddress, Host, Import, Locality, Peer, Readiness,
    RelationshipState, Service, ServiceKind, ServiceName, Timestamp,
};
use crate::peering::HandedOver;
use crate::snapshot::{
    Generation, LocalCluster, LocalService, MergedService, PeerView, ServiceView, Snapshot,
};
use crate::store::Embedded;
use crate::store::embedded::ChangeLog;

/// For a machine that is busy with something else; nothing waits this long unless it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub(super) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, poll).await.is_ok(), "never: {what}");
}

/// What all processes of a cluster have in common.
pub(super) struct Site {
    pub(super) directory: TempDir,
    pub(super) cluster: ClusterName,
    pub(super) domain: TrustDomain,
    pub(super) ca: Arc<BuiltinCa>,
    pub(super) issuer: Issuer,
    pub(super) store: Arc<Embedded>,
    pub(super) tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A federation process.
pub(super) struct Federation {
    pub(super) address: GatewayAddress,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) trust: TrustStore,
    pub(super) gateways: Gateways,
    pub(super) handed_over: mpsc::Receiver<HandedOver>,
    pub(super) nodes: Nodes,
    pub(super) refusals: Refusals,
    term: Arc<Term>,
    stop: CancellationToken,
}

/// A gateway process.
pub(super) struct Gateway {
    pub(super) control: ControlPlane,
    pub(super) status: watch::Receiver<ControlStatus>,
    pub(super) trust: TrustStore,
    pub(super) registry: Registry,
    pub(super) handover: mpsc::Sender<HandedOver>,
    _stop: tokio_util::sync::DropGuard,
}

impl Site {
    pub(super) fn new(cluster: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let domain: TrustDomain = format!("{cluster}.example").as_str().try_into().unwrap();
        let (now, hour) = (clock::unix_now(), Duration::from_secs(3600));
        let ca = BuiltinCa::open(&directory.path().join("ca"), domain.clone(), CaSettings::default(), now);
        let ca = Arc::new(ca.unwrap());
        let store = Embedded::open(directory.path(), ChangeLog::default(), now).unwrap();
        Self {
            cluster: cluster.try_into().unwrap(),
            domain,
            issuer: Issuer::new(ca.clone(), hour, hour),
            ca,
            store: Arc::new(store),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            directory,
        }
    }

    pub(super) fn svid(&self, path: &str) -> X509Svid {
        let (key, id) = (SvidKey::generate(), SpiffeId::new(&self.domain, path).unwrap());
        let hour = Duration::from_secs(3600);
        X509Svid::from_parts(self.ca.issue(&key.csr(), &id, hour, clock::unix_now()).unwrap(), key).unwrap()
    }

    pub(super) fn trust(&self) -> TrustStore {
        let trust = TrustStore::new();
        trust.put(self.ca.bundle()).unwrap();
        trust
    }

    pub(super) async fn follower(&self, leaders: &[&Federation]) -> Federation {
        let federation = self.federation().await;
        federation.follow(leaders);
        federation
    }

    /// Starts a federation process that leads, and has nothing to say yet.
    pub(super) async fn federation(&self) -> Federation {
        let (signer, signing) = mpsc::channel(SIGNING_REQUESTS_MAX);
        let stop = self.stop.child_token();
        let signed = sign(self.issuer.clone(), signing);
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(signed));
        let (snapshots, following) = watch::channel(Arc::new(Snapshot::empty(self.here())));
        let (handover, handed_over) = mpsc::channel(4);
        let (trust, gateways) = (self.trust(), Gateways::default());
        let join_svid = SvidHandle::new(self.issuer.issue_role(Role::Join).unwrap());
        let (standing, stands) = watch::channel(Standing::Following { leaders: Vec::new() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let deps = ServerDeps {
            cluster: self.cluster.clone(),
            trust_domain: self.domain.clone(),
            svid: SvidHandle::new(self.issuer.issue_role(Role::Federation).unwrap()),
            join_svid: join_svid.clone(),
            trust: trust.clone(),
            standing: stands,
            registry: Registry::new(),
            tasks: self.tasks.clone(),
            settings: Settings::default(),
        };
        let server = Server::build(listener, deps).unwrap();
        let address: GatewayAddress = server.local_addr().into();
        let nodes = Nodes::new(NodesDeps {
            cluster: self.cluster.clone(),
            trust_domain: self.domain.clone(),
            store: self.store.clone(),
            trust: trust.clone(),
            signer: signer.clone(),
            join_svid,
            control: vec![address.clone()],
        });
        let term = Term::new(TermDeps {
            snapshots: following,
            trust: trust.clone(),
            signer,
            gateways: gateways.clone(),
            handover,
            nodes: Some(nodes.clone()),
        });
        standing.send_replace(Standing::Leading(term.clone()));
        let refusals = server.refusals();
        self.tasks.spawn(server.run(stop.clone()));
        Federation { address, standing, snapshots, trust, gateways, handed_over, nodes, refusals, term, stop }
    }

    /// Starts a gateway process.
    pub(super) fn gateway(&self, name: &str, federations: &[&Federation]) -> Gateway {
        self.gateway_from(name, federations, None)
    }

    pub(super) fn gateway_from(
        &self,
        name: &str,
        federations: &[&Federation],
        state: Option<State>,
    ) -> Gateway {
        let (trust, registry) = (self.trust(), Registry::new());
        let deps = ClientDeps {
            endpoints: federations.iter().map(|federation| federation.address.clone()).collect(),
            cluster: self.cluster.clone(),
            trust_domain: self.domain.clone(),
            svid: SvidHandle::new(self.svid("/isthmus/gateway")),
            trust: trust.clone(),
            registry: registry.clone(),
            state,
            replica: name.try_into().unwrap(),
            addresses: vec!["192.0.2.1:15443".parse().unwrap()],
            tasks: self.tasks.clone(),
            settings: Settings::default(),
        };
        let (client, control, status) = Client::build(deps).unwrap();
        let handover = client.handover();
        let stop = self.stop.child_token();
        self.tasks.spawn(client.run(stop.clone()));
        Gateway { control, status, trust, registry, handover, _stop: stop.drop_guard() }
    }

    pub(super) fn here(&self) -> Arc<LocalCluster> {
        let (name, trust_domain) = (self.cluster.clone(), self.domain.clone());
        Arc::new(LocalCluster { name, trust_domain, locality: Locality::default(), gateways: None })
    }

    /// Services of this cluster, so many with so many endpoints each, `s0.shop` merged with a peer's.
    pub(super) fn snapshot(&self, generation: u64, services: usize, endpoints: usize) -> Snapshot {
        let import = Arc::new(Import {
            service: service(0),
            peer: "quay".try_into().unwrap(),
            kind: ServiceKind::ClusterSetIp,
            ports: Vec::new(),
            created: Timestamp::from_unix(1),
            groups: Vec::new(),
            endpoints: Vec::new(),
            freshness: Freshness::Fresh,
        });
        let peer = Arc::new(PeerView {
            peer: quay(),
            freshness: Freshness::Fresh,
            exported_to: BTreeSet::new(),
            imports: BTreeMap::from([(service(0), import.clone())]),
        });
        let view = |number| {
            let merged = (number == 0).then(|| MergedService {
                kind: ServiceKind::ClusterSetIp,
                ports: Vec::new(),
                exported_here: false,
                imports: vec![import.clone()],
                addresses: Vec::new(),
            });
            let view = ServiceView { name: service(number), local: Some(local(number, endpoints)), merged };
            (view.name.clone(), Arc::new(view))
        };
        Snapshot {
            generation: Generation(generation),
            services: (0..services).map(view).collect(),
            peers: BTreeMap::from([(peer.peer.name.clone(), peer)]),
            ..Snapshot::empty(self.here())
        }
    }
}

pub(super) fn service(number: usize) -> ServiceName {
    format!("s{number}.shop").parse().unwrap()
}

pub(super) fn local(number: usize, endpoints: usize) -> LocalService {
    let ports = Arc::new(BTreeMap::from([("http".to_owned(), 8080)]));
    let endpoint = |n: usize| {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(number * 1000 + n).unwrap());
        Arc::new(Endpoint {
            host: Host::Ip(ip.into()),
            ports: Arc::clone(&ports),
            locality: Locality::default(),
            readiness: Readiness::Ready,
            weight: 1,
            hostname: None,
        })
    };
    LocalService {
        service: Service { name: service(number), kind: ServiceKind::ClusterSetIp, ports: Vec::new() },
        endpoints: (0..endpoints).map(endpoint).collect(),
        export: None,
    }
}

fn quay() -> Peer {
    let trust_domain: TrustDomain = "quay.example".try_into().unwrap();
    let id = |path| SpiffeId::new(&trust_domain, path).unwrap();
    Peer {
        name: "quay".try_into().unwrap(),
        gateway_id: id("/isthmus/gateway"),
        federation_id: id("/isthmus/federation"),
        trust_domain: trust_domain.clone(),
        gateways: Vec::new(),
        joined: Timestamp::from_unix(1),
        state: RelationshipState::Active,
        sameness: Vec::new(),
    }
}

impl Federation {
    pub(super) fn socket(&self) -> SocketAddr {
        self.address.to_string().parse().unwrap()
    }

    pub(super) fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        self.snapshots.send_replace(snapshot.clone());
        snapshot
    }

    pub(super) fn follow(&self, leaders: &[&Self]) {
        let leaders = leaders.iter().map(|leader| leader.address.clone()).collect();
        self.standing.send_replace(Standing::Following { leaders });
    }

    pub(super) fn lead(&self) {
        self.standing.send_replace(Standing::Leading(self.term.clone()));
    }

    /// As a process that is gone: its socket and all its connections are closed.
    pub(super) fn kill(&self) {
        self.stop.cancel();
    }

    pub(super) async fn refused(&self, reason: &str) {
        eventually(&format!("refused as {reason}"), async || self.refusals.list().contains_key(reason)).await;
    }
}

impl Gateway {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.control.snapshot.borrow().clone()
    }

    pub(super) async fn holds(&self, expected: &Snapshot) {
        let generation = expected.generation;
        eventually(&format!("generation {generation}"), async || self.snapshot().generation == generation)
            .await;
        assert!(*self.snapshot() == *expected, "generation {generation} came with another content");
    }

    pub(super) async fn is_led_by(&self, leader: &Federation) {
        eventually("led", async || {
            matches!(&*self.status.borrow(), ControlStatus::Connected { to, .. } if *to == leader.address)
        })
        .await;
    }
}

async fn sign(issuer: Issuer, mut requests: mpsc::Receiver<SigningRequest>) {
    while let Some(SigningRequest { id, csr, answer }) = requests.recv().await {
        drop(answer.send(issuer.sign(&id, &csr)));
    }
}
