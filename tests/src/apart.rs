//! A cluster whose roles run apart, in this process: `isthmus federation` and `isthmus gateway`.
//!
//! Each has a directory, a loopback address and a runtime of its own, so that one can die without a word
//! and without the others. They share the documents, the CA and, where wanted, a store.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use federation::app::{Operator, StoreSource};
use federation::clock;
use federation::config::{Config, Overrides};
use federation::control::disk::Disk;
use federation::control::nodes::{self, Joined, NodeJoinError};
use federation::store::embedded::ChangeLog;
use federation::store::{Embedded, Store};
use gateway::app::{Addresses, Broken, GATEWAY_DIRECTORY, Plan, Process, Roles};
use gateway::host::Sockets;
use gateway::telemetry::Output;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Keeper, claim};
use crate::{Answer, Http1, service_documents, within};

/// What the processes of a cluster have in common.
#[derive(Debug)]
pub struct ApartCluster {
    pub name: String,
    directory: TempDir,
    ip: Ipv4Addr,
    pool: Ipv4Addr,
    store: Option<Arc<dyn Store>>,
    /// Keeps the addresses from other tests, in this process or another one.
    _claim: TcpListener,
}

/// One process of it; started, stopped and killed as often as one likes, on the same data.
#[derive(Debug)]
pub struct TestProcess {
    pub ip: Ipv4Addr,
    roles: Roles,
    config: String,
    store: &'static str,
    directory: PathBuf,
    source: StoreSource,
    keeper: Option<Keeper>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    addresses: Addresses,
    operator: Operator,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), Broken>>,
    runtime: Option<Runtime>,
}

impl ApartCluster {
    /// For one federation process, with a store of its own.
    pub fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("conf.d")).expect("an empty directory");
        let (ip, pool, claim) = claim();
        Self { name: name.to_owned(), directory, ip, pool, store: None, _claim: claim }
    }

    /// For several of them, which share a store.
    pub fn with_shared_store(name: &str) -> Self {
        let mut cluster = Self::new(name);
        let path = cluster.directory.path().join("store");
        let store = Embedded::open(&path, ChangeLog::default(), clock::unix_now()).expect("a new store");
        cluster.store = Some(Arc::new(store));
        cluster
    }

    /// A process that leads, or wants to; the lease of its lead lasts for so long.
    pub fn federation(&self, number: u8, leader_ttl: &str) -> TestProcess {
        let ip = self.federation_ip(number);
        let own = format!("control: {{address: '{ip}:15012', leaderTtl: {leader_ttl}}}\n");
        let source = self.store.clone().map_or(StoreSource::Configured, StoreSource::Shared);
        self.process(Roles::Federation, ip, &format!("federation-{number}"), &own, source)
    }

    /// A gateway that looks for the first two federation processes.
    pub fn gateway(&self, number: u8) -> TestProcess {
        let ip = self.gateway_ip(number);
        let [one, two] = [1, 2].map(|number| format!("'{}:15012'", self.federation_ip(number)));
        let own = format!("control: {{endpoints: [{one}, {two}]}}\n");
        self.process(Roles::Gateway, ip, &format!("gateway-{number}"), &own, StoreSource::Configured)
    }

    /// `isthmus run`.
    pub fn all_in_one(&self) -> TestProcess {
        self.process(Roles::All, self.gateway_ip(1), "all", "", StoreSource::Configured)
    }

    /// Writes the documents of a service, in place of what its file held.
    pub fn write_service(&self, service: &str, port: &str, endpoints: &[SocketAddr]) {
        let text = service_documents(service, port, endpoints) + &crate::export_document(service);
        let file = self.directory.path().join("conf.d").join(format!("{service}.yaml"));
        let written = file.with_extension("new");
        fs::write(&written, text).expect("a file in a directory of ours");
        fs::rename(written, file).expect("a file in a directory of ours");
    }

    fn federation_ip(&self, number: u8) -> Ipv4Addr {
        self.ip_of(10 + number)
    }

    fn gateway_ip(&self, number: u8) -> Ipv4Addr {
        self.ip_of(20 + number)
    }

    fn ip_of(&self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.ip.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    fn process(
        &self,
        roles: Roles,
        ip: Ipv4Addr,
        own: &str,
        settings: &str,
        source: StoreSource,
    ) -> TestProcess {
        let (common, pool) = (self.directory.path().display(), self.pool);
        let advertised = self.gateway_ip(1);
        let config = format!(
            "cluster: {}\nconfig: {{directory: {common}/conf.d}}\ndata: ./data\n\
             trust: {{ca: {{directory: {common}/ca}}}}\n\
             gateway:\n  mesh: {{address: '{ip}:15080'}}\n  \
             eastWest: {{address: '{ip}:15443', advertise: ['{advertised}:15443']}}\n  \
             ingress: {{address: {ip}}}\n  virtual: {{pool: {pool}/24}}\n\
             dns: {{address: '{ip}:15053'}}\nadmin: {{address: '{ip}:15000'}}\n{settings}",
            self.name
        );
        let directory = self.directory.path().join(own);
        fs::create_dir(&directory).expect("a directory for each process");
        TestProcess { ip, roles, config, store: EMBEDDED, directory, source, keeper: None, running: None }
    }
}

impl TestProcess {
    /// Makes this a gateway of the cluster that made the token, as `isthmus node join` does.
    pub async fn join(&self, token: &str) -> Result<Joined, NodeJoinError> {
        let disk = Disk::open(&self.config().data.join(GATEWAY_DIRECTORY)).expect("a directory of its own");
        within("an answer to the token", Box::pin(nodes::join(token, &disk))).await
    }

    /// Its sockets stay open while it does not run, as systemd does it.
    pub fn keeping_its_sockets(mut self) -> Self {
        self.keeper = Some(Keeper::default());
        self
    }

    /// From its next start on its store is in etcd, at an address where nobody listens.
    pub fn lose_its_store(&mut self) {
        self.store = "{etcd: {endpoints: ['http://127.0.0.1:1']}}";
    }

    /// Starts the process; its sockets are open then.
    pub async fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread");
        let sockets = self.keeper.as_mut().map_or_else(Sockets::none, Keeper::sockets);
        let plan = Plan { roles: self.roles, sockets, store: self.source.clone() };
        let (config, log) = (self.config(), Output::File(self.directory.join("access.log")));
        let building = runtime.spawn(Process::build_as(plan, config, log));
        let process = within("a process is built", building).await.expect("no panic");
        let process = process.expect("a process on addresses of its own");
        let (addresses, operator) = (process.addresses(), process.operator());
        let shutdown = CancellationToken::new();
        let ended = runtime.spawn(process.run(shutdown.clone()));
        self.running = Some(Running { addresses, operator, shutdown, ended, runtime: Some(runtime) });
    }

    /// Asks the process to drain and waits until it has ended.
    pub async fn stop(&mut self) {
        let mut running = self.running.take().expect("started");
        running.shutdown.cancel();
        let ended = within("the end of a process", &mut running.ended).await.expect("no panic");
        ended.expect("no part ended by itself");
    }

    /// Ends it without another word; it is not started again, since its admin thread lives on.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    pub fn operator(&self) -> &Operator {
        &self.running().operator
    }

    pub fn addresses(&self) -> Addresses {
        self.running().addresses
    }

    pub fn mesh(&self) -> SocketAddr {
        self.addresses().mesh.expect("a gateway")
    }

    /// What the admin API shows.
    pub async fn admin(&self, path: &str) -> Value {
        let address = self.addresses().admin;
        let asked =
            async { Http1::new(TcpStream::connect(address).await?).get(&address.to_string(), path).await };
        let answer = within("the admin API", asked).await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        serde_json::from_str(&answer.body).expect("JSON")
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub fn until_status(&self, what: &str, holds: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
        let what = what.to_owned();
        let caller = std::panic::Location::caller();
        async move {
            let mut last = Value::Null;
            let waiting = async {
                loop {
                    last = self.admin("/status").await;
                    if holds(&last) {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            };
            let waited = timeout(PATIENCE, waiting).await;
            assert!(waited.is_ok(), "{caller}: never came true: {what}: {last:#}");
            last
        }
    }

    /// One request on a connection of its own.
    pub async fn get(&self, host: &str, path: &str) -> std::io::Result<Answer> {
        let asked = async { Http1::new(TcpStream::connect(self.mesh()).await?).get(host, path).await };
        within("an answer of the mesh listener", asked).await
    }

    /// Waits until the mesh listener's answer for a Host is 200.
    pub async fn until_answered(&self, host: &str) {
        let answered = async {
            while !matches!(self.get(host, "/").await, Ok(answer) if answer.status == 200) {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let answered = timeout(PATIENCE, answered).await;
        assert!(answered.is_ok(), "{host} is never answered at {}: {:?}", self.ip, self.get(host, "/").await);
    }

    /// The addresses that the DNS server of this process gives for a name.
    pub async fn resolve(&self, name: &str) -> Vec<String> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        let question = question.to_vec().expect("a question");
        let socket = UdpSocket::bind((self.ip, 0)).await.expect("a free port");
        socket.connect(self.addresses().dns).await.expect("an address of this machine");
        let asked = async {
            let mut answer = [0; 2048];
            loop {
                socket.send(&question).await.expect("room for a datagram");
                // UDP may lose it.
                if let Ok(Ok(length)) = timeout(DATAGRAM_TIME, socket.recv(&mut answer)).await {
                    return Message::from_vec(&answer[..length]).expect("an answer");
                }
            }
        };
        let answer = within("an answer of the DNS server", asked).await;
        answer.answers.iter().map(|record| record.data.to_string()).collect()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("started")
    }

    fn config(&self) -> Config {
        let file = self.directory.join("isthmus.yaml");
        fs::write(&file, format!("{}store: {}\n", self.config, self.store))
            .expect("a file in a directory of ours");
        let overrides = Overrides::new([], &[] as &[String]).expect("none");
        Config::load(Some(Path::new(&file)), &overrides).expect("a good file")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ended.abort();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

const EMBEDDED: &str = "{embedded: {path: ./data}}";
const PAUSE: Duration = Duration::from_millis(20);
const DATAGRAM_TIME: Duration = Duration::from_secs(2);
/// Long enough for a loaded machine, after a lease and the longest pause of a redial.
const PATIENCE: Duration = Duration::from_secs(60);
