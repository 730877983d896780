//! The processes that are measured, each started on free ports and ended when dropped.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::measure::cpu_of;

const HOST: &str = "bench.shop.svc.clusterset.local";
/// Half a minute, with the pause between.
const ATTEMPTS_MAX: usize = 600;
const PAUSE: Duration = Duration::from_millis(50);

/// A child process that ends with its owner.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Backend {
    address: SocketAddr,
    _process: Process,
}

/// What wrk is pointed at, and whose CPU time counts.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) host: &'static str,
    processes: Vec<Process>,
    _files: Vec<TempDir>,
}

impl Backend {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (process, address) = started(own(&["backend"])?)?;
        Ok(Self { address, _process: process })
    }
}

impl Subject {
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.processes.iter().map(|process| cpu_of(process.0.id())).sum()
    }

    pub(crate) fn bare_pingora(backend: &Backend) -> anyhow::Result<Self> {
        let (process, address) = started(own(&["bare", &backend.address.to_string()])?)?;
        until_open(address)?;
        Ok(Self {
            name: "bare pingora 0.9.1",
            address,
            host: HOST,
            processes: vec![process],
            _files: Vec::new(),
        })
    }

    pub(crate) fn ingress(isthmus: &Path, backend: &Backend) -> anyhow::Result<Self> {
        let port = free_port()?;
        let cluster = Cluster::new("bench", isthmus, Some(backend), Some(port))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until_open(address)?;
        Ok(cluster.subject("isthmus, Gateway and HTTPRoute", address))
    }

    pub(crate) fn mesh(isthmus: &Path, backend: &Backend) -> anyhow::Result<Self> {
        let cluster = Cluster::new("bench", isthmus, Some(backend), None)?;
        let address = cluster.mesh;
        Ok(cluster.subject("isthmus, mesh listener by Host", address))
    }

    pub(crate) fn two_gateways(isthmus: &Path, backend: &Backend) -> anyhow::Result<Self> {
        let near = Cluster::new("near", isthmus, None, None)?;
        let far = Cluster::new("far", isthmus, Some(backend), None)?;
        let token = far.command(&["peer", "invite", "near"], "")?;
        near.command(&["peer", "join"], &token)?;
        near.until_answered()?;
        let mesh = near.mesh;
        let mut subject = near.subject("isthmus, two gateways over a link (mTLS)", mesh);
        subject.processes.push(far.process);
        subject._files.push(far.files);
        Ok(subject)
    }
}

/// `isthmus run` with free ports.
struct Cluster {
    isthmus: PathBuf,
    mesh: SocketAddr,
    admin: SocketAddr,
    process: Process,
    files: TempDir,
}

impl Cluster {
    fn new(
        name: &str,
        isthmus: &Path,
        backend: Option<&Backend>,
        ingress: Option<u16>,
    ) -> anyhow::Result<Self> {
        let files = tempfile::tempdir()?;
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let [mesh, east_west, dns, admin] = [free_port()?, free_port()?, free_port()?, free_port()?].map(at);
        std::fs::create_dir(files.path().join("conf.d"))?;
        let config = format!(
            "cluster: {name}\nconfig: {{directory: ./conf.d}}\ngateway:\n  mesh: {{address: \"{mesh}\"}}\n  \
             eastWest: {{address: \"{east_west}\", advertise: [\"{east_west}\"]}}\n\
             dns: {{address: \"{dns}\"}}\nadmin: {{address: \"{admin}\"}}\n"
        );
        std::fs::write(files.path().join("isthmus.yaml"), config)?;
        let documents =
            backend.map(|backend| documents(isthmus, backend, ingress)).transpose()?.unwrap_or_default();
        std::fs::write(files.path().join("conf.d/bench.yaml"), documents)?;
        let process = Command::new(isthmus)
            .args(["run", "--log", "warn", "--config"])
            .arg(files.path().join("isthmus.yaml"))
            .env("TOKIO_WORKER_THREADS", "1")
            .stdout(Stdio::null())
            .spawn()?;
        let cluster = Self { isthmus: isthmus.to_owned(), mesh, admin, process: Process(process), files };
        cluster.until(|cluster| cluster.command(&["status"], "").map(drop))?;
        Ok(cluster)
    }

    fn subject(self, name: &'static str, address: SocketAddr) -> Subject {
        Subject { name, address, host: HOST, processes: vec![self.process], _files: vec![self.files] }
    }

    fn command(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        use std::io::Write;
        let mut child = Command::new(&self.isthmus)
            .args(["--admin", &self.admin.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("piped")?.write_all(input.as_bytes())?;
        let printed = child.wait_with_output()?;
        if !printed.status.success() {
            bail!("isthmus {arguments:?}: {}", String::from_utf8_lossy(&printed.stderr));
        }
        Ok(String::from_utf8(printed.stdout)?)
    }

    fn until_answered(&self) -> anyhow::Result<()> {
        self.until(|cluster| {
            use std::io::{Read, Write};
            let mut stream = TcpStream::connect(cluster.mesh)?;
            write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { bail!("answered {answer:?}") }
        })
    }

    fn until(&self, attempt: impl Fn(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        until(|| attempt(self))
    }
}

fn documents(isthmus: &Path, backend: &Backend, ingress: Option<u16>) -> anyhow::Result<String> {
    let printed = Command::new(isthmus)
        .args([
            "expose",
            "bench",
            "-n",
            "shop",
            "--port",
            "80=http",
            "--export",
            "--to",
            &backend.address.to_string(),
        ])
        .output()?;
    let mut documents = String::from_utf8(printed.stdout)?;
    if let Some(port) = ingress {
        documents.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: bench, namespace: shop}}\n\
             spec:\n  gatewayClassName: isthmus\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n  \
             - {{name: http, port: {port}, protocol: HTTP}}\n---\napiVersion: gateway.networking.k8s.io/v1\n\
             kind: HTTPRoute\nmetadata: {{name: bench, namespace: shop}}\nspec:\n  parentRefs: [{{name: bench}}]\n  \
             rules:\n  - backendRefs: [{{name: bench, port: 80}}]\n"
        ));
    }
    Ok(documents)
}

/// The `isthmus` that was built beside this program.
pub(crate) fn isthmus_binary() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("isthmus");
    if !path.exists() {
        bail!("{} is not there (hint: cargo build --release --workspace)", path.display());
    }
    Ok(path)
}

fn own(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdout(Stdio::piped());
    Ok(command)
}

/// Starts a process whose first line is its address.
fn started(mut command: Command) -> anyhow::Result<(Process, SocketAddr)> {
    let mut child = command.spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
    Ok((Process(child), line.trim().parse().context("it did not say where it listens")?))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn until_open(address: SocketAddr) -> anyhow::Result<()> {
    until(|| TcpStream::connect(address).map(drop).with_context(|| format!("{address} does not open")))
}

/// Repeats until it succeeds; the last error if it never does.
fn until(mut attempt: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    for _attempt in 1..ATTEMPTS_MAX {
        if attempt().is_ok() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    attempt()
}
