//! What the disk knows when a process starts: it serves that until somebody leads it (E21).

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use federation::clock;
use federation::config::Config;
use federation::control::disk::Disk;
use federation::control::state::State;
use federation::model::Timestamp;
use federation::snapshot::Snapshot;
use tracing::{info, warn};
use trust_bundle::{TrustDomain, TrustStore};

/// Where a gateway keeps its own things, below the data directory.
pub const GATEWAY_DIRECTORY: &str = "gateway";
/// The file in it whose age is the age of the state.
const STATE_FILE: &str = "state";

/// The directory of a gateway, and what it held at the start.
#[derive(Debug)]
pub(super) struct FirstState {
    pub(super) disk: Disk,
    pub(super) state: Option<State>,
    /// When it was written.
    pub(super) at: Option<Timestamp>,
}

impl FirstState {
    /// A directory that cannot be had is an error; what is in it never is.
    pub(super) fn read(config: &Config) -> anyhow::Result<Self> {
        let directory = config.data.join(GATEWAY_DIRECTORY);
        let disk = Disk::open(&directory)?;
        let state = match disk.load(clock::unix_now()) {
            Ok(state) => state.filter(|state| is_ours(&state.snapshot, config)),
            Err(error) => {
                warn!(%error, "the state on disk cannot be read");
                None
            }
        };
        let at = state.as_ref().and_then(|_| written_at(&directory.join(STATE_FILE)));
        if let Some(state) = &state {
            let written = at.map(|at| at.to_string());
            info!(generation = %state.generation(), written, "serving the state on disk until the control plane speaks");
        }
        Ok(Self { disk, state, at })
    }

    pub(super) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.state.as_ref().map(|state| state.snapshot.clone())
    }

    /// Trusts whom the state trusted; what is held already stays as it is.
    pub(super) fn trust(&self, trust: &TrustStore, held: Option<&TrustDomain>) {
        let bundles = self.state.iter().flat_map(|state| &state.bundles);
        for (domain, bundle) in bundles.filter(|(domain, _)| Some(*domain) != held) {
            if let Err(conflict) = trust.put((**bundle).clone()) {
                warn!(trust_domain = %domain, %conflict, "a bundle on disk is of no use");
            }
        }
    }
}

/// Another cluster may have used the directory before.
fn is_ours(snapshot: &Snapshot, config: &Config) -> bool {
    let ours =
        snapshot.cluster.name == config.cluster && snapshot.cluster.trust_domain == config.trust_domain;
    if !ours {
        warn!(cluster = %snapshot.cluster.name, "the state on disk is of another cluster, and not used");
    }
    ours
}

fn written_at(file: &Path) -> Option<Timestamp> {
    let modified = std::fs::metadata(file).ok()?.modified().ok()?;
    let seconds = modified.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Timestamp::from_unix(i64::try_from(seconds).ok()?))
}
