//! What a finished request or stream leaves behind: its line in the access log, its share of the metrics.

use std::time::{Instant, SystemTime};

use http::header;
use pingora_proxy::Session;
use trust_bundle::SpiffeId;

use crate::answer::Refusal;
use crate::balancer::{Reason, Target};
use crate::clock;
use crate::connection::Entry;
use crate::context::{Caller, Context};
use crate::destination::Destination;
use crate::plane::Plane;
use crate::snapshot::View;
use crate::telemetry::{Flag, Http, Proof, Protocol, Record, ResponseFlags, Source, Upstream};

/// What is known of a request or a stream, beside what it carried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail<'a> {
    pub(crate) view: &'a View,
    pub(crate) entry: &'a Entry,
    pub(crate) caller: &'a Caller,
    pub(crate) began: SystemTime,
    pub(crate) started: Instant,
    pub(crate) destination: Option<&'a Destination>,
    pub(crate) target: Option<(&'a Target, Reason)>,
    pub(crate) upstream_identity: Option<&'a SpiffeId>,
    pub(crate) attempts: usize,
    pub(crate) refusal: Option<&'a Refusal>,
    pub(crate) flags: ResponseFlags,
}

impl<'a> Trail<'a> {
    pub(crate) fn record(self, received: u64, sent: u64, http: Option<Http<'a>>) -> Record<'a> {
        let flags = self.refusal.and_then(Refusal::flag);
        Record {
            began: self.began,
            duration: clock::now().saturating_duration_since(self.started),
            generation: self.view.snapshot.generation,
            entrance: self.entry.kind.entrance(),
            source: self.source(),
            destination: self.destination,
            upstream: self.upstream(),
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
            flags: flags.map_or(self.flags, |flag| self.flags.with(flag)),
            reason: self.refusal.map(|refusal| refusal.reason),
            bytes_received: received,
            bytes_sent: sent,
            http,
        }
    }

    fn source(&self) -> Source<'a> {
        let own = &self.view.snapshot.cluster;
        let via = self.caller.via.as_ref();
        let proof = match (&self.caller.id, via) {
            (None, _) => Proof::Nothing,
            (Some(_), None) => Proof::MutualTls,
            (Some(_), Some(_)) => Proof::PeerGateway,
        };
        Source {
            address: self.entry.client,
            client: self.caller.client.filter(|_| via.is_some()),
            identity: self.caller.id.as_ref(),
            proof,
            gateway: via.and_then(|_| self.entry.connection.peer()).map(|peer| peer.id()),
            cluster: via.unwrap_or(&own.name),
            locality: via.is_none().then_some(&own.locality),
        }
    }

    fn upstream(&self) -> Upstream<'a> {
        let Some((target, why)) = self.target else { return Upstream::default() };
        let cluster = match target {
            Target::Endpoint { .. } => &self.view.snapshot.cluster.name,
            Target::Cluster(cluster) => cluster,
        };
        Upstream {
            target: Some(target),
            why: Some(why),
            cluster: Some(cluster),
            identity: self.upstream_identity,
        }
    }
}

/// Records a request that has ended, in whatever way.
pub(crate) fn request(plane: &Plane, session: &Session, ctx: &Context) {
    let (Some(view), Some(entry)) = (&ctx.view, &ctx.entry) else { return };
    let said = ctx.peer_fault.map(|fault| Refusal::fault(fault, "a peer's gateway answered"));
    let trail = Trail {
        view,
        entry,
        caller: &ctx.caller,
        began: ctx.began,
        started: ctx.started,
        destination: ctx.destination.as_ref(),
        target: ctx.attempt.as_ref().map(|attempt| (&attempt.target, attempt.reason)),
        upstream_identity: ctx.upstream_identity.as_ref(),
        attempts: ctx.attempts(),
        refusal: ctx.refusal.as_ref().or(said.as_ref()),
        flags: ctx.flags,
    };
    let (received, sent) = (session.as_ref().body_bytes_read(), session.as_ref().body_bytes_sent());
    finish(plane, view, &trail.record(received as u64, sent as u64, Some(http(session))));
}

/// Records whatever has ended.
pub(crate) fn finish(plane: &Plane, view: &View, record: &Record<'_>) {
    plane.metrics.observe(view, record);
    plane.access_log.write(record);
}

fn http(session: &Session) -> Http<'_> {
    let request = session.req_header();
    let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    let is_grpc = text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/grpc"));
    let authority = request.uri.authority().map(|authority| authority.as_str());
    Http {
        protocol: if is_grpc { Protocol::Grpc } else { Protocol::Http },
        method: request.method.as_str(),
        authority: authority.or_else(|| text(header::HOST)).unwrap_or_default(),
        path: request.uri.path(),
        status: session.response_written().map_or(0, |response| response.status.as_u16()),
        user_agent: text(header::USER_AGENT),
        traceparent: request.headers.get("traceparent").and_then(|value| value.to_str().ok()),
    }
}

/// Whose connection it was that ended too early.
pub(crate) fn flag_of(error: &pingora_error::Error) -> Option<Flag> {
    use pingora_error::{ErrorSource, ErrorType};
    match (error.esource(), error.etype()) {
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout,
        ) => Some(Flag::DownstreamConnectionTermination),
        (ErrorSource::Downstream, _) => Some(Flag::DownstreamProtocolError),
        (ErrorSource::Upstream, ErrorType::ReadTimedout) => Some(Flag::UpstreamRequestTimeout),
        (ErrorSource::Upstream, ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2) => {
            Some(Flag::UpstreamProtocolError)
        }
        (ErrorSource::Upstream, _) => Some(Flag::UpstreamConnectionTermination),
        _ => None,
    }
}
