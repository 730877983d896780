//! A whole cluster in this process: what `isthmus run` runs, with files and addresses of its own.
//!
//! Each cluster has a loopback address to itself, so that it listens on the usual ports, and on the same
//! ones after a restart, whatever else runs on this machine. Everything goes the way of an operator: files
//! in a directory, tokens, the admin API.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use federation::app::Operator;
use federation::config::{Config, Overrides};
use federation::model::Freshness;
use federation::snapshot::Snapshot;
use gateway::app::{Broken, Plan, Process, Roles};
use gateway::host::{Inherited, Sockets, StoreCommand};
use gateway::telemetry::Output;
use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust_bundle::{ExpectedPeer, SpiffeId, SvidHandle, SvidKey, TrustStore, X509Svid, client_config};

use crate::{Http1, eventually, export_document, service_documents, within};

/// Runs from `start` to `stop`, as often as one likes, on the same data.
#[derive(Debug)]
pub struct TestCluster {
    pub name: String,
    /// Everything listens here.
    pub ip: Ipv4Addr,
    settings: Vec<String>,
    directory: TempDir,
    running: Option<Running>,
    keeper: Option<Keeper>,
    /// Keeps the address from other tests, in this process or another one.
    _claim: TcpListener,
}

#[derive(Debug)]
struct Running {
    addresses: Addresses,
    operator: Operator,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), Broken>>,
}

/// Stands for the descriptor store of systemd.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    kept: BTreeMap<String, OwnedFd>,
    told: Option<mpsc::Receiver<StoreCommand>>,
}

impl Keeper {
    /// For the next process: what the one before left, and a store of its own.
    pub(crate) fn sockets(&mut self) -> Sockets {
        for command in self.told.take().iter().flatten() {
            match command {
                StoreCommand::Keep { name, socket } => drop(self.kept.insert(name, socket)),
                StoreCommand::Forget { name } => drop(self.kept.remove(&name)),
            }
        }
        let inherited = self.kept.iter().map(|(name, socket)| {
            let socket = socket.try_clone().expect("descriptors enough");
            Inherited::new(name, socket).expect("a socket that was used")
        });
        let (store, told) = mpsc::channel();
        let sockets = Sockets::new(inherited.collect(), Some(store));
        self.told = Some(told);
        sockets
    }
}

/// Where a cluster in one process listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub mesh: SocketAddr,
    pub east_west: SocketAddr,
    pub dns: SocketAddr,
    pub admin: SocketAddr,
}

/// Is a service offered to peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exported {
    Yes,
    No,
}

impl Addresses {
    fn of(process: &Process) -> Self {
        let at = process.addresses();
        let (mesh, east_west) = (at.mesh.expect("a mesh listener"), at.east_west.expect("a port for links"));
        Self { mesh, east_west, dns: at.dns, admin: at.admin }
    }
}

impl TestCluster {
    pub fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("conf.d")).expect("an empty directory");
        let (ip, pool, claim) = claim();
        let config = format!(
            "cluster: {name}\nconfig: {{directory: ./conf.d}}\nstore: {{embedded: {{path: ./data}}}}\n\
             gateway:\n  mesh: {{address: '{ip}:15080'}}\n  eastWest: {{address: '{ip}:15443'}}\n  \
             ingress: {{address: {ip}}}\n  virtual: {{pool: {pool}/24}}\n\
             dns: {{address: '{ip}:15053'}}\nadmin: {{address: '{ip}:15000'}}\n"
        );
        fs::write(directory.path().join("isthmus.yaml"), config).expect("a new file");
        Self {
            name: name.to_owned(),
            ip,
            settings: Vec::new(),
            directory,
            running: None,
            keeper: None,
            _claim: claim,
        }
    }

    /// Overrides a setting, as `--set` does: `trust.svidTtl=20s`.
    pub fn with_setting(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Its sockets stay open while it does not run, as systemd does it.
    pub fn keeping_its_sockets(mut self) -> Self {
        self.keeper = Some(Keeper::default());
        self
    }

    /// Writes the documents of a service; `port` is written as `80=http`.
    pub fn with_service(
        self,
        service: &str,
        port: &str,
        endpoints: &[SocketAddr],
        exported: Exported,
    ) -> Self {
        let mut text = service_documents(service, port, endpoints);
        if exported == Exported::Yes {
            text.push_str(&export_document(service));
        }
        self.write_document(service, &text);
        self
    }

    /// Puts a file into the configuration directory, in place of what it held.
    pub fn write_document(&self, name: &str, text: &str) {
        let written = self.document(&format!(".{name}"));
        fs::write(&written, text).expect("a file in a directory of ours");
        fs::rename(written, self.document(name)).expect("a file in a directory of ours");
    }

    pub fn remove_document(&self, name: &str) {
        fs::remove_file(self.document(name)).expect("a file that was written");
    }

    /// Starts the process and waits until it has read its directory.
    pub async fn start(&mut self) {
        let overrides = Overrides::new([], &self.settings).expect("settings as `--set` takes them");
        let config = Config::load(Some(&self.path("isthmus.yaml")), &overrides).expect("a good file");
        let log = Output::File(self.path("access.log"));
        let sockets = self.keeper.as_mut().map_or_else(Sockets::none, Keeper::sockets);
        let plan = Plan { sockets, ..Plan::new(Roles::All) };
        let process = Process::build_as(plan, config, log).await.expect("a process on addresses of its own");
        let (addresses, operator) = (Addresses::of(&process), process.operator());
        let shutdown = CancellationToken::new();
        let ended = TaskTracker::new().spawn(process.run(shutdown.clone()));
        self.running = Some(Running { addresses, operator, shutdown, ended });
        eventually("the sources were read", || self.operator().is_current()).await;
    }

    /// Asks the process to drain and waits until it has ended.
    pub async fn stop(&mut self) {
        let running = self.running.take().expect("started");
        running.shutdown.cancel();
        let ended = within("the end of a process", running.ended).await.expect("no panic");
        ended.expect("no part ended by itself");
    }

    /// Joins the other cluster with a token of it; returns when both have heard from each other.
    pub async fn join(&self, inviter: &Self) {
        let name = self.name.as_str().try_into().expect("a cluster name");
        let invitation = inviter.operator().invite(&name, TOKEN_TTL).await.expect("a token");
        self.operator().join(&invitation.token).await.expect("the two join");
        for (one, other) in [(self, inviter), (inviter, self)] {
            eventually("the peer is fresh", || one.freshness(&other.name) == Some(Freshness::Fresh)).await;
        }
    }

    pub fn addresses(&self) -> Addresses {
        self.running().addresses
    }

    pub fn operator(&self) -> &Operator {
        &self.running().operator
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.operator().snapshot()
    }

    pub fn freshness(&self, peer: &str) -> Option<Freshness> {
        let peer = peer.try_into().expect("a cluster name");
        self.snapshot().peers.get(&peer).map(|view| view.freshness)
    }

    /// Waits until the mesh listener's answer for a Host is 200.
    pub async fn until_answered(&self, host: &str) {
        let answered = async {
            let mut client = Http1::new(self.connect(self.addresses().mesh).await);
            while !matches!(client.get(host, "/").await, Ok(answer) if answer.status == 200) {
                tokio::time::sleep(PAUSE).await;
                client = Http1::new(self.connect(self.addresses().mesh).await);
            }
        };
        within(&format!("{host} answers in {}", self.name), answered).await;
    }

    /// TLS of a workload with an SVID of its own, as its gateway wants it.
    pub fn workload_tls(&self, path: &str, alpn: &[u8]) -> Arc<ClientConfig> {
        let key = SvidKey::generate();
        let issued = self.operator().issue_workload_svid(path, &key.csr()).expect("a path of a workload");
        let svid = X509Svid::from_parts(issued.chain, key).expect("key and chain fit");
        let gateway = SpiffeId::new(&issued.id.trust_domain(), "/isthmus/gateway").expect("a role");
        let trust = TrustStore::new();
        trust.put(issued.bundle).expect("a first bundle");
        client_config(&trust, &SvidHandle::new(svid), ExpectedPeer::Exact(gateway), &[alpn])
    }

    /// What the admin API shows.
    pub async fn admin(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin_text(path).await).expect("JSON")
    }

    /// The same, where it is no JSON.
    pub async fn admin_text(&self, path: &str) -> String {
        let address = self.addresses().admin;
        let mut client = Http1::new(self.connect(address).await);
        let answer =
            within("the admin API", client.get(&address.to_string(), path)).await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    }

    async fn connect(&self, address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).await.expect("the process listens");
        stream.set_nodelay(true).expect("a TCP stream");
        stream
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("started")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn document(&self, name: &str) -> PathBuf {
        self.path(&format!("conf.d/{name}.yaml"))
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.shutdown.cancel();
            running.ended.abort();
        }
    }
}

/// An address of our own within 127.0.0.0/10, and the network 127.64.0.0/10 + the same for services.
pub(crate) fn claim() -> (Ipv4Addr, Ipv4Addr, TcpListener) {
    // Some start; whoever comes second goes on from there. A cluster that was dropped may still be
    // closing its sockets, so that no address is used twice in a process.
    let used = CLAIMED.fetch_add(1, Ordering::Relaxed);
    let start = std::process::id().wrapping_mul(2_654_435_761).wrapping_add(used) % ADDRESSES;
    for number in (0..ADDRESSES).map(|at| 1 + (start + at) % ADDRESSES) {
        let [_, _, high, low] = number.to_be_bytes();
        let (ip, pool) = (Ipv4Addr::new(127, high, low, 1), Ipv4Addr::new(127, 64 + high, low, 0));
        if let Ok(claim) = TcpListener::bind((ip, CLAIM_PORT)) {
            return (ip, pool, claim);
        }
    }
    panic!("no loopback address is free");
}

static CLAIMED: AtomicU32 = AtomicU32::new(0);
const TOKEN_TTL: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// All but 127.0.0.1 itself.
const ADDRESSES: u32 = (1 << 14) - 1;
const CLAIM_PORT: u16 = 15999;
