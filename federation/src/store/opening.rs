//! Opens the store that is configured.

use std::sync::Arc;

use rustls::pki_types::UnixTime;

use super::contract::{Fault, Store};
use super::embedded::{self, ChangeLog, Embedded};
use super::etcd::{self, Etcd};
use crate::config::{Config, StoreConfig};

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Embedded(#[from] embedded::OpenError),
    #[error(transparent)]
    Etcd(#[from] etcd::OpenError),
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Opens it and sees that it is one of ours; bounded in time, so that the caller may try again.
pub async fn open(config: &Config, now: UnixTime) -> Result<Arc<dyn Store>, OpenError> {
    Ok(match &config.store {
        StoreConfig::Embedded { path } => Arc::new(Embedded::open(path, ChangeLog::default(), now)?),
        StoreConfig::Etcd(etcd) => Arc::new(Etcd::open(etcd.clone()).await?),
    })
}
