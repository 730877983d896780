//! Machines and networks, as namespaces of the kernel that end with the test.
//!
//! The whole test lives in a network, mount and process namespace of its own: when its first process
//! ends, however it ends, the kernel ends all others and takes away every interface, mount and file.
//! Within it each machine is a network namespace with one interface on the switch of its cluster, and
//! the test itself is the router between the clusters.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// What lives only as long as the test: machines, configurations, data, logs.
pub(crate) const ROOM: &str = "/run";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const TOOLS: &[(&str, &str)] =
    &[("unshare", "util-linux"), ("nsenter", "util-linux"), ("mount", "mount"), ("ip", "iproute2")];

/// Becomes the same program within namespaces of its own.
pub(crate) fn enter(arguments: &[String]) -> anyhow::Error {
    let missing: Vec<_> = TOOLS.iter().filter(|(tool, _)| !runs(Command::new(tool).arg("-V"))).collect();
    if !missing.is_empty() {
        let packages: Vec<_> = missing.iter().map(|(tool, package)| format!("{tool} ({package})")).collect();
        return anyhow::anyhow!("please install {}", packages.join(", "));
    }
    if !runs(unshare().arg("true")) {
        return anyhow::anyhow!(
            "namespaces cannot be made here (hint: run this as root, or allow unprivileged user namespaces)"
        );
    }
    match std::env::current_exe() {
        Ok(program) => unshare().arg(program).arg("--inside").args(arguments).exec().into(),
        Err(error) => error.into(),
    }
}

/// The router, and the switch of each cluster.
#[derive(Debug)]
pub(crate) struct Network(());

/// A namespace with an address.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
}

impl Network {
    pub(crate) fn new() -> anyhow::Result<Self> {
        ran(Command::new("mount").args(["--make-rprivate", "/"]))?;
        ran(Command::new("mount").args(["-t", "tmpfs", "tmpfs", ROOM]))?;
        ip("link set lo up")?;
        let network = Self(());
        network.connect(true)?;
        Ok(network)
    }

    /// A switch; the router has the first address of 10.<number>.0.0/24.
    pub(crate) fn switch(&self, cluster: &str, number: u8) -> anyhow::Result<()> {
        ip(&format!("link add name {cluster} type bridge"))?;
        ip(&format!("addr add 10.{number}.0.1/24 dev {cluster}"))?;
        ip(&format!("link set {cluster} up"))
    }

    pub(crate) fn machine(&self, cluster: &str, name: &str, number: u8, host: u8) -> anyhow::Result<Machine> {
        let ip_address = Ipv4Addr::new(10, number, 0, host);
        let (machine, port) = (format!("{cluster}-{name}"), port(number, host));
        ip(&format!("netns add {machine}"))?;
        ip(&format!("link add name {port} type veth peer name eth0 netns {machine}"))?;
        ip(&format!("link set {port} master {cluster} up"))?;
        for step in [
            "link set lo up".to_owned(),
            format!("addr add {ip_address}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via 10.{number}.0.1"),
        ] {
            ip(&format!("-n {machine} {step}"))?;
        }
        Ok(Machine { name: machine, ip: ip_address })
    }

    /// Whether packets go between clusters; if not they are lost without a word.
    pub(crate) fn connect(&self, connected: bool) -> anyhow::Result<()> {
        std::fs::write(FORWARD, if connected { "1" } else { "0" }).context("ip_forward")
    }

    /// Whether a machine's cable is in.
    pub(crate) fn plug(&self, machine: &Machine, plugged: bool) -> anyhow::Result<()> {
        let [_, number, _, host] = machine.ip.octets();
        ip(&format!("link set {} {}", port(number, host), if plugged { "up" } else { "down" }))
    }
}

impl Machine {
    /// A program that will run on this machine.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={ROOM}/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// A network of addresses that are all this machine's own.
    pub(crate) fn own(&self, network: &str) -> anyhow::Result<()> {
        ip(&format!("-n {} route add local {network} dev lo", self.name))
    }

    pub(crate) fn route(&self, network: &str, via: &Self) -> anyhow::Result<()> {
        ip(&format!("-n {} route add {network} via {}", self.name, via.ip))
    }
}

pub(crate) fn room(name: &str) -> PathBuf {
    Path::new(ROOM).join(name)
}

fn port(number: u8, host: u8) -> String {
    format!("port-{number}-{host}")
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    ran(Command::new("ip").args(arguments.split(' ')))
}

fn runs(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a program to its end; what it complained of is the error.
pub(crate) fn ran(command: &mut Command) -> anyhow::Result<()> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !done.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
