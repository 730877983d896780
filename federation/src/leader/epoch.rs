//! The number of a lead: rises each time, so that generations only grow over the lives of leaders.

use serde::{Deserialize, Serialize};

use crate::snapshot::Generation;
use crate::store::keys::Place;
use crate::store::{CommitError, Fault, InvalidValue, Revision, Store, Stored, Transaction, codec};

/// Room for the generations of one lead; at ten changes a second it lasts for three years, and the next
/// epoch is raised over what is in use in any case.
pub const GENERATIONS_PER_EPOCH: u64 = 1_000_000_000;
/// Two processes raise it at once only while one is being deposed.
const ATTEMPTS_MAX: usize = 8;

/// At `control/epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Epoch {
    epoch: u64,
}

impl Stored for Epoch {
    const KIND: &'static str = "epoch";
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEpoch {
    #[error("the epoch cannot be read: {0}")]
    Value(#[from] InvalidValue),
    #[error("the epoch cannot be raised: {0}")]
    Store(#[from] CommitError),
}

impl From<Fault> for NoEpoch {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

/// Raises the epoch over all that were, and over that of a generation which is in use already: a store
/// that was lost or set back must not make snapshots that look older than those.
pub async fn raise_epoch(store: &dyn Store, in_use: Generation) -> Result<u64, NoEpoch> {
    let key = Place::Epoch.key();
    let mut refused = None;
    for _attempt in 0..ATTEMPTS_MAX {
        let held = store.get(&key).await?;
        let revision = held.as_ref().map_or(Revision::ABSENT, |entry| entry.revision);
        let stored = match held {
            Some(entry) => codec::decode::<Epoch>(&entry.value)?.epoch,
            None => 0,
        };
        let epoch = stored.max(in_use.0 / GENERATIONS_PER_EPOCH).saturating_add(1);
        let value = codec::encode(&Epoch { epoch })?;
        match store.commit(Transaction::new().when(key.clone(), revision).put(key.clone(), value)).await {
            Ok(_) => return Ok(epoch),
            Err(conflict @ CommitError::Conflict { .. }) => refused = Some(conflict),
            Err(other) => return Err(other.into()),
        }
    }
    Err(refused.unwrap_or(Fault::Unavailable("no attempt was made".to_owned()).into()).into())
}

/// The first generation of an epoch; what is published comes after it.
pub fn first_generation(epoch: u64) -> Generation {
    Generation(epoch.saturating_mul(GENERATIONS_PER_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::store::Embedded;
    use crate::store::embedded::ChangeLog;

    #[tokio::test]
    async fn each_lead_has_a_higher_number_than_all_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), ChangeLog::default(), clock::unix_now()).unwrap();
        let none = Generation::default();
        assert_eq!(raise_epoch(&store, none).await, Ok(1));
        assert_eq!(raise_epoch(&store, none).await, Ok(2));
        // The store was set back behind what gateways hold.
        assert_eq!(raise_epoch(&store, Generation(7_000_000_123)).await, Ok(8));
        assert_eq!(raise_epoch(&store, none).await, Ok(9));
        assert_eq!(first_generation(9), Generation(9_000_000_000));
    }
}
