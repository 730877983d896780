//! How a new gateway process comes to its first SVID: with a token that is used once.
//!
//! ```text
//!   federation process                        node
//!   invite ─► record in the store             token ─► dial, believe only the pinned root
//!   redeem ◄───── CSR, proof ──────────────── ask
//!     the record is used by this CSR
//!          ───── SVID, our bundle ──────────► disk
//! ```
//! The same rules as for clusters (notes/trust 4.2): until the proof verifies every answer is the same;
//! the token is never sent; the same node may ask again with the same key and gets another certificate;
//! another one is refused, and that is an alarm. What the node holds afterwards is the gateway role.

mod ask;
mod invite;
mod redeem;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use trust_bundle::{SvidHandle, TokenRecord, TrustDomain, TrustStore};

use super::SigningRequest;
use crate::model::{ClusterName, GatewayAddress, Timestamp};
use crate::peering::join::limit::Limit;
use crate::store::{Store, Stored};

pub use ask::{Joined, NodeJoinError, join};
pub use invite::{InviteError, NodeToken, NodeTokenError};

/// A token and a signing request, with room for headers of a newer program.
pub(super) const REQUEST_BYTES_MAX: usize = 32 * 1024;
/// How long a redemption may take: a commit and a signature.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(20);

/// What node tokens are made and redeemed with; the leader has it.
#[derive(Debug)]
pub struct NodesDeps {
    pub cluster: ClusterName,
    pub trust_domain: TrustDomain,
    pub store: Arc<dyn Store>,
    /// Holds our own bundle.
    pub trust: TrustStore,
    pub signer: mpsc::Sender<SigningRequest>,
    /// The join role, which the listener shows to nodes.
    pub join_svid: SvidHandle,
    /// Where federation processes listen for gateways.
    pub control: Vec<GatewayAddress>,
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    shared: Arc<Shared>,
}

struct Shared {
    deps: NodesDeps,
    limit: Mutex<Limit>,
}

/// A node token without its secret, at `node/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NodeRecord {
    token: TokenRecord,
    created: Timestamp,
    created_by: String,
    state: NodeTokenState,
}

/// What has become of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeTokenState {
    Unused,
    /// By whoever sent the signing request with this digest.
    Used {
        at: Timestamp,
        csr_sha256: String,
    },
    Revoked {
        at: Timestamp,
    },
}

impl Stored for NodeRecord {
    const KIND: &'static str = "node";
}

impl Nodes {
    pub fn new(deps: NodesDeps) -> Self {
        let limit = Mutex::new(Limit::new(instant()));
        Self { shared: Arc::new(Shared { deps, limit }) }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("cluster", &self.shared.deps.cluster).finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "the rim: how often strangers knock is measured here")]
fn instant() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
