//! A scenario is a list of steps; the stage plays them under constant traffic.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::clock::{self, Micros, span};
use crate::cluster::{Cluster, Layout, Programs, SITES};
use crate::drive::{Endpoints, Traffic};
use crate::ledger::{Death, Faults, Outage, judge, told};
use crate::network::Network;
use crate::process::{Process, Signal};
use crate::say;
use crate::says::Says;
use crate::wait;

/// What a condition may take: leases, back-off, and a machine that is busy.
const CONDITION_TIME_MAX: Duration = Duration::from_secs(60);
/// As many in a row, of each kind in each direction, are a sign that all is well.
const CALM: usize = 10;

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) layout: Layout,
    pub(crate) about: &'static str,
    /// Not among those that run when none is named.
    pub(crate) only_by_name: bool,
    pub(crate) steps: Vec<Step>,
}

/// Processes go by `cluster/name`.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Begins a phase with a verdict of its own.
    Phase(String),
    Kill(String),
    Start(String),
    /// SIGTERM, and waits for the end.
    Stop(String),
    Pause(String),
    Resume(String),
    /// Packets between clusters are lost.
    Disconnect,
    Connect,
    Unplug(String),
    Plug(String),
    /// So many more of each kind of request, in each direction.
    Requests(usize),
    /// From here on there is no way to a cluster.
    Outage(&'static str),
    /// There is one again: waits until nothing fails any more.
    OutageEnds,
    /// Asked of a process until it is so.
    Until(String, Says),
    /// Somebody leads the cluster with a good store and fresh peers, and both gateways serve from that.
    Converged(String),
    /// What the operator sees is printed.
    Show(String),
}

/// Both clusters, joined, with traffic.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) clusters: Vec<Cluster>,
    network: Network,
    traffic: Option<Traffic>,
    faults: Faults,
    phase: Phase,
    _endpoints: Vec<Endpoints>,
}

#[derive(Debug, Default)]
struct Phase {
    title: String,
    mark: usize,
    began: Micros,
    fault: Option<Micros>,
}

impl Stage {
    pub(crate) fn set(layout: Layout, programs: &Programs) -> anyhow::Result<Self> {
        let network = Network::new()?;
        let mut stage = Self {
            clusters: Vec::new(),
            network,
            traffic: None,
            faults: Faults::default(),
            phase: Phase::default(),
            _endpoints: Vec::new(),
        };
        for site in &SITES {
            stage.clusters.push(Cluster::new(&stage.network, site, layout, programs)?);
        }
        stage._endpoints = stage
            .clusters
            .iter()
            .map(|cluster| Endpoints::start(cluster, programs))
            .collect::<Result<_, _>>()?;
        Ok(stage)
    }

    /// Starts everything, joins the clusters with a token, and begins with the traffic.
    pub(crate) fn begin(&mut self, programs: &Programs) -> anyhow::Result<()> {
        let began = clock::now();
        for cluster in &mut self.clusters {
            cluster.come_up()?;
        }
        if self.clusters.iter().any(|cluster| cluster.layout == Layout::Apart) {
            SITES.iter().try_for_each(|site| self.leader_of(site.name).map(drop))?;
        }
        let [onprem, cloud] = self.clusters.as_slice() else { bail!("two clusters") };
        let token = wait::until("an invitation", CONDITION_TIME_MAX, || {
            cloud.ask_leader(&["peer", "invite", onprem.site.name], "")
        })?;
        wait::until("the clusters join", CONDITION_TIME_MAX, || {
            onprem.ask_leader(&["peer", "join"], &token)
        })?;
        for cluster in &self.clusters {
            match cluster.layout {
                Layout::Whole => {
                    self.until(&format!("{}/gateway-1", cluster.site.name), &Says::PeersReachable)?
                }
                Layout::Apart => self.converged(cluster.site.name)?,
            }
        }
        say(format!("both clusters are up and joined after {}", span(clock::now() - began)));
        let traffic = Traffic::start(&self.clusters, programs)?;
        traffic.calm(CALM, CONDITION_TIME_MAX)?;
        traffic.forget();
        self.traffic = Some(traffic);
        Ok(())
    }

    /// The federation process that leads a cluster.
    fn leader_of(&self, cluster: &str) -> anyhow::Result<String> {
        let names = self.names(&format!("{cluster}/federation"));
        wait::until(&format!("somebody leads {cluster}"), CONDITION_TIME_MAX, || {
            let mut wrong = anyhow::anyhow!("nobody runs");
            for name in &names {
                match self.holds(name, &Says::Leads) {
                    Ok(()) => return Ok(name.clone()),
                    Err(error) => wrong = error.context(name.clone()),
                }
            }
            Err(wrong)
        })
    }

    fn converged(&self, cluster: &str) -> anyhow::Result<()> {
        let began = clock::now();
        wait::until(&format!("{cluster} converges"), CONDITION_TIME_MAX, || {
            let leader = self.leader_of(cluster)?;
            self.holds(&leader, &Says::StoreIsGood)?;
            self.holds(&leader, &Says::PeersFresh)?;
            let generation = self.status(&leader)?["generation"].clone();
            for gateway in self.names(&format!("{cluster}/gateway")) {
                self.holds(&gateway, &Says::StateIsFresh)?;
                let serves = self.status(&gateway)?["generation"].clone();
                if serves != generation {
                    bail!("{leader} has generation {generation}, {gateway} {serves}");
                }
            }
            Ok(())
        })?;
        say(format!("    {cluster} converged after {}", span(clock::now() - began)));
        Ok(())
    }

    fn status(&self, name: &str) -> anyhow::Result<Value> {
        let printed = self.find(name)?.operator(&["status", "-o", "json"], "")?;
        serde_json::from_str(&printed.answer)
            .with_context(|| format!("{name} says no status: {}", printed.notes.trim()))
    }

    fn holds(&self, name: &str, says: &Says) -> anyhow::Result<()> {
        let traffic =
            || self.traffic.as_ref().map(|traffic| traffic.since(self.phase.mark)).unwrap_or_default();
        says.holds(&self.status(name)?, self.find(name)?, traffic)
    }

    pub(crate) fn play(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        for step in steps {
            self.step(step).with_context(|| format!("in {:?}, at {step:?}", self.phase.title))?;
            self.nobody_died()?;
        }
        self.end_phase()
    }

    /// Lets open requests end and gives the verdict.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        if let Some(traffic) = self.traffic.take() {
            let asked = traffic.stop()?;
            let verdict = judge(asked.iter(), &self.faults);
            say(format!("in all: {}", verdict.line(None)));
            for excused in &verdict.excused {
                say(format!("    open on a killed gateway: {}", told(excused)));
            }
            if !verdict.failed.is_empty() {
                bail!("{} requests failed:\n{}", verdict.failed.len(), verdict.failures());
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Phase(title) => {
                self.end_phase()?;
                let mark = self.traffic.as_ref().map_or(0, Traffic::mark);
                self.phase = Phase { title: title.clone(), mark, began: clock::now(), fault: None };
            }
            Step::Kill(name) => self.kill(name)?,
            Step::Start(name) => self.process(name)?.start()?,
            Step::Stop(name) => {
                self.fault();
                self.process(name)?.signal(Signal::Terminate)?;
                let (told, ended) = (clock::now(), self.process(name)?.ended()?);
                say(format!(
                    "    {name} ended {} after it was told to stop: {ended}",
                    span(clock::now() - told)
                ));
                // etcd ends itself with the signal that it was told to stop by.
                if !ended.success() && !name.ends_with("/etcd") {
                    bail!("{name} was told to stop and ended with {ended}");
                }
            }
            Step::Pause(name) => {
                self.fault();
                self.process(name)?.signal(Signal::Stop)?;
            }
            Step::Resume(name) => drop(self.process(name)?.signal(Signal::Continue)?),
            Step::Disconnect => {
                self.fault();
                self.network.connect(false)?;
            }
            Step::Connect => self.network.connect(true)?,
            Step::Unplug(name) => {
                self.fault();
                let machine = self.process(name)?.machine.clone();
                self.network.plug(&machine, false)?;
            }
            Step::Plug(name) => {
                let machine = self.process(name)?.machine.clone();
                self.network.plug(&machine, true)?;
            }
            Step::Requests(more) => self.traffic.as_ref().context("no traffic")?.progress(*more)?,
            Step::Outage(cluster) => {
                self.faults.outages.push(Outage { cluster, began: clock::now(), ended: None });
            }
            Step::OutageEnds => {
                let began = clock::now();
                self.traffic.as_ref().context("no traffic")?.calm(CALM, CONDITION_TIME_MAX)?;
                say(format!("    calm after {}", span(clock::now() - began)));
                if let Some(outage) = self.faults.outages.last_mut() {
                    outage.ended = Some(clock::now());
                }
            }
            Step::Until(name, says) => self.until(name, says)?,
            Step::Converged(cluster) => self.converged(cluster)?,
            Step::Show(name) => self.show(name)?,
        }
        Ok(())
    }

    fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        self.fault();
        let at = self.process(name)?.signal(Signal::Kill)?;
        if name.contains("/gateway") {
            let machine = self.process(name)?.machine.clone();
            let site = SITES.iter().find(|site| name.starts_with(site.name)).context("a cluster")?;
            self.faults.deaths.push(Death { cluster: site.name, machine, at });
        }
        Ok(())
    }

    fn until(&self, name: &str, says: &Says) -> anyhow::Result<()> {
        let began = clock::now();
        wait::until(&format!("{name} says {says:?}"), CONDITION_TIME_MAX, || self.holds(name, says))?;
        let now = clock::now();
        let since = self.phase.fault.map(|fault| format!(", {} after the fault", span(now - fault)));
        say(format!("    {name} {says:?} after {}{}", span(now - began), since.unwrap_or_default()));
        Ok(())
    }

    fn show(&self, name: &str) -> anyhow::Result<()> {
        let printed = self.find(name)?.operator(&["status"], "")?;
        say(format!("    {name}$ isthmus status"));
        for line in printed.answer.lines().chain(printed.notes.lines()) {
            say(format!("    | {line}"));
        }
        Ok(())
    }

    fn end_phase(&mut self) -> anyhow::Result<()> {
        let Some(traffic) = &self.traffic else { return Ok(()) };
        if self.phase.title.is_empty() {
            return Ok(());
        }
        let asked = traffic.since(self.phase.mark);
        let verdict = judge(asked.iter(), &self.faults);
        let Phase { title, began, fault, .. } = &self.phase;
        say(format!("{title} ({}): {}", span(clock::now() - began), verdict.line(*fault)));
        say(format!("    slowest: {}", verdict.slowest()));
        if !verdict.failed.is_empty() {
            bail!("{} requests failed during {title:?}:\n{}", verdict.failed.len(), verdict.failures());
        }
        Ok(())
    }

    /// A process that ends by itself is a failure of its own.
    fn nobody_died(&mut self) -> anyhow::Result<()> {
        for process in self.clusters.iter_mut().flat_map(|cluster| &mut cluster.processes) {
            if let Some(status) = process.died() {
                bail!("{} ended by itself: {status}", process.name);
            }
        }
        Ok(())
    }

    fn fault(&mut self) {
        self.phase.fault.get_or_insert_with(clock::now);
    }

    fn names(&self, word: &str) -> Vec<String> {
        let all = self.clusters.iter().flat_map(|cluster| &cluster.processes);
        all.filter(|process| process.name.contains(word)).map(|process| process.name.clone()).collect()
    }

    fn find(&self, name: &str) -> anyhow::Result<&Process> {
        let cluster = self.clusters.iter().find(|cluster| name.starts_with(cluster.site.name));
        cluster.with_context(|| format!("no cluster has {name}"))?.process(name)
    }

    fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        let cluster = self.clusters.iter_mut().find(|cluster| name.starts_with(cluster.site.name));
        cluster.with_context(|| format!("no cluster has {name}"))?.process_mut(name)
    }
}
