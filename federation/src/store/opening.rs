//! Opens the store that is configured, if it is ours, known and understood.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::UnixTime;

use super::contract::{Fault, Store};
use super::embedded::{self, ChangeLog, Embedded};
use super::etcd::{self, Etcd};
use super::familiarity::{self, Found};
use super::meta::{self, Owner, Unfit};
use crate::config::{Config, StoreConfig};

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Embedded(#[from] embedded::OpenError),
    #[error(transparent)]
    Etcd(#[from] etcd::OpenError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("what is known of the store cannot be kept in {path}: {source}", path = path.display())]
    Memory { path: PathBuf, source: io::Error },
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Unfit(fault.into())
    }
}

impl OpenError {
    /// What answers is not the store that this process knew.
    pub fn is_suspicious(&self) -> bool {
        matches!(self, Self::Unfit(Unfit::Fault(Fault::Suspicious(_))))
    }
}

/// Opens the store for use; bounded in time, so that the caller may try again.
///
/// A store that is not the one that this process knew is `Fault::Suspicious` and nothing is written to
/// it (E18). Who serves from disk meanwhile goes on doing so; after `isthmus store accept` the next
/// attempt succeeds. The caller runs `familiarity::keep` for as long as it uses the store.
pub async fn open(config: &Config, now: UnixTime) -> Result<Arc<dyn Store>, OpenError> {
    let store = connect(config, now).await?;
    let memory = |source| OpenError::Memory { path: config.data.clone(), source };
    let known = familiarity::recall(&config.data).map_err(memory)?;
    let found = Found::look(&*store, meta::read(&*store).await?.as_ref()).await?;
    found.check(known.as_ref())?;
    meta::claim(&*store, &Owner::of(config)).await?;
    familiarity::remember(&config.data, &found.known).map_err(memory)?;
    Ok(store)
}

/// Opens the store without a look at what is in it, for who examines, saves or replaces that.
pub async fn connect(config: &Config, now: UnixTime) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match &config.store {
        StoreConfig::Embedded { path } => Arc::new(Embedded::open(path, ChangeLog::default(), now)?),
        StoreConfig::Etcd(etcd) => Arc::new(Etcd::open(etcd.clone()).await?),
    })
}
