//! What an operator may ask of a cluster: one handle for the admin API of whichever process.
//!
//! Every change goes to the module that owns it, says who asked, and is durable when it returns.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use trust_bundle::Bundle;

use crate::catalog::{CatalogHandle, ObjectStatus, Source};
use crate::clock;
use crate::config::directory::Problems;
use crate::config::{AppliedDocuments, ApplyOutcome};
use crate::control::Unbound;
use crate::issuer::{Issued, Issuer};
use crate::model::{ClusterName, ObjectKey, Peer, Timestamp};
use crate::peering::{PeerStatus, Peering, Removal, TokenView};
use crate::snapshot::Snapshot;

/// How the audit log calls whoever comes through the admin API with the cookie.
const ACTOR: &str = "admin";

/// The handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Operator {
    pub(crate) catalog: CatalogHandle,
    pub(crate) applied: AppliedDocuments,
    pub(crate) issuer: Issuer,
    pub(crate) peering: Peering,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) problems: watch::Receiver<Problems>,
    pub(crate) unbound: watch::Receiver<Arc<Vec<Unbound>>>,
}

/// A token for one cluster; its text is a secret until it is used.
pub struct Invitation {
    pub token: String,
    pub id: String,
    pub expires: Timestamp,
}

/// Why a change was not made; the text says whose turn it is and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// What was asked cannot be done as things are.
    #[error("{0}")]
    Refused(String),
    /// The store, or the other side, does not answer now.
    #[error("{0}")]
    Unavailable(String),
}

impl OperatorError {
    fn refused(error: impl ToString) -> Self {
        Self::Refused(error.to_string())
    }

    fn unavailable(error: impl ToString) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Operator {
    pub async fn invite(&self, joiner: &ClusterName, ttl: Duration) -> Result<Invitation, OperatorError> {
        let token = self.peering.invite(joiner, ttl, ACTOR).await.map_err(OperatorError::refused)?;
        let expires = clock::timestamp(token.expires());
        Ok(Invitation { token: token.text().to_string(), id: token.id().to_string(), expires })
    }

    /// Returns when both sides hold the relationship.
    pub async fn join(&self, token: &str) -> Result<Peer, OperatorError> {
        self.peering.join(token).await.map_err(OperatorError::refused)
    }

    pub async fn tokens(&self) -> Result<Vec<TokenView>, OperatorError> {
        self.peering.tokens().await.map_err(OperatorError::unavailable)
    }

    pub async fn revoke_token(&self, id: &str) -> Result<(), OperatorError> {
        let id = id.parse().map_err(OperatorError::refused)?;
        self.peering.revoke(id, ACTOR).await.map_err(OperatorError::refused)
    }

    pub fn peers(&self) -> Vec<PeerStatus> {
        self.peering.peers()
    }

    pub async fn remove_peer(&self, cluster: &ClusterName) -> Result<Removal, OperatorError> {
        self.peering.remove(cluster, ACTOR).await.map_err(OperatorError::refused)
    }

    /// Writes every good document of a text to the store.
    pub async fn apply(&self, documents: &str) -> Result<Vec<ApplyOutcome>, OperatorError> {
        let owners = self.owners().await;
        let owner = |key: &ObjectKey| {
            owners.iter().find(|status| status.key == *key).map(|status| status.source.clone())
        };
        self.applied.apply(documents, clock::timestamp_now(), owner).await.map_err(OperatorError::unavailable)
    }

    pub async fn delete(&self, documents: &str) -> Result<Vec<ApplyOutcome>, OperatorError> {
        self.applied.delete(documents).await.map_err(OperatorError::unavailable)
    }

    /// Objects that another source than `apply` has.
    async fn owners(&self) -> Vec<ObjectStatus> {
        let mut objects = self.catalog.objects(None).await;
        objects.retain(|status| matches!(status.source, Source::File { .. }));
        objects
    }

    pub async fn objects(&self, kind: Option<&str>) -> Vec<ObjectStatus> {
        self.catalog.objects(kind).await
    }

    /// An SVID for a workload whose key the asker made.
    pub fn issue_workload_svid(&self, path: &str, csr: &[u8]) -> Result<Issued, OperatorError> {
        self.issuer.issue_workload(path, csr).map_err(OperatorError::refused)
    }

    pub fn bundle(&self) -> Bundle {
        self.issuer.bundle()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Wakes with each snapshot.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Documents of the directory that cannot be read.
    pub fn problems(&self) -> Problems {
        self.problems.borrow().clone()
    }

    /// Sockets that the gateways wanted and could not have.
    pub fn unbound(&self) -> Arc<Vec<Unbound>> {
        self.unbound.borrow().clone()
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation {} (token redacted)", self.id)
    }
}
