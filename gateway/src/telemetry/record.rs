//! What happened to one request or connection: the one thing that the access log and the metrics read.
//!
//! It borrows all it can from the request's own context, since it lives for one call.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use federation::model::{ClusterName, Locality};
use federation::snapshot::Generation;
use serde::Serialize;
use trust_bundle::SpiffeId;

use super::ResponseFlags;
use crate::balancer::{Reason, Target};
use crate::destination::Destination;

/// One request, or one connection that carried something opaque.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    pub began: SystemTime,
    pub duration: Duration,
    /// The snapshot that decided.
    pub generation: Generation,
    pub entrance: Entrance,
    pub source: Source<'a>,
    /// None where routing ended in nothing.
    pub destination: Option<&'a Destination>,
    pub upstream: Upstream<'a>,
    pub attempts: u32,
    pub flags: ResponseFlags,
    /// One word of what this gateway decided itself: `NoRoute::reason`, a fault, a rejection.
    pub reason: Option<&'static str>,
    /// From and to downstream.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// None for opaque connections.
    pub http: Option<Http<'a>>,
}

/// Which door a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entrance {
    Mesh,
    Ingress,
    Virtual,
    /// From a peer's gateway.
    Link,
}

/// Who called.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    pub address: Option<SocketAddr>,
    /// The caller's address as a peer's gateway saw it.
    pub client: Option<IpAddr>,
    pub identity: Option<&'a SpiffeId>,
    pub proof: Proof,
    /// The gateway that spoke for the caller.
    pub gateway: Option<&'a SpiffeId>,
    pub cluster: &'a ClusterName,
    pub locality: Option<&'a Locality>,
}

/// Why a caller's identity is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// It has none.
    #[default]
    Nothing,
    /// Its own handshake with this gateway.
    MutualTls,
    /// The word of its own cluster's gateway, within that cluster's trust domain.
    PeerGateway,
}

/// Who answered, or was asked last.
#[derive(Debug, Clone, Default)]
pub struct Upstream<'a> {
    pub target: Option<&'a Target>,
    pub why: Option<Reason>,
    /// The cluster whose endpoint answers.
    pub cluster: Option<&'a ClusterName>,
    /// Proven on the connection that carried the request.
    pub identity: Option<&'a SpiffeId>,
}

/// The part of a record that only HTTP has; everything in it may be a stranger's.
#[derive(Debug, Clone)]
pub struct Http<'a> {
    pub protocol: Protocol,
    pub method: &'a str,
    pub authority: &'a str,
    /// As it came; the query is never written.
    pub path: &'a str,
    /// 0 if downstream left before there was an answer.
    pub status: u16,
    pub user_agent: Option<&'a str>,
    pub traceparent: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Grpc,
    Tcp,
}

impl Entrance {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Ingress => "ingress",
            Self::Virtual => "virtual",
            Self::Link => "link",
        }
    }
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

impl Record<'_> {
    /// What metrics call it.
    pub fn protocol(&self) -> Protocol {
        self.http.as_ref().map_or(Protocol::Tcp, |http| http.protocol)
    }
}
