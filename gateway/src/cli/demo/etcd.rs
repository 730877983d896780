//! A real etcd for a cluster of the demo: one member, on a loopback address of its own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use federation::config::EtcdConfig;
use federation::store;
use tokio::process::{Child, Command};

use super::probe;

/// etcd is there in a second; the bound is for a machine that does something else.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) struct Etcd {
    pub(super) endpoint: String,
    pub(super) version: String,
    /// Ends when it is dropped.
    _server: Child,
}

impl Etcd {
    /// Starts a member that keeps its data in a directory, and waits until it serves.
    pub(super) async fn start(program: &Path, directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        // Below 127.64.0.0/10, where clusters have their pools; so the usual ports are free.
        let address =
            Ipv4Addr::new(127, rand::random_range(1..63), rand::random(), rand::random_range(1..255));
        let (endpoint, peer) = (format!("http://{address}:2379"), format!("http://{address}:2380"));
        let log = directory.join("etcd.log");
        let file = File::create(&log)?;
        let started = Command::new(program)
            .args(["--name", "demo", "--data-dir"])
            .arg(directory.join("etcd"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("demo={peer}")])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn();
        let server = match started {
            Ok(server) => server,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "there is no {}; hint: `deploy/demo --etcd` installs one, or name yours: ISTHMUS_ETCD=/path/to/etcd",
                program.display()
            ),
            Err(error) => return Err(error).context(format!("cannot start {}", program.display())),
        };
        let config = EtcdConfig::at(vec![endpoint.clone()]);
        let ready = probe::until(READY_TIME_MAX, async || {
            store::Etcd::open(config.clone()).await.map_err(anyhow::Error::from)
        });
        let opened = ready.await.with_context(|| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            format!(
                "etcd is not ready; its log says:\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            )
        })?;
        Ok(Self {
            endpoint,
            version: opened.version().map(ToString::to_string).unwrap_or_default(),
            _server: server,
        })
    }
}
