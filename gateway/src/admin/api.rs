//! What the admin API says and takes, as the CLI and scripts read it.
//!
//! These are the types of the wire between `isthmus` the command and `isthmus` the process; they are
//! a promise to scripts (`-o json`), so fields are added and never change their meaning.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /`: who answers, and where its cookie is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    pub version: String,
    pub cluster: String,
    pub trust_domain: String,
    pub cookie_file: String,
}

/// Every answer that is not 2xx.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `POST /peers/invite`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InviteRequest {
    /// The cluster that may join with the token.
    pub cluster: String,
    pub ttl_seconds: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InviteAnswer {
    pub token: String,
    pub id: String,
    pub cluster: String,
    pub expires: String,
}

/// `POST /peers/join`
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    pub token: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    pub cluster: String,
    pub trust_domain: String,
    /// SHA-256 of the peer's bundle, for comparing by eye.
    pub bundle_sha256: String,
    /// Requests can go both ways; otherwise they will as soon as the paths are up.
    pub usable: bool,
}

/// An invitation that somebody may still use, or that was used.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenStatus {
    pub id: String,
    pub cluster: String,
    pub state: String,
    pub expires: String,
}

/// One line of `isthmus peer list`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub cluster: String,
    pub trust_domain: String,
    pub state: String,
    pub freshness: String,
    /// Whether the path between the gateways answers probes.
    pub path: String,
    pub round_trip_milliseconds: Option<f64>,
    pub imports: usize,
    pub exports: usize,
    pub gateways: Vec<String>,
    pub joined: String,
}

/// `POST /svid`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SvidRequest {
    /// The path of the SPIFFE ID below our trust domain, for example `/ns/shop/sa/client`.
    pub path: String,
    /// PKCS#10 in PEM; only its public key counts.
    pub csr: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SvidAnswer {
    pub id: String,
    /// Leaf first, PEM.
    pub chain: String,
    /// The authorities of our trust domain, PEM.
    pub authorities: String,
    /// The same as a SPIFFE bundle document, JSON.
    pub bundle: String,
    pub expires: String,
}

/// What became of one document of `isthmus apply`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    pub object: String,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Created,
    Configured,
    Unchanged,
    Deleted,
    Refused,
}

/// One object of `isthmus get`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub source: String,
    pub created: String,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
}

/// `GET /status`: the first thing that an operator looks at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub cluster: String,
    pub trust_domain: String,
    pub ready: bool,
    /// The command that runs: `run`, `gateway` or `federation`.
    #[serde(default)]
    pub role: String,
    /// Whether what is served is the control plane's newest word.
    #[serde(default)]
    pub control: ControlStatus,
    /// The leading federation process, where this one knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderStatus>,
    /// Only where this process has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    /// Only where this process leads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<GatewayStatus>,
    pub generation: u64,
    pub services: usize,
    pub peers: Vec<PeerStatus>,
    pub listeners: Vec<ListenerStatus>,
    pub svids: Vec<SvidStatus>,
    pub problems: Vec<Problem>,
}

/// The control plane, as this process sees it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlStatus {
    pub reachable: bool,
    /// Since when it is reached, or no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When what is served came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_since: Option<String>,
}

/// A gateway, as the leading process sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    pub replica: String,
    pub addresses: Vec<String>,
    /// Absent once its stream has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<String>,
    /// What it serves requests with.
    pub generation: u64,
    /// Generations that it has still to take in.
    pub behind: u64,
}

/// `POST /nodes/invite`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InviteNodeRequest {
    pub ttl_seconds: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaderStatus {
    pub name: String,
    /// It is the process that answers.
    pub here: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Where gateways reach it.
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// `embedded` or `etcd`.
    pub kind: String,
    /// `good`, `opening`, `failing` or `suspicious`.
    pub condition: String,
    pub since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub name: String,
    pub address: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SvidStatus {
    pub id: String,
    pub expires: String,
    /// Grows with each renewal, from 1 at the start of the process.
    #[serde(default)]
    pub generation: u64,
}

/// Something that is not as the operator wrote it, and what to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A file with its line, an object, or a socket.
    pub subject: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Used for dumps that are shown as they are.
pub type Dump = Value;

impl std::fmt::Debug for InviteAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InviteAnswer for {} (token redacted)", self.cluster)
    }
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinRequest (token redacted)")
    }
}
