//! One cluster on its machines: configuration, processes, and how it comes up.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::network::{Machine, Network, room};
use crate::process::{Printed, Process};
use crate::traffic::{HTTP_PORTS, Plan, TCP_PORT};
use crate::wait;

pub(crate) const MESH_PORT: u16 = 15080;
pub(crate) const EAST_WEST_PORT: u16 = 15443;
const DNS_PORT: u16 = 15053;
const CONTROL_PORT: u16 = 15012;
const ETCD_PORT: u16 = 2379;
const SERVICE_PORT: u16 = 80;
/// Both clusters have it; each asks the other one while it can.
const SHARED: &str = "stock.shop";
const GOING: &str = ", conditions: {ready: false, serving: true, terminating: true}";
/// A name, and the last number of the address.
type Host = (&'static str, u8);

const GATEWAYS: [Host; 2] = [("gateway-1", 11), ("gateway-2", 12)];
const FEDERATIONS: [Host; 2] = [("federation-1", 21), ("federation-2", 22)];
const ETCD: Host = ("etcd", 31);
const WORKLOADS: Host = ("workloads", 41);
/// Debug builds on a machine that compiles something else meanwhile.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// How a cluster is cut into processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One `isthmus run` with the embedded store.
    Whole,
    /// Two gateways, two federation processes, etcd.
    Apart,
}

/// What a cluster is called, its network, and its services.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
    region: &'static str,
    http: &'static str,
    tcp: &'static str,
}

pub(crate) const SITES: [Site; 2] = [
    Site { name: "onprem", number: 1, region: "eu", http: "orders.shop", tcp: "vault.bank" },
    Site { name: "cloud", number: 2, region: "us", http: "web.shop", tcp: "ledger.bank" },
];

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) site: &'static Site,
    pub(crate) workloads: Machine,
    pub(crate) processes: Vec<Process>,
    pub(crate) layout: Layout,
}

impl Cluster {
    /// Machines, files and processes; nothing runs yet.
    pub(crate) fn new(
        network: &Network,
        site: &'static Site,
        layout: Layout,
        programs: &Programs,
    ) -> anyhow::Result<Self> {
        network.switch(site.name, site.number)?;
        let machine = |(name, host): Host| network.machine(site.name, name, site.number, host);
        let workloads = machine(WORKLOADS)?;
        let directory = room(site.name);
        fs::create_dir(&directory)?;
        fs::create_dir(directory.join("conf.d"))?;
        fs::write(directory.join("conf.d/services.yaml"), documents(site, &workloads))?;
        let mut cluster = Self { site, workloads, processes: Vec::new(), layout };
        let (gateways, others): (&[Host], &[Host]) = match layout {
            Layout::Whole => (&GATEWAYS[..1], &[]),
            Layout::Apart => (&GATEWAYS, &FEDERATIONS),
        };
        if layout == Layout::Apart {
            cluster.add_etcd(&machine(ETCD)?, programs)?;
        }
        for &(name, host) in others {
            cluster.add(&machine((name, host))?, name, "federation", programs)?;
        }
        for &(name, host) in gateways {
            let machine = machine((name, host))?;
            let pool = pool(site.number, host);
            // A gateway listens on all of them; packets come to it for its own.
            gateways.iter().try_for_each(|(_, host)| machine.own(&self::pool(site.number, *host)))?;
            cluster.workloads.route(&pool, &machine)?;
            let role = if layout == Layout::Whole { "run" } else { "gateway" };
            cluster.add(&machine, name, role, programs)?;
        }
        Ok(cluster)
    }

    fn add(&mut self, machine: &Machine, name: &str, role: &str, programs: &Programs) -> anyhow::Result<()> {
        let directory = self.directory(name);
        fs::create_dir(&directory)?;
        let (file, settings) = (directory.join("isthmus.yaml"), self.settings(machine, name, role));
        fs::write(&file, settings)?;
        let file = file.to_string_lossy();
        let (log, arguments) = (directory.join("log"), [role, "--config", &file]);
        let name = format!("{}/{name}", self.site.name);
        self.processes.push(Process::new(&name, machine, log, &programs.isthmus, &arguments));
        Ok(())
    }

    fn add_etcd(&mut self, machine: &Machine, programs: &Programs) -> anyhow::Result<()> {
        let directory = self.directory(ETCD.0);
        fs::create_dir(&directory)?;
        let (data, url) = (directory.join("data"), format!("http://{}:{ETCD_PORT}", machine.ip));
        let data = data.to_string_lossy();
        let arguments = ["--data-dir", &data, "--listen-client-urls", &url, "--advertise-client-urls", &url];
        let etcd = programs.etcd.as_deref().context("this layout needs etcd")?;
        let name = format!("{}/{}", self.site.name, ETCD.0);
        self.processes.push(Process::new(&name, machine, directory.join("log"), etcd, &arguments));
        Ok(())
    }

    fn settings(&self, machine: &Machine, name: &str, role: &str) -> String {
        let Site { name: cluster, number, region, .. } = self.site;
        let at = |host: u8, port: u16| format!("\"{}:{port}\"", Ipv4Addr::new(10, *number, 0, host));
        let every = |hosts: &[Host], port| {
            let all: Vec<_> = hosts.iter().map(|(_, host)| at(*host, port)).collect();
            format!("[{}]", all.join(", "))
        };
        let [_, _, _, host] = machine.ip.octets();
        let own = |port| at(host, port);
        let mut settings = format!(
            "cluster: {cluster}\nlocality: {{region: {region}, zone: {region}-a}}\n\
             config: {{directory: {}}}\n",
            self.directory("conf.d").display()
        );
        if role != "run" {
            settings += "data: ./data\n";
        }
        if role != "federation" {
            settings += &format!(
                "gateway:\n  mesh: {{address: {}}}\n  eastWest: {{address: {}, advertise: [{}]}}\n  \
                 virtual: {{pool: {}}}\ndns: {{address: {}}}\n",
                own(MESH_PORT),
                own(EAST_WEST_PORT),
                own(EAST_WEST_PORT),
                pool(*number, host),
                own(DNS_PORT)
            );
        }
        match role {
            "run" => settings += "store: {embedded: {path: ./data}}\n",
            "gateway" => {
                settings += &format!("control: {{endpoints: {}}}\n", every(&FEDERATIONS, CONTROL_PORT));
            }
            _ => {
                settings += &format!(
                    "store: {{etcd: {{endpoints: [\"http://{}\"]}}}}\ncontrol: {{address: {}, advertise: {}, leaderTtl: 4s}}\n\
                     gateway: {{eastWest: {{advertise: {}}}, virtual: {{pools: {}}}}}\ntrust: {{ca: {{directory: {}}}}}\n",
                    at(ETCD.1, ETCD_PORT).trim_matches('"'),
                    own(CONTROL_PORT),
                    every(&FEDERATIONS, CONTROL_PORT),
                    every(&GATEWAYS, EAST_WEST_PORT),
                    pools(*number),
                    self.directory("ca").display()
                );
            }
        }
        let _ = name;
        settings
    }

    /// Starts everything in the order in which it can, and waits until all are ready.
    pub(crate) fn come_up(&mut self) -> anyhow::Result<()> {
        let names: Vec<_> = self.processes.iter().map(|process| process.name.clone()).collect();
        let of = |word: &str| names.iter().filter(|name| name.contains(word)).cloned().collect::<Vec<_>>();
        for name in of("/etcd").into_iter().chain(of("/federation")) {
            self.process_mut(&name)?.start()?;
            if name.contains("/federation") {
                // The first one makes the CA that the others share.
                self.until_alive(&name, &["status", "-o", "json"], |printed| !printed.answer.is_empty())?;
            }
        }
        for name in of("/gateway") {
            if self.layout == Layout::Apart {
                self.join_node(&name)?;
            }
            self.process_mut(&name)?.start()?;
        }
        of("/gateway").iter().try_for_each(|name| self.until_alive(name, &["status"], |said| said.succeeded))
    }

    /// Waits for an answer of a process that must not end meanwhile.
    fn until_alive(
        &mut self,
        name: &str,
        arguments: &[&str],
        good: impl Fn(&Printed) -> bool,
    ) -> anyhow::Result<()> {
        let process = self.process_mut(name)?;
        wait::until(&format!("{name} answers"), START_TIME_MAX, || match process.died() {
            Some(status) => Ok(Err(anyhow::anyhow!("{name} ended by itself: {status}"))),
            None => match process.operator(arguments, "")? {
                printed if good(&printed) => Ok(Ok(())),
                printed => anyhow::bail!("{}{}", printed.answer, printed.notes),
            },
        })?
    }

    /// The gateway gets its first SVID with a token of whoever leads.
    fn join_node(&self, name: &str) -> anyhow::Result<()> {
        let token = wait::until(&format!("a token for {name}"), START_TIME_MAX, || {
            self.ask_leader(&["node", "invite"], "")
        })?;
        let file = self.directory(name.split_once('/').map_or("", |(_, name)| name)).join("isthmus.yaml");
        let file = file.to_string_lossy();
        self.process(name)?.operator(&["node", "join", "--config", &file], &token)?.success()?;
        Ok(())
    }

    /// Whoever can do it does.
    pub(crate) fn ask_leader(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut refused = anyhow::anyhow!("nobody was asked");
        let word = if self.layout == Layout::Whole { "/gateway" } else { "/federation" };
        for process in self.processes.iter().filter(|process| process.name.contains(word)) {
            if !process.runs() {
                continue;
            }
            match process.operator(arguments, input)?.success() {
                Ok(answer) => return Ok(answer),
                Err(error) => refused = error.context(process.name.clone()),
            }
        }
        Err(refused)
    }

    pub(crate) fn process(&self, name: &str) -> anyhow::Result<&Process> {
        let found = self.processes.iter().find(|process| process.name == name);
        found.with_context(|| format!("there is no {name}"))
    }

    pub(crate) fn process_mut(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        let found = self.processes.iter_mut().find(|process| process.name == name);
        found.with_context(|| format!("there is no {name}"))
    }

    /// What its workloads ask of the other cluster.
    pub(crate) fn plan(&self, other: &Site) -> Plan {
        let gateways = self.processes.iter().filter(|process| process.name.contains("/gateway"));
        let ips: Vec<_> = gateways.map(|process| process.machine.ip).collect();
        let at = |port: u16| ips.iter().map(|ip| (*ip, port).into()).collect();
        Plan {
            gateways: at(MESH_PORT),
            nameservers: at(DNS_PORT),
            shared: format!("{SHARED}.svc.clusterset.local"),
            http: format!("{}.svc.clusterset.local", other.http),
            tcp: format!("{}.svc.clusterset.local", other.tcp),
            tcp_port: TCP_PORT,
        }
    }

    fn directory(&self, name: &str) -> PathBuf {
        room(self.site.name).join(name)
    }
}

/// What is run on the machines.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) isthmus: PathBuf,
    pub(crate) etcd: Option<PathBuf>,
    /// This program, for clients and endpoints.
    pub(crate) own: PathBuf,
}

/// The addresses of the services of others at one gateway.
fn pool(number: u8, host: u8) -> String {
    format!("10.{number}.{}.0/24", 100 + host)
}

fn pools(number: u8) -> String {
    let all: Vec<_> = GATEWAYS.iter().map(|(_, host)| format!("\"{}\"", pool(number, *host))).collect();
    format!("[{}]", all.join(", "))
}

/// Does an address belong to a gateway: its own, or one of its pool.
pub(crate) fn is_of(ip: std::net::IpAddr, machine: &Machine) -> bool {
    let [a, b, _, host] = machine.ip.octets();
    match ip {
        std::net::IpAddr::V4(ip) => ip == machine.ip || ip.octets()[..3] == [a, b, 100 + host],
        std::net::IpAddr::V6(_) => false,
    }
}

fn documents(site: &Site, workloads: &Machine) -> String {
    let at = |port: &u16| (workloads.ip, *port).into();
    let web: Vec<_> = HTTP_PORTS.iter().map(at).collect();
    tests::service_documents(site.http, &format!("{SERVICE_PORT}=http"), &web)
        + &tests::export_document(site.http)
        + "---\n"
        + &tests::service_documents(site.tcp, &format!("{TCP_PORT}=tcp"), &[at(&TCP_PORT)])
        + &tests::export_document(site.tcp)
        + "---\n"
        + &tests::service_documents(SHARED, &format!("{SERVICE_PORT}=http"), &[])
        + &tests::slice_document(SHARED, 1, "p", at(&HTTP_PORTS[0]), GOING)
        + &tests::export_document(SHARED)
}

/// The `isthmus` that was built beside this program.
pub(crate) fn isthmus_beside(own: &Path) -> anyhow::Result<PathBuf> {
    let mut places = own.ancestors().skip(1).take(2).map(|directory| directory.join("isthmus"));
    places.find(|path| path.exists()).context("isthmus is not built (hint: cargo build --workspace)")
}
