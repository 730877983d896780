//! The clients and endpoints of both clusters as child processes, and what they report.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use parking_lot::Mutex;

use crate::cluster::{Cluster, Programs};
use crate::ledger::Asked;
use crate::network::room;
use crate::traffic::{Flow, Outcome};
use crate::wait;

/// The slowest flow sends ten a second; answers may take their time.
const PROGRESS_TIME_MAX: Duration = Duration::from_secs(120);

/// Endpoints of one cluster; they end with their owner.
#[derive(Debug)]
pub(crate) struct Endpoints(Child);

/// Clients in all clusters, at work.
#[derive(Debug)]
pub(crate) struct Traffic {
    asked: Arc<Mutex<Vec<Asked>>>,
    clients: Vec<Clients>,
}

#[derive(Debug)]
struct Clients {
    from: &'static str,
    child: Child,
    /// They stop once this is closed.
    stop: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
}

impl Endpoints {
    pub(crate) fn start(cluster: &Cluster, programs: &Programs) -> anyhow::Result<Self> {
        let mut command = cluster.workloads.command(&programs.own);
        Ok(Self(command.arg("endpoints").stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Traffic {
    pub(crate) fn start(clusters: &[Cluster], programs: &Programs) -> anyhow::Result<Self> {
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let mut clients = Vec::new();
        for cluster in clusters {
            let other = clusters.iter().find(|other| other.site.name != cluster.site.name);
            let plan = cluster.plan(other.context("two clusters")?.site);
            let log = std::fs::File::create(room(cluster.site.name).join("clients.log"))?;
            let mut child = cluster
                .workloads
                .command(&programs.own)
                .args(["clients", &serde_json::to_string(&plan)?])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()?;
            let (stop, lines) = (child.stdin.take(), child.stdout.take().context("piped")?);
            let (from, written) = (cluster.site.name, asked.clone());
            let reader = std::thread::spawn(move || read(lines, from, &written));
            clients.push(Clients { from, child, stop, reader: Some(reader) });
        }
        Ok(Self { asked, clients })
    }

    /// How many requests are known by now.
    pub(crate) fn mark(&self) -> usize {
        self.asked.lock().len()
    }

    pub(crate) fn since(&self, mark: usize) -> Vec<Asked> {
        self.asked.lock()[mark..].to_vec()
    }

    /// From here on it counts.
    pub(crate) fn forget(&self) {
        self.asked.lock().clear();
    }

    /// Waits until each kind of request in each direction has ended so many more times.
    pub(crate) fn progress(&self, more: usize) -> anyhow::Result<()> {
        let began = crate::clock::now();
        let mark = self.mark();
        for clients in &self.clients {
            for flow in Flow::ALL {
                let from = clients.from;
                wait::until(&format!("{more} more of {flow:?} from {from}"), PROGRESS_TIME_MAX, || {
                    let asked = self.asked.lock();
                    let these = asked[mark..].iter().filter(|one| {
                        one.from == from && one.outcome.flow == flow && one.outcome.began >= began
                    });
                    let count = these.count();
                    if count < more { bail!("{count}") } else { Ok(()) }
                })?;
            }
        }
        Ok(())
    }

    /// Waits until the last so many of each kind of request in each direction were good.
    pub(crate) fn calm(&self, last: usize, time_max: Duration) -> anyhow::Result<()> {
        let mark = self.mark();
        wait::until("nothing fails any more", time_max, || {
            let asked = self.asked.lock();
            for clients in &self.clients {
                for flow in Flow::ALL {
                    let is_one = |one: &&Asked| one.from == clients.from && one.outcome.flow == flow;
                    let lately = asked[mark..].iter().rev().filter(is_one).take(last);
                    let good = lately.take_while(|one| one.outcome.failure.is_none()).count();
                    if good < last {
                        bail!("{good} of {flow:?} from {} were good in a row", clients.from);
                    }
                }
            }
            Ok(())
        })
    }

    /// Ends the clients once everything is answered.
    pub(crate) fn stop(mut self) -> anyhow::Result<Vec<Asked>> {
        for clients in &mut self.clients {
            drop(clients.stop.take());
        }
        for clients in &mut self.clients {
            let ended = clients.child.wait()?;
            let read = clients.reader.take().map(JoinHandle::join);
            if !ended.success() || !matches!(read, Some(Ok(()))) {
                bail!("the clients of {} ended with {ended}", clients.from);
            }
        }
        Ok(std::mem::take(&mut *self.asked.lock()))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn read(lines: ChildStdout, from: &'static str, asked: &Mutex<Vec<Asked>>) {
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        if let Ok(outcome) = serde_json::from_str::<Outcome>(&line) {
            asked.lock().push(Asked { from, outcome });
        }
    }
}
