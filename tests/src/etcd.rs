//! Real etcd servers on loopback, which go when they are dropped.
//!
//! Each member has a loopback address of its own, drawn at random, so it keeps its ports over restarts
//! and two tests never meet. The binary is the one that `deploy/prerequisites` finds or installs.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use federation::config::{ClientCertificate, EtcdConfig, EtcdTls};
use federation::store::{Etcd, keys};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// etcd is there in a second; a busy machine takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);

/// An etcd of one or three members.
#[derive(Debug)]
pub struct TestEtcd {
    members: Vec<Member>,
    tls: Option<TestCa>,
    directory: TempDir,
    arguments: Vec<String>,
}

#[derive(Debug)]
struct Member {
    name: String,
    address: Ipv4Addr,
    server: Option<Child>,
}

/// How an etcd is started.
#[derive(Debug, Clone, Default)]
pub struct EtcdShape {
    /// One if not said.
    pub members: Option<usize>,
    /// TLS on the client's side, with client certificates required.
    pub tls: bool,
    /// More arguments of the server.
    pub arguments: Vec<String>,
}

impl TestEtcd {
    /// One member, no TLS.
    pub async fn start() -> Self {
        Self::start_as(EtcdShape::default()).await
    }

    pub async fn start_as(shape: EtcdShape) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let members: Vec<Member> = (0..shape.members.unwrap_or(1))
            .map(|number| Member { name: format!("m{number}"), address: loopback(), server: None })
            .collect();
        let addresses: Vec<Ipv4Addr> = members.iter().map(|member| member.address).collect();
        let tls = shape.tls.then(|| TestCa::new(directory.path(), &addresses));
        let mut etcd = Self { members, tls, directory, arguments: shape.arguments };
        for number in 0..etcd.members.len() {
            etcd.spawn(number);
        }
        etcd.ready().await;
        etcd
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| self.client_url(member)).collect()
    }

    /// How the user `root` reaches it; without TLS, how everybody does.
    pub fn config(&self) -> EtcdConfig {
        self.config_of("root")
    }

    /// How a user reaches it, by a certificate with his name.
    pub fn config_of(&self, user: &str) -> EtcdConfig {
        let tls = self.tls.as_ref().map(|ca| ca.files_of(user));
        EtcdConfig { endpoints: self.endpoints(), prefix: keys::everything(), tls }
    }

    pub async fn open(&self) -> Etcd {
        Etcd::open(self.config()).await.expect("etcd can be opened")
    }

    /// Ends a member as a power cut does.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut server) = self.members[member].server.take() {
            let _gone = server.kill();
            let _status = server.wait();
        }
    }

    /// Starts a member that was killed, with what it had on disk, and waits until it serves.
    pub async fn restart(&mut self, member: usize) {
        self.spawn(member);
        self.ready().await;
    }

    /// Starts a member that was killed as one that has lost its disk.
    pub async fn restart_empty(&mut self, member: usize) {
        fs::remove_dir_all(self.data_of(&self.members[member])).expect("its data can be removed");
        self.restart(member).await;
    }

    /// Keeps what a member has on disk, for `put_back`; the member must not run.
    pub fn set_aside(&self, member: usize) {
        let data = self.data_of(&self.members[member]);
        copy_all(&data, &data.with_extension("aside")).expect("its data can be copied");
    }

    /// Gives a member the disk that it had once, as a restored machine has.
    pub fn put_back(&self, member: usize) {
        let data = self.data_of(&self.members[member]);
        fs::remove_dir_all(&data).expect("its data can be removed");
        copy_all(&data.with_extension("aside"), &data).expect("its data can be copied");
    }

    /// Runs etcdctl as a user; its output.
    pub fn etcdctl(&self, user: &str, arguments: &[&str]) -> String {
        let output = self.command_as(user, &etcdctl()).args(arguments).output().expect("etcdctl starts");
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command with the environment by which etcdctl finds this etcd as a user.
    pub fn command_as(&self, user: &str, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("ETCDCTL_ENDPOINTS", self.endpoints().join(",")).env("ISTHMUS_ETCDCTL", etcdctl());
        if let Some(EtcdTls { ca, client: Some(client) }) = self.config_of(user).tls {
            command.env("ETCDCTL_CACERT", ca).env("ETCDCTL_CERT", client.cert).env("ETCDCTL_KEY", client.key);
        }
        command
    }

    fn spawn(&mut self, number: usize) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let peer = |member: &Member| format!("http://{}:{PEER_PORT}", member.address);
        let cluster: Vec<_> =
            self.members.iter().map(|member| format!("{}={}", member.name, peer(member))).collect();
        let member = &self.members[number];
        let client = format!("{scheme}://{}:{CLIENT_PORT}", member.address);
        let log = File::options().create(true).append(true).open(self.log_of(member)).expect("a log");
        let mut command = Command::new(etcd());
        command
            .args(["--name", &member.name, "--data-dir"])
            .arg(self.data_of(member))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(member), "--initial-advertise-peer-urls", &peer(member)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-token", &self.directory.path().display().to_string()])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        if let Some(ca) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca.directory.join("ca.pem"));
            command.arg("--cert-file").arg(ca.directory.join("server.pem"));
            command.arg("--key-file").arg(ca.directory.join("server.key"));
        }
        let server = command.spawn().expect("etcd starts");
        self.members[number].server = Some(server);
    }

    /// Waits until a quorum answers; a member that has ended says why.
    async fn ready(&mut self) {
        let waited = timeout(START_TIMEOUT, async {
            while let Err(error) = Etcd::open(self.config()).await {
                for number in 0..self.members.len() {
                    let ended = match &mut self.members[number].server {
                        Some(server) => server.try_wait().expect("a child can be asked"),
                        None => None,
                    };
                    if let Some(status) = ended {
                        panic!("etcd ended with {status}: {}", self.log(number));
                    }
                }
                sleep(PAUSE).await;
                drop(error);
            }
        });
        assert!(waited.await.is_ok(), "etcd did not get ready: {}", self.log(0));
    }

    /// The end of a member's log.
    fn log(&self, number: usize) -> String {
        let log = fs::read_to_string(self.log_of(&self.members[number])).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn client_url(&self, member: &Member) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{CLIENT_PORT}", member.address)
    }

    fn data_of(&self, member: &Member) -> PathBuf {
        self.directory.path().join(format!("{}.data", member.name))
    }

    fn log_of(&self, member: &Member) -> PathBuf {
        self.directory.path().join(format!("{}.log", member.name))
    }
}

impl Drop for TestEtcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|number| self.kill(number));
    }
}

/// A CA that etcd trusts, with a certificate for each user who is asked for.
#[derive(Debug)]
struct TestCa {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    fn new(directory: &Path, addresses: &[Ipv4Addr]) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let issuer = CertifiedIssuer::self_signed(params, key_pair()).expect("a CA");
        let ca = Self { directory: directory.to_owned(), issuer };
        fs::write(directory.join("ca.pem"), ca.issuer.pem()).expect("the CA is written");
        let names = addresses.iter().map(|address| SanType::IpAddress((*address).into())).collect();
        ca.issue("server", names);
        ca
    }

    fn files_of(&self, user: &str) -> EtcdTls {
        let [cert, key] = ["pem", "key"].map(|kind| self.directory.join(format!("{user}.{kind}")));
        if !key.exists() {
            self.issue(user, Vec::new());
        }
        EtcdTls { ca: self.directory.join("ca.pem"), client: Some(ClientCertificate { cert, key }) }
    }

    fn issue(&self, name: &str, names: Vec<SanType>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = names;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = key_pair();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = self.directory.join(format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).expect("the key is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
        fs::write(self.directory.join(format!("{name}.pem")), certificate.pem()).expect("it is written");
    }
}

fn key_pair() -> KeyPair {
    KeyPair::generate().expect("a key")
}

/// Below 127.64.0.0/10, where clusters have their pools.
fn loopback() -> Ipv4Addr {
    let mut drawn = [0; 3];
    SystemRandom::new().fill(&mut drawn).expect("random bytes");
    Ipv4Addr::new(127, 1 + drawn[0] % 62, drawn[1], 1 + drawn[2] % 254)
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, target) = (entry.as_ref().map_err(copy_error)?.path(), to.join(entry?.file_name()));
        if path.is_dir() { copy_all(&path, &target)? } else { fs::copy(&path, &target).map(drop)? }
    }
    Ok(())
}

fn copy_error(error: &io::Error) -> io::Error {
    io::Error::other(error.to_string())
}

/// The etcd to test with.
fn etcd() -> PathBuf {
    find("ISTHMUS_ETCD", "etcd")
}

fn etcdctl() -> PathBuf {
    find("ISTHMUS_ETCDCTL", "etcdctl")
}

/// Named by the environment, on the path, or where `deploy/prerequisites` puts it.
fn find(variable: &str, program: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cached = cache.or_else(home).map(|cache| cache.join("isthmus/etcd/usr/bin").join(program));
    let found = named.or(on_path).or(cached.filter(|file| file.is_file()));
    found.unwrap_or_else(|| {
        panic!("there is no {program} to test with: run tests/run, which installs one, or set {variable}")
    })
}
