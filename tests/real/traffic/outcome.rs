//! What became of one request: a line of JSON from the client to the test.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Micros;

/// Kinds of requests, each at a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flow {
    /// GET on kept connections.
    Http1,
    /// GET, each on a connection of its own.
    Http1New,
    /// POST on kept connections: never repeated by anybody.
    Http1Post,
    /// GET as streams of one HTTP/2 connection.
    Http2,
    /// GET for a service of both clusters whose endpoints here are about to go.
    Failover,
    /// Name, connection, question, answer, end.
    Tcp,
    /// A question and an answer each tick on a connection that lasts.
    Stream,
}

impl Flow {
    pub(crate) const ALL: [Self; 7] =
        [Self::Http1, Self::Http1New, Self::Http1Post, Self::Http2, Self::Failover, Self::Tcp, Self::Stream];

    /// May whoever holds it send it again.
    pub(crate) fn is_idempotent(self) -> bool {
        !matches!(self, Self::Http1Post | Self::Tcp | Self::Stream)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) flow: Flow,
    pub(crate) began: Micros,
    pub(crate) ended: Micros,
    /// The gateway that the client was connected to, or its address for the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) near: Option<IpAddr>,
    /// The gateway of the other cluster, as the endpoint saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) far: Option<IpAddr>,
    /// What went wrong and was made good by the client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) retried: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// What is known of a request while it is under way.
#[derive(Debug, Default)]
pub(super) struct Under {
    pub(super) near: Option<IpAddr>,
    pub(super) far: Option<IpAddr>,
    pub(super) retried: Vec<String>,
}
