//! The seam between control plane and data plane: snapshots down; reports and signing requests up.
//!
//! In one process these are plain channels. Roles in processes of their own carry the same messages in
//! one mutually authenticated stream from each gateway to the leading federation process:
//!
//! ```text
//!   catalog, trust ─► feed ─► server ══ state, changes ══► client ─► trust, snapshot ─► data plane
//!                  gateways ◄───┘ ◄═ reports, CSR, acks ═══╝  └─► disk
//! ```
//! `state` says what is sent, `disk` keeps it, `gateways` puts together what is reported. `nodes` gives
//! a new gateway its first SVID, and `handover` carries connections of peers on to the leader.

mod client;
pub mod disk;
mod gateways;
pub mod handover;
pub mod message;
pub mod nodes;
mod renewal;
mod server;
pub mod state;
mod term;

#[allow(warnings, clippy::all, clippy::allow_attributes_without_reason, clippy::unwrap_used, reason = "generated")]
#[rustfmt::skip]
mod proto;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot, watch};
use trust_bundle::SpiffeId;

use crate::model::{ClusterName, Label};
use crate::snapshot::{Generation, Snapshot};

#[cfg(test)]
mod tests;

pub use client::{Client, ClientDeps, ControlStatus};
pub use gateways::{Attached, GATEWAY_GRACE, GatewayStatus, Gateways};
pub use renewal::keep_renewed;
pub use server::{Refusals, Server, ServerDeps, Settings};
pub use term::{Standing, Term, TermDeps};

/// Names one life of one gateway process.
pub type ReplicaName = Label;

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
