//! What a store says of itself: whose it is, which schema it has, whether it came back from a backup.
//!
//! Written when a store is opened for the first time. Two clusters that were given one store by mistake
//! find out here, before they mix what they remember.

use serde::{Deserialize, Serialize};
use trust_bundle::TrustDomain;

use super::change::{Revision, StoreId};
use super::codec::{self, InvalidValue, Stored};
use super::contract::{CommitError, Fault, Store};
use super::keys::Place;
use super::transaction::Transaction;
use crate::config::Config;
use crate::model::ClusterName;

/// The layout and meaning of keys and values that this program writes.
pub const SCHEMA_VERSION: u32 = 1;
/// Another process may write it at the same time, once.
const CLAIMS_MAX: usize = 3;

/// Who opens a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    pub cluster: ClusterName,
    pub trust_domain: TrustDomain,
}

impl Owner {
    /// The cluster that a process is configured for.
    pub fn of(config: &Config) -> Self {
        Self { cluster: config.cluster.clone(), trust_domain: config.trust_domain.clone() }
    }
}

/// What is kept at `Place::Meta`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub schema: u32,
    #[serde(flatten)]
    pub owner: Owner,
    /// How often what is in here came back from a backup.
    #[serde(default)]
    pub restored: u64,
    /// The store that the last of these backups was taken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<StoreId>,
    /// A restore has begun and not ended.
    #[serde(default)]
    pub restoring: bool,
}

impl Stored for Meta {
    const KIND: &'static str = "meta";
}

/// Why a store is not used although it can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "the store has schema {found}, this program knows up to {SCHEMA_VERSION}; hint: it was written by a newer isthmus, run that one"
    )]
    NewerSchema { found: u32 },
    #[error(
        "the store belongs to cluster {found} ({domain}), not to {expected}; hint: give each cluster its own store, in one etcd by store.etcd.prefix"
    )]
    OtherCluster { found: ClusterName, domain: TrustDomain, expected: ClusterName },
    #[error(
        "a restore into this store has begun and not ended; hint: run `isthmus store restore --force` again"
    )]
    HalfRestored,
    #[error("what the store says of itself cannot be read: {0}")]
    Unreadable(#[from] InvalidValue),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Meta {
    pub fn new(owner: Owner) -> Self {
        Self { schema: SCHEMA_VERSION, owner, restored: 0, restored_from: None, restoring: false }
    }

    /// May this program use the store for a cluster?
    pub fn check(&self, owner: &Owner) -> Result<(), Unfit> {
        if self.schema > SCHEMA_VERSION {
            return Err(Unfit::NewerSchema { found: self.schema });
        }
        if self.owner != *owner {
            let Owner { cluster: found, trust_domain: domain } = self.owner.clone();
            return Err(Unfit::OtherCluster { found, domain, expected: owner.cluster.clone() });
        }
        if self.restoring { Err(Unfit::HalfRestored) } else { Ok(()) }
    }
}

/// What the store says of itself, if it was ever used.
pub async fn read(store: &dyn Store) -> Result<Option<Meta>, Unfit> {
    let Some(entry) = store.get(&Place::Meta.key()).await? else { return Ok(None) };
    Ok(Some(codec::decode(&entry.value)?))
}

/// Takes a store for a cluster: writes what is not there yet, refuses one that is not ours.
pub async fn claim(store: &dyn Store, owner: &Owner) -> Result<Meta, Unfit> {
    for _attempt in 0..CLAIMS_MAX {
        if let Some(meta) = read(store).await? {
            return meta.check(owner).map(|()| meta);
        }
        let meta = Meta::new(owner.clone());
        let create = Transaction::new().when(Place::Meta.key(), Revision::ABSENT);
        match store.commit(create.put(Place::Meta.key(), codec::encode(&meta)?)).await {
            Ok(_) => return Ok(meta),
            Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::Fault(fault)) => return Err(fault.into()),
            Err(other) => return Err(Fault::Unavailable(other.to_string()).into()),
        }
    }
    Err(Fault::Unavailable("what the store says of itself changes again and again".to_owned()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::store::Embedded;
    use crate::store::embedded::ChangeLog;

    fn owner(cluster: &str) -> Owner {
        let trust_domain = format!("{cluster}.example.org").as_str().try_into().unwrap();
        Owner { cluster: cluster.try_into().unwrap(), trust_domain }
    }

    #[test]
    fn only_a_store_of_ours_that_we_understand_is_used() {
        let (ours, good) = (owner("onprem"), Meta::new(owner("onprem")));
        assert_eq!(good.check(&ours), Ok(()));
        let newer = Meta { schema: SCHEMA_VERSION + 1, ..good.clone() };
        assert_eq!(newer.check(&ours), Err(Unfit::NewerSchema { found: SCHEMA_VERSION + 1 }));
        let half = Meta { restoring: true, ..good.clone() };
        assert_eq!(half.check(&ours), Err(Unfit::HalfRestored));
        assert!(matches!(good.check(&owner("cloud")), Err(Unfit::OtherCluster { .. })));
    }

    #[tokio::test]
    async fn a_store_is_claimed_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), ChangeLog::default(), clock::unix_now()).unwrap();
        assert_eq!(read(&store).await, Ok(None));
        let ours = owner("a");
        let (first, again) = tokio::join!(claim(&store, &ours), claim(&store, &ours));
        assert_eq!(first, again);
        assert_eq!(read(&store).await, first.map(Some));
        let revision = store.revision();
        assert!(matches!(claim(&store, &owner("b")).await, Err(Unfit::OtherCluster { .. })));
        assert_eq!(store.revision(), revision);
        let newer =
            br#"{"v":1,"kind":"meta","data":{"schema":9,"cluster":"a","trustDomain":"a.example.org"}}"#;
        store.commit(Transaction::new().put(Place::Meta.key(), &newer[..])).await.unwrap();
        assert_eq!(claim(&store, &owner("a")).await, Err(Unfit::NewerSchema { found: 9 }));
    }
}
