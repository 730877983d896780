//! The two clusters of the demo: their files, their processes, and their commands.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::super::output;
use super::etcd::Etcd;
use super::probe;
use super::services::{Service, Services};

/// A process is ready long before; the bound is for a machine that does something else.
const READY_TIME_MAX: Duration = Duration::from_secs(30);
/// Draining has nothing to wait for here.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) struct Pair {
    pub(super) onprem: Cluster,
    pub(super) cloud: Cluster,
    pub(super) program: PathBuf,
}

/// One cluster: a directory, a process, and where it listens.
pub(super) struct Cluster {
    pub(super) name: &'static str,
    pub(super) mesh: SocketAddr,
    pub(super) east_west: SocketAddr,
    pub(super) dns: SocketAddr,
    pub(super) admin: SocketAddr,
    directory: PathBuf,
    program: PathBuf,
    process: Child,
    /// Goes with the cluster.
    _etcd: Option<Etcd>,
}

impl Pair {
    pub(super) async fn start(
        directory: &Path,
        services: &Services,
        etcd: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let onprem = Files::new(directory, "onprem", "eu", 15000, etcd).await?;
        let cart = services.cart_onprem.as_ref().context("cart runs at the start")?;
        onprem.expose("cart", "shop", "8080=http", cart, Exported::Yes)?;
        let cloud = Files::new(directory, "cloud", "us", 25000, etcd).await?;
        cloud.expose("cart", "shop", "8080=http", &services.cart_cloud, Exported::Yes)?;
        cloud.expose("echo", "shop", "8080=http", &services.echo_cloud, Exported::Yes)?;
        cloud.expose("ledger", "bank", "9000=tcp", &services.ledger_cloud, Exported::Yes)?;
        cloud.expose("vault", "bank", "8080=http", &services.vault_cloud, Exported::No)?;
        let (onprem, cloud) = (onprem.start(&program)?, cloud.start(&program)?);
        for cluster in [&onprem, &cloud] {
            cluster.until_ready().await?;
            output::line(format!(
                "Cluster {} runs: mesh {}, between clusters {}, DNS {}, admin {}",
                cluster.name, cluster.mesh, cluster.east_west, cluster.dns, cluster.admin
            ));
        }
        Ok(Self { onprem, cloud, program })
    }

    pub(super) async fn stop(&mut self) {
        tokio::join!(self.onprem.stop(), self.cloud.stop());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Exported {
    Yes,
    No,
}

/// A cluster before its process.
struct Files {
    name: &'static str,
    directory: PathBuf,
    ports: [SocketAddr; 4],
    etcd: Option<Etcd>,
}

impl Files {
    async fn new(
        parent: &Path,
        name: &'static str,
        region: &str,
        base: u16,
        etcd: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let directory = parent.join(name);
        fs::create_dir_all(directory.join("conf.d"))
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let etcd = match etcd {
            Some(program) => Some(Etcd::start(program, &directory).await?),
            None => None,
        };
        let store = match &etcd {
            Some(Etcd { endpoint, version, .. }) => {
                output::line(format!("Cluster {name} keeps its state in etcd {version} at {endpoint}"));
                format!("{{etcd: {{endpoints: [\"{endpoint}\"]}}}}")
            }
            None => "{embedded: {path: ./data}}".to_owned(),
        };
        let ports = free_ports(base)?;
        let [mesh, east_west, dns, admin] = ports;
        let config = format!(
            "cluster: {name}\nlocality: {{region: {region}, zone: {region}-a}}\n\
             store: {store}\nconfig: {{directory: ./conf.d}}\n\
             gateway:\n  mesh: {{address: \"{mesh}\"}}\n  eastWest: {{address: \"{east_west}\", advertise: [\"{east_west}\"]}}\n\
             dns: {{address: \"{dns}\"}}\nadmin: {{address: \"{admin}\"}}\n"
        );
        fs::write(directory.join("isthmus.yaml"), config)?;
        Ok(Self { name, directory, ports, etcd })
    }

    /// Writes what `isthmus expose` prints.
    fn expose(
        &self,
        service: &str,
        namespace: &str,
        port: &str,
        at: &Service,
        exported: Exported,
    ) -> anyhow::Result<()> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args([
            "expose",
            service,
            "--namespace",
            namespace,
            "--port",
            port,
            "--to",
            &at.address.to_string(),
        ]);
        if exported == Exported::Yes {
            command.arg("--export");
        }
        let printed = command.output().context("isthmus expose did not run")?;
        if !printed.status.success() {
            bail!("isthmus expose {service}: {}", String::from_utf8_lossy(&printed.stderr).trim());
        }
        fs::write(self.directory.join("conf.d").join(format!("{service}.yaml")), printed.stdout)?;
        Ok(())
    }

    fn start(self, program: &Path) -> anyhow::Result<Cluster> {
        let log = |name: &str| File::create(self.directory.join(name));
        let process = Command::new(program)
            .args(["run", "--config"])
            .arg(self.directory.join("isthmus.yaml"))
            .stdin(Stdio::null())
            .stdout(log("access.log")?)
            .stderr(log("process.log")?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let [mesh, east_west, dns, admin] = self.ports;
        let (name, directory, program) = (self.name, self.directory, program.to_owned());
        Ok(Cluster { name, mesh, east_west, dns, admin, directory, program, process, _etcd: self.etcd })
    }
}

/// The usual ports if all of them are free, else any.
fn free_ports(base: u16) -> anyhow::Result<[SocketAddr; 4]> {
    let usual = [base + 80, base + 443, base + 53, base];
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).ok();
    let held: Vec<_> = usual.iter().filter_map(|port| free(*port)).collect();
    let listeners = if held.len() == usual.len() {
        held
    } else {
        (0..usual.len()).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?
    };
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addresses.try_into().map_err(|_wrong_length| anyhow::anyhow!("no four free ports on 127.0.0.1"))
}

impl Cluster {
    pub(super) fn access_log(&self) -> PathBuf {
        self.directory.join("access.log")
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn gateway_id(&self) -> String {
        format!("spiffe://{}.isthmus.internal/isthmus/gateway", self.name)
    }

    /// Runs a command of `isthmus` against this cluster and returns what it printed.
    pub(super) async fn isthmus(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut process = Command::new(&self.program)
            .args(["--admin", &self.admin.to_string()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = process.stdin.take().context("standard input is piped")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let printed = process.wait_with_output().await?;
        if !printed.status.success() {
            bail!("isthmus {}: {}", arguments.join(" "), String::from_utf8_lossy(&printed.stderr).trim());
        }
        Ok(String::from_utf8(printed.stdout)?)
    }

    async fn until_ready(&self) -> anyhow::Result<()> {
        let ready = probe::until(READY_TIME_MAX, async || {
            let status = self.isthmus(&["status", "-o", "json"], "").await;
            status.map(|_| ())
        });
        ready.await.with_context(|| {
            format!("cluster {} is not ready; its log says:\n{}", self.name, self.log_tail())
        })
    }

    /// The end of the process's log, for whoever must find out.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.join("process.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Asks the process to drain, and waits for it.
    async fn stop(&mut self) {
        let Some(id) = self.process.id() else { return };
        let terminated = std::process::Command::new("kill").arg(id.to_string()).status();
        let stopped = tokio::time::timeout(STOP_TIME_MAX, self.process.wait()).await;
        if terminated.is_err() || stopped.is_err() {
            output::note(format!("cluster {} did not stop by itself; killed", self.name));
            let _ = self.process.kill().await;
        }
    }
}
