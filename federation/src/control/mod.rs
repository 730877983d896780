//! The seam between control plane and data plane: snapshots down; reports and signing requests up.
//!
//! In one process these are plain channels. Roles in separate processes will carry the same messages
//! in one mutually authenticated stream to the leading federation process; that stream belongs here.

pub mod disk;
mod renewal;
pub mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot, watch};
use trust_bundle::SpiffeId;

use crate::model::ClusterName;
use crate::snapshot::{Generation, Snapshot};

pub use renewal::keep_renewed;

/// Reports that may wait for the control plane; a gateway that finds it full drops the report and
/// sends a newer one with the next change.
pub const REPORTS_MAX: usize = 256;
/// Signing requests that may wait: one for each SVID of a process, with room for retries.
pub const SIGNING_REQUESTS_MAX: usize = 16;

/// What a gateway holds of the control plane.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub reports: mpsc::Sender<Report>,
    pub signer: mpsc::Sender<SigningRequest>,
}

/// What the data plane has seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The state of the path to a peer, by the links' own probes.
    Path { peer: ClusterName, path: Path },
    /// The generation that requests are served with.
    Applied { generation: Generation },
    /// All sockets that were wanted and could not be had, in place of what was said before.
    Unbound(Vec<Unbound>),
}

/// Can a peer's gateways be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Path {
    Up { round_trip: Duration },
    Down,
}

/// A socket that could not be bound, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unbound {
    pub address: SocketAddr,
    /// For whom it was wanted: a listener, or a service's port.
    pub owner: String,
    pub reason: String,
    pub remedy: String,
}

/// A request for an SVID; only the public key of the CSR counts.
#[derive(Debug)]
pub struct SigningRequest {
    pub id: SpiffeId,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
    pub answer: oneshot::Sender<Result<Vec<CertificateDer<'static>>, SigningRefused>>,
}

/// Why no SVID was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no SVID was issued: {reason}")]
pub struct SigningRefused {
    pub reason: String,
}
