//! What an operator may ask of a cluster: one handle for the admin API of whichever process.
//!
//! Every change goes to the module that owns it, says who asked, and is durable when it returns. Changes
//! are made by the process that leads; any other one refuses them and says where to ask.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::app::StoreStatus;
use crate::catalog::{CatalogHandle, ObjectStatus, Source};
use crate::clock;
use crate::config::directory::Problems;
use crate::config::{AppliedDocuments, ApplyOutcome};
use crate::control::nodes::{NodeToken, Nodes};
use crate::control::{GatewayStatus, Gateways, ReplicaName, Unbound};
use crate::issuer::{Issued, Issuer};
use crate::leader::Leadership;
use crate::model::{ClusterName, ObjectKey, Peer, Timestamp};
use crate::peering::{HandedOver, PeerStatus, Peering, Removal, TokenView};
use crate::snapshot::{Generation, Snapshot};

/// How the audit log calls whoever comes through the admin API with the cookie.
const ACTOR: &str = "admin";

/// The handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Operator {
    office: watch::Receiver<Office>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    gateways: Gateways,
}

/// Whether this process decides for its cluster.
#[derive(Debug, Clone)]
pub enum Office {
    Held(Arc<Desk>),
    Vacant(Vacancy),
}

/// That another process decides, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vacancy {
    /// Why this one does not, and where to ask.
    pub why: Arc<str>,
    pub since: Timestamp,
}

/// What the leading process works with.
#[derive(Debug)]
pub struct Desk {
    pub(crate) catalog: CatalogHandle,
    pub(crate) applied: AppliedDocuments,
    pub(crate) issuer: Issuer,
    pub(crate) peering: Peering,
    /// Connections for peering.
    pub(crate) handover: mpsc::Sender<HandedOver>,
    /// None where no gateway of another process can come.
    pub(crate) nodes: Option<Nodes>,
    pub(crate) problems: watch::Receiver<Problems>,
    pub(crate) published: watch::Receiver<Arc<Snapshot>>,
}

/// Who leads, and how the store is, as far as this process knows.
#[derive(Debug, Clone)]
pub struct FederationStatus {
    pub leadership: watch::Receiver<Leadership>,
    pub store: watch::Receiver<StoreStatus>,
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
    /// Another process decides.
    #[error("{0}")]
    Elsewhere(Arc<str>),
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

/// What is said where nobody is known to lead.
const NOBODY: &str =
    "this process does not lead; hint: try again in a moment, `isthmus status` shows who leads";

impl Vacancy {
    /// What a process says that does not lead.
    pub(crate) fn why(leadership: &Leadership) -> String {
        let Leadership::Following { leader } = leadership else { return NOBODY.to_owned() };
        let reached: Vec<_> = leader.addresses.iter().map(ToString::to_string).collect();
        let place = if reached.is_empty() { String::new() } else { format!(" at {}", reached.join(", ")) };
        format!("this process follows {name}; hint: ask the admin API of {name}{place}", name = leader.name)
    }
}

impl Office {
    pub fn vacant(why: impl Into<Arc<str>>) -> Self {
        Self::Vacant(Vacancy { why: why.into(), since: clock::timestamp_now() })
    }

    /// Leaves an office, or says another reason for which it is vacant since it is.
    pub fn vacate(office: &watch::Sender<Self>, why: impl Into<Arc<str>>) {
        let why = why.into();
        office.send_modify(|office| match office {
            Self::Vacant(vacancy) => vacancy.why = why,
            Self::Held(_) => *office = Self::vacant(why),
        });
    }

    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }

    pub(crate) fn desk(&self) -> Option<Arc<Desk>> {
        match self {
            Self::Held(desk) => Some(desk.clone()),
            Self::Vacant(_) => None,
        }
    }
}

impl Operator {
    pub fn new(
        office: watch::Receiver<Office>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        gateways: Gateways,
    ) -> Self {
        Self { office, snapshot, gateways }
    }

    /// Fails where another process decides.
    pub fn check_here(&self) -> Result<(), OperatorError> {
        self.desk().map(drop)
    }

    /// This process leads, and what it serves is its own word.
    pub fn is_current(&self) -> bool {
        let desk = self.office.borrow().desk();
        desk.is_some_and(|desk| desk.published.borrow().generation > Generation::default())
    }

    /// Why changes are made elsewhere; none where this process makes them.
    pub fn vacancy(&self) -> Option<Vacancy> {
        match &*self.office.borrow() {
            Office::Held(_) => None,
            Office::Vacant(vacancy) => Some(vacancy.clone()),
        }
    }

    fn desk(&self) -> Result<Arc<Desk>, OperatorError> {
        match &*self.office.borrow() {
            Office::Held(desk) => Ok(desk.clone()),
            Office::Vacant(vacancy) => Err(OperatorError::Elsewhere(vacancy.why.clone())),
        }
    }

    pub async fn invite(&self, joiner: &ClusterName, ttl: Duration) -> Result<Invitation, OperatorError> {
        let desk = self.desk()?;
        let token = desk.peering.invite(joiner, ttl, ACTOR).await.map_err(OperatorError::refused)?;
        let expires = clock::timestamp(token.expires());
        Ok(Invitation { token: token.text().to_string(), id: token.id().to_string(), expires })
    }

    /// Returns when both sides hold the relationship.
    pub async fn join(&self, token: &str) -> Result<Peer, OperatorError> {
        self.desk()?.peering.join(token).await.map_err(OperatorError::refused)
    }

    pub async fn tokens(&self) -> Result<Vec<TokenView>, OperatorError> {
        self.desk()?.peering.tokens().await.map_err(OperatorError::unavailable)
    }

    pub async fn revoke_token(&self, id: &str) -> Result<(), OperatorError> {
        let id = id.parse().map_err(OperatorError::refused)?;
        self.desk()?.peering.revoke(id, ACTOR).await.map_err(OperatorError::refused)
    }

    /// Streams and all; nothing where another process leads.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.desk().map(|desk| desk.peering.peers()).unwrap_or_default()
    }

    pub async fn remove_peer(&self, cluster: &ClusterName) -> Result<Removal, OperatorError> {
        self.desk()?.peering.remove(cluster, ACTOR).await.map_err(OperatorError::refused)
    }

    /// Writes every good document of a text to the store.
    pub async fn apply(&self, documents: &str) -> Result<Vec<ApplyOutcome>, OperatorError> {
        let desk = self.desk()?;
        let mut owners = desk.catalog.objects(None).await;
        // Objects that another source than `apply` has.
        owners.retain(|status| matches!(status.source, Source::File { .. }));
        let owner = |key: &ObjectKey| {
            owners.iter().find(|status| status.key == *key).map(|status| status.source.clone())
        };
        desk.applied.apply(documents, clock::timestamp_now(), owner).await.map_err(OperatorError::unavailable)
    }

    pub async fn delete(&self, documents: &str) -> Result<Vec<ApplyOutcome>, OperatorError> {
        self.desk()?.applied.delete(documents).await.map_err(OperatorError::unavailable)
    }

    /// Nothing where another process leads.
    pub async fn objects(&self, kind: Option<&str>) -> Vec<ObjectStatus> {
        match self.desk() {
            Ok(desk) => desk.catalog.objects(kind).await,
            Err(_elsewhere) => Vec::new(),
        }
    }

    /// An SVID for a workload whose key the asker made.
    pub fn issue_workload_svid(&self, path: &str, csr: &[u8]) -> Result<Issued, OperatorError> {
        self.desk()?.issuer.issue_workload(path, csr).map_err(OperatorError::refused)
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
        self.desk().map(|desk| desk.problems.borrow().clone()).unwrap_or_default()
    }

    /// Sockets that the gateways wanted and could not have.
    pub fn unbound(&self) -> Vec<(ReplicaName, Unbound)> {
        self.gateways.unbound()
    }

    /// The gateways that this process leads, or is.
    pub fn gateways(&self) -> Vec<GatewayStatus> {
        self.gateways.list()
    }

    /// A token with which one new gateway process gets its first SVID.
    pub async fn invite_node(&self, ttl: Duration) -> Result<Invitation, OperatorError> {
        let token = self.nodes()?.invite(ttl, ACTOR).await.map_err(OperatorError::refused)?;
        let expires = clock::timestamp(token.expires());
        Ok(Invitation { token: token.text().to_string(), id: token.id().to_string(), expires })
    }

    pub async fn node_tokens(&self) -> Result<Vec<NodeToken>, OperatorError> {
        self.nodes()?.tokens().await.map_err(OperatorError::unavailable)
    }

    pub async fn revoke_node_token(&self, id: &str) -> Result<(), OperatorError> {
        let id = id.parse().map_err(OperatorError::refused)?;
        self.nodes()?.revoke(id, ACTOR).await.map_err(OperatorError::refused)
    }

    fn nodes(&self) -> Result<Nodes, OperatorError> {
        let none = "no gateway of another process can come; hint: set control.address";
        self.desk()?.nodes.clone().ok_or_else(|| OperatorError::refused(none))
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation {} (token redacted)", self.id)
    }
}
