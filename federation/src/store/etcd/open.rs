//! Opening: which etcd is there, is it new enough, do its members belong together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use etcd_client::Client;
use tracing::warn;

use super::super::change::StoreId;
use super::super::contract::Fault;
use super::Etcd;
use super::fault::Failed;
use super::layout::Layout;
use super::members::{ConnectError, Members, Repeat};
use super::shared::Shared;
use super::version::{ServerVersion, VersionVerdict};
use crate::config::EtcdConfig;

/// Why an etcd cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("store.etcd: {0}")]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("etcd tells the version {0:?}, which cannot be read")]
    UnknownVersion(String),
    #[error("etcd has version {0}; hint: 3.4 is the oldest that works, 3.6.11 or newer is advised")]
    TooOld(ServerVersion),
}

impl Etcd {
    /// Finds out which etcd answers; fails when none does.
    pub async fn open(config: EtcdConfig) -> Result<Self, OpenError> {
        let layout = Layout::new(&config.prefix);
        let members = Members::build(config).await?;
        let status = |client: Client| async move { client.maintenance_client().status().await };
        let answer = members.call(Repeat::Always, status).await.map_err(Failed::into_fault)?;
        let version = ServerVersion::parse(answer.version())
            .ok_or_else(|| OpenError::UnknownVersion(answer.version().chars().take(64).collect()))?;
        judge(&version)?;
        let cluster = answer.header().map_or(0, etcd_client::ResponseHeader::cluster_id);
        let shared = Shared {
            members,
            layout,
            cluster,
            seen: AtomicU64::new(0),
            progress_is_exact: version.progress_is_exact(),
        };
        // A read, since a member without a majority tells its status too.
        shared.revision().await?;
        let identity = StoreId(format!("{cluster:016x}"));
        Ok(Self { identity, version, shared: Arc::new(shared) })
    }
}

fn judge(version: &ServerVersion) -> Result<(), OpenError> {
    match version.verdict() {
        VersionVerdict::Good => {}
        VersionVerdict::TooOld => return Err(OpenError::TooOld(version.clone())),
        VersionVerdict::Unfixed(fixed) => {
            warn!(%version, fixed, "this etcd has known holes in its roles; hint: update it");
        }
    }
    Ok(())
}
