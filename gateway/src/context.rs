//! What one phase of a request hands to the next.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use federation::model::{ClusterName, HttpRoute};
use trust_bundle::{SpiffeId, TrustDomain};

use crate::answer::Refusal;
use crate::balancer::{Pick, Target};
use crate::connection::{Entry, LinkTunnel};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::headers::LinkHeaders;
use crate::overload::Admission;
use crate::snapshot::View;
use crate::telemetry::ResponseFlags;

/// Targets that one request or connection tries before it gives up.
pub const TRIES_MAX: usize = 3;

/// Who sent a request or opened a connection, as far as anybody proved or saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    /// Proven to us, or to the peer's gateway that says so.
    pub id: Option<SpiffeId>,
    pub client: Option<IpAddr>,
    /// The peer over whose link it came.
    pub via: Option<ClusterName>,
}

impl Caller {
    /// A client of this cluster: believed within our own trust domain, since nobody would believe us
    /// anything else.
    pub fn of_client(entry: &Entry, own: &TrustDomain) -> Self {
        let id = entry.connection.peer().map(|peer| peer.id());
        Self {
            id: id.filter(|id| id.trust_domain() == *own).cloned(),
            client: entry.client.map(|address| address.ip().to_canonical()),
            via: None,
        }
    }

    /// A client of a peer, as its gateway says.
    pub fn of_link(peer: &ClusterName, said: &LinkHeaders) -> Self {
        Self { id: said.caller.clone(), client: said.client, via: Some(peer.clone()) }
    }

    pub fn of_tunnel(tunnel: &LinkTunnel) -> Self {
        Self { id: tunnel.caller.clone(), client: tunnel.client, via: Some(tunnel.peer.clone()) }
    }

    /// What a peer's gateway is told about a request for a destination.
    pub fn headers(&self, destination: &Destination, time_left: Option<Duration>) -> LinkHeaders {
        LinkHeaders {
            to: Some(format!("{}:{}", destination.name(), destination.port.port)),
            caller: self.id.clone(),
            client: self.client,
            deadline: time_left,
        }
    }
}

/// One request from its head to its line in the access log.
#[derive(Debug)]
pub struct Context {
    pub began: SystemTime,
    pub started: Instant,
    pub entry: Option<Arc<Entry>>,
    /// Loaded once; the request uses it to its end.
    pub view: Option<Arc<View>>,
    pub caller: Caller,
    /// Whether the client spoke TLS with us; none where a peer's gateway stands between.
    pub tls: Option<bool>,
    pub deadline: Option<Instant>,
    pub destination: Option<Destination>,
    /// The `HTTPRoute` and rule that led there.
    pub route: Option<(Arc<HttpRoute>, usize)>,
    /// The attempt that is under way, or was the last.
    pub attempt: Option<Pick>,
    /// The targets of the attempts before.
    pub tried: Vec<Target>,
    /// What we answered in place of an application.
    pub refusal: Option<Refusal>,
    /// What the peer's gateway answered in place of its application.
    pub peer_fault: Option<Fault>,
    /// Proven on the connection that carries the attempt.
    pub upstream_identity: Option<SpiffeId>,
    pub flags: ResponseFlags,
    /// Its place among the requests under way.
    pub admission: Option<Admission>,
}

impl Context {
    pub fn new(began: SystemTime, started: Instant) -> Self {
        Self {
            began,
            started,
            entry: None,
            view: None,
            caller: Caller::default(),
            tls: None,
            deadline: None,
            destination: None,
            route: None,
            attempt: None,
            tried: Vec::new(),
            refusal: None,
            peer_fault: None,
            upstream_identity: None,
            flags: ResponseFlags::NONE,
            admission: None,
        }
    }

    /// Puts the last attempt aside, so that another target is tried.
    pub fn begin_attempt(&mut self) {
        self.tried.extend(self.attempt.take().map(|attempt| attempt.target));
        self.upstream_identity = None;
    }

    pub fn attempts(&self) -> usize {
        self.tried.len() + usize::from(self.attempt.is_some())
    }

    pub fn may_try_again(&self) -> bool {
        self.attempts() < TRIES_MAX
    }

    /// Does the attempt under way lead to a peer's gateway.
    pub fn is_on_link(&self) -> bool {
        matches!(self.attempt.as_ref().map(|attempt| &attempt.target), Some(Target::Cluster(_)))
    }

    /// How long the caller still waits; none where it did not say.
    pub fn time_left(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }
}
