//! Opening: which etcd is there, is it new enough, do its members belong together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use etcd_client::{Client, GetOptions};
use tracing::{info, warn};

use super::super::change::StoreId;
use super::super::contract::Fault;
use super::Etcd;
use super::fault::Failed;
use super::layout::Layout;
use super::members::{ConnectError, Members, Repeat};
use super::shared::{Shared, kv};
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
        let anything = layout.anything();
        let look = |client: Client| {
            let (key, options) = (anything.clone(), GetOptions::new().with_count_only());
            async move { kv(&client).get(key, Some(options)).await }
        };
        // A read, since a member without a majority tells its status too.
        let answer = members.call(Repeat::Always, look).await.map_err(Failed::into_fault)?;
        let Some(header) = answer.header() else {
            return Err(Fault::Unavailable("etcd answered without a header".to_owned()).into());
        };
        let (cluster, seen) = (header.cluster_id(), header.revision().cast_unsigned());
        let version = ask_version(&members).await?;
        let shared = Shared {
            members,
            layout,
            cluster,
            seen: AtomicU64::new(seen),
            // Those that keep it to themselves have that fix.
            progress_is_exact: version.as_ref().is_none_or(ServerVersion::progress_is_exact),
        };
        let identity = StoreId(format!("{cluster:016x}"));
        Ok(Self { identity, version, shared: Arc::new(shared) })
    }
}

/// Newer versions tell it to administrators alone: 3.6.9, 3.5.28 and later, with authentication on.
async fn ask_version(members: &Members) -> Result<Option<ServerVersion>, OpenError> {
    let status = |client: Client| async move { client.maintenance_client().status().await };
    let answer = match members.call(Repeat::Always, status).await.map_err(Failed::into_fault) {
        Ok(answer) => answer,
        Err(Fault::Denied(_)) => {
            info!("etcd does not tell its version to this user; hint: 3.6.11, 3.5.30 or newer is advised");
            return Ok(None);
        }
        Err(other) => return Err(other.into()),
    };
    let version = ServerVersion::parse(answer.version())
        .ok_or_else(|| OpenError::UnknownVersion(answer.version().chars().take(64).collect()))?;
    judge(&version)?;
    Ok(Some(version))
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
