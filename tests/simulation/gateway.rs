//! A gateway beside its federation process: it outlives it, and is brought to the newest state by deltas.

use std::sync::Arc;
use std::time::Duration;

use federation::control::state::{Held, Parts, State, diff};
use federation::snapshot::Snapshot;
use rustls::pki_types::UnixTime;
use trust_bundle::TrustStore;

use crate::mutation::Mutation;

/// What a gateway holds; it stays when federation goes.
#[derive(Debug, Default)]
pub(crate) struct Gateway {
    held: Held,
}

impl Gateway {
    /// Brings the gateway to a snapshot, by what changed since the last one if it holds that.
    ///
    /// Deltas applied equal the full state: else two gateways of one cluster would serve different worlds.
    pub(crate) fn follow(
        &mut self,
        sent: &mut Option<Parts>,
        snapshot: &Arc<Snapshot>,
        mutation: Option<Mutation>,
    ) -> Result<(), String> {
        let state = State::new(snapshot.clone(), &TrustStore::new());
        let newer = Parts::encode(state, sent.as_ref());
        let before = sent.as_ref().filter(|before| before.digest() == self.held.digest());
        let (base, mut delta) = match before {
            Some(before) => (self.held.clone(), diff(before, &newer)),
            None => (Held::default(), newer.full()),
        };
        if mutation == Some(Mutation::KeepsRemovedParts) {
            delta.removed.clear();
        }
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));
        self.held = base.apply(&delta, now).map_err(|error| error.to_string())?;
        let state = self.held.state(newer.generation()).map_err(|error| error.to_string())?;
        let same = self.held.digest() == newer.digest() && state == *newer.state();
        *sent = Some(newer);
        if same { Ok(()) } else { Err(format!("of generation {}", snapshot.generation)) }
    }
}
