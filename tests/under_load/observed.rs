//! What a cluster showed of itself over time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use federation::snapshot::Snapshot;
use serde_json::Value;
use tests::TestCluster;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the admin API said, gathered.
#[derive(Default)]
pub(crate) struct Observed {
    /// The lowest and the highest.
    pub(crate) snapshots: Option<(u64, u64)>,
    /// By role: how often an SVID was renewed.
    pub(crate) svids: BTreeMap<String, u64>,
    /// By protocol: all links that were dialled.
    pub(crate) links: BTreeMap<String, BTreeSet<u64>>,
    /// All connections of the peering stream.
    pub(crate) streams: BTreeSet<u64>,
}

impl Observed {
    pub(crate) async fn look_at(&mut self, cluster: &TestCluster) {
        let status = cluster.admin("/status").await;
        let generation = status["generation"].as_u64().unwrap();
        let (first, _) = self.snapshots.unwrap_or((generation, generation));
        self.snapshots = Some((first, generation));
        for svid in status["svids"].as_array().unwrap() {
            let role = svid["id"].as_str().unwrap().rsplit('/').next().unwrap();
            self.svids.insert(role.to_owned(), svid["generation"].as_u64().unwrap() - 1);
        }
        for link in elements(&cluster.admin("/links").await).flat_map(|peer| elements(&peer["dialled"])) {
            let protocol = link["protocol"].as_str().unwrap().to_owned();
            self.links.entry(protocol).or_default().insert(link["id"].as_u64().unwrap());
        }
        let connections = cluster.admin("/connections").await;
        let streams = elements(&connections).filter(|connection| connection["owner"] == "peering");
        self.streams.extend(streams.map(|stream| stream["id"].as_u64().unwrap()));
    }

    pub(crate) fn snapshots_published(&self) -> u64 {
        self.snapshots.map_or(0, |(first, last)| last - first)
    }

    /// How often a link of a protocol was replaced.
    pub(crate) fn links_replaced(&self, protocol: &str) -> usize {
        self.links.get(protocol).map_or(0, |links| links.len().saturating_sub(1))
    }

    pub(crate) fn summary(&self) -> String {
        let mut text = format!("{} snapshots, renewals", self.snapshots_published());
        for (role, renewed) in &self.svids {
            write!(text, " {role} {renewed},").unwrap();
        }
        for protocol in self.links.keys() {
            write!(text, " {} {protocol} links replaced,", self.links_replaced(protocol)).unwrap();
        }
        write!(text, " {} connections of the peering stream", self.streams.len()).unwrap();
        text
    }
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

/// Judges each snapshot of a cluster until it is stopped.
pub(crate) struct Judge {
    objections: JoinHandle<BTreeSet<String>>,
    stop: CancellationToken,
}

impl Judge {
    pub(crate) fn start(
        cluster: &TestCluster,
        objection: impl Fn(&Snapshot) -> Option<String> + Send + 'static,
    ) -> Self {
        let (mut snapshots, stop) = (cluster.operator().snapshots(), CancellationToken::new());
        let stopped = stop.clone();
        let judging = async move {
            let mut objections = BTreeSet::new();
            loop {
                let snapshot: Arc<Snapshot> = snapshots.borrow_and_update().clone();
                objections.extend(objection(&snapshot));
                match stopped.run_until_cancelled(snapshots.changed()).await {
                    Some(Ok(())) => {}
                    Some(Err(_)) | None => return objections,
                }
            }
        };
        Self { objections: TaskTracker::new().spawn(judging), stop }
    }

    pub(crate) async fn stop(self) -> BTreeSet<String> {
        self.stop.cancel();
        self.objections.await.unwrap()
    }
}
