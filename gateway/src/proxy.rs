//! The table of contents of a request: what happens to it, in the order in which it happens.
//!
//! ```text
//!  request_filter           who calls, strip what it may not say, route, is there room ─► or refuse
//!  request_body_filter      per chunk: refuse trailers
//!  upstream_peer            per try: balancer ─► endpoint, or a stream on a link
//!  upstream_request_filter  per try: origin form, what this target is told
//!  upstream_response_filter faults of a peer's gateway ─► another target
//!  upstream_response_trailer_filter   take away what trailers may not say
//!  fail_to_proxy            what went wrong ─► whose fault ─► an answer
//!  logging                  one line
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::answer::Refusal;
use crate::balancer::Target;
use crate::clock;
use crate::connection::{ConnectionKind, Entry, entry_of};
use crate::context::{Caller, Context, TRIES_MAX};
use crate::destination::Destination;
use crate::fault::Fault;
use crate::headers::{self, LinkHeaders, Sender};
use crate::link::{NoStream, OpenFault};
use crate::plane::Plane;
use crate::recording;
use crate::router::{NoRoute, RequestHead};
use crate::snapshot::View;
use crate::telemetry::Flag;
use crate::upstream::{Speaking, was_unprocessed};

/// The HTTP path of all listeners and links.
#[derive(Debug)]
pub struct RequestPath {
    plane: Arc<Plane>,
}

impl RequestPath {
    pub fn new(plane: Arc<Plane>) -> Self {
        Self { plane }
    }

    /// Learns who calls, takes away what it may not say, and finds where the request goes.
    fn route(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
        let internal = || {
            let message = "the connection is not registered";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        };
        let entry = session.digest().and_then(entry_of).cloned().ok_or_else(internal)?;
        entry.requests.fetch_add(1, Ordering::Relaxed);
        ctx.entry = Some(entry.clone());
        let view = self.plane.views.load();
        let request = session.req_header_mut();
        let said = introduce(ctx, &entry, &view, request);
        headers::strip(request, if ctx.caller.via.is_some() { Sender::Link } else { Sender::Client });
        let routed = find(ctx, &entry.kind, &view, request, said.to.as_deref());
        ctx.view = Some(view);
        let no_route = |why| {
            self.plane.metrics.own().no_route(entry.kind.entrance(), &why);
            Refusal::from(why)
        };
        ctx.destination = Some(routed.map_err(no_route)?);
        ctx.admission = Some(self.plane.admit(entry.kind.entrance())?);
        Ok(())
    }

    /// The target of the next try.
    fn pick(&self, ctx: &mut Context) -> Result<Target, Refusal> {
        if let Some(refusal) = &ctx.refusal {
            self.plane.metrics.own().retried(refusal.reason);
        }
        ctx.begin_attempt();
        let (Some(view), Some(destination)) = (&ctx.view, &ctx.destination) else {
            return Err(unrouted());
        };
        let pick = self.plane.pick(view, destination, &ctx.tried).map_err(|nobody| Refusal::from(&nobody))?;
        let target = pick.target.clone();
        ctx.attempt = Some(pick);
        Ok(target)
    }
}

/// Fills in who calls, and yields what a link says about the request.
fn introduce(ctx: &mut Context, entry: &Entry, view: &View, request: &RequestHeader) -> LinkHeaders {
    match &entry.kind {
        ConnectionKind::Link(peer) => {
            let domain = entry.connection.peer().map(|peer| peer.trust_domain());
            let said = domain.map(|domain| LinkHeaders::read(&request.headers, domain)).unwrap_or_default();
            ctx.caller = Caller::of_link(peer, &said);
            ctx.deadline = said.deadline.map(|left| ctx.started + left);
            said
        }
        ConnectionKind::LinkTunnel(tunnel) => {
            ctx.caller = Caller::of_tunnel(tunnel);
            LinkHeaders { to: Some(tunnel.to.clone()), ..LinkHeaders::default() }
        }
        ConnectionKind::Mesh
        | ConnectionKind::Ingress(_)
        | ConnectionKind::Virtual(_)
        | ConnectionKind::ForwardTunnel(_) => {
            ctx.caller = Caller::of_client(entry, &view.snapshot.cluster.trust_domain);
            ctx.tls = Some(entry.tls);
            LinkHeaders::default()
        }
    }
}

fn find(
    ctx: &mut Context,
    kind: &ConnectionKind,
    view: &View,
    request: &RequestHeader,
    to: Option<&str>,
) -> Result<Destination, NoRoute> {
    let router = &view.router;
    match kind {
        ConnectionKind::Mesh => router.mesh(host_of(request)),
        ConnectionKind::Ingress(listener) => {
            let head = RequestHead {
                method: &request.method,
                host: host_of(request),
                path: request.uri.path(),
                headers: &request.headers,
            };
            let routed = router.ingress(listener, &head, &mut rand::rng())?;
            ctx.route = Some((routed.route, routed.rule));
            Ok(routed.destination)
        }
        ConnectionKind::Virtual(key) | ConnectionKind::ForwardTunnel(key) => {
            router.destination(key).ok_or(NoRoute::UnknownService)
        }
        ConnectionKind::Link(_) | ConnectionKind::LinkTunnel(_) => {
            let (Some(peer), Some(to)) = (&ctx.caller.via, to) else { return Err(NoRoute::NotFound) };
            let found = router.link(peer, to)?;
            if found.port.protocol.carries_http() { Ok(found) } else { Err(NoRoute::NotFound) }
        }
    }
}

/// As the client said it; of absolute form pingora has checked that Host agrees.
fn host_of(request: &RequestHeader) -> &str {
    let authority = request.uri.authority().map(|authority| authority.as_str());
    let host = || request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    authority.or_else(host).unwrap_or_default()
}

#[async_trait]
impl ProxyHttp for RequestPath {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(clock::wall(), clock::now())
    }

    /// No modules: pingora's default one would look at every response for nothing.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let Err(refusal) = self.route(session, ctx) else { return Ok(false) };
        let written = refusal.write(session).await;
        ctx.refusal = Some(refusal);
        written.map(|()| true)
    }

    /// Refuses trailers: pingora passes on none, and would take their place for a body that has no end.
    ///
    /// Its loops of 0.9.1 (but for the one towards HTTP/1.1) ask `RecvStream` for more for ever, since a
    /// stream whose trailers nobody takes has neither data nor an end; one request keeps a core busy.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_last: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        // On a link the connector's session does the same: there pingora ignores what we would say.
        if body.is_some() || is_last || ctx.is_on_link() || session.req_header().version != Version::HTTP_2 {
            return Ok(());
        }
        let refused = Error::explain(ErrorType::InvalidHTTPHeader, "a request with trailers");
        Err(refused.into_down())
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        // After a failed try the failure says more than that nobody is left.
        let target = self.pick(ctx).map_err(|refusal| blame(ctx, refusal))?;
        let time_left = ctx.time_left(clock::now());
        if time_left == Some(Duration::ZERO) {
            return Err(blame(ctx, Refusal::timeout(TOO_LATE)));
        }
        let Some(destination) = &ctx.destination else { return Err(blame(ctx, unrouted())) };
        let speaking = Speaking::for_request(destination.port.protocol, session.req_header());
        let said = match (&target, speaking) {
            (Target::Cluster(_), Speaking::Upgrade) => ctx.caller.headers(destination, time_left),
            // Said in the request itself, if at all.
            _ => LinkHeaders::default(),
        };
        match self.plane.upstream.peer_for(&target, speaking, &said).await {
            Ok(mut peer) => {
                peer.options.read_timeout = time_left;
                Ok(peer)
            }
            Err(unresolved) => Err(failed(ctx, Error::because(ErrorType::ConnectError, "", unresolved))),
        }
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        failed(ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _reused: bool,
        _: &HttpPeer,
        _: std::os::fd::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        let connection = digest.and_then(entry_of).map(|entry| &entry.connection);
        ctx.upstream_identity = connection.and_then(|c| c.peer()).map(|peer| peer.id().clone());
        // A stream on a link proves nothing about the service behind it; its answer will.
        if let Some(attempt) = ctx.attempt.as_ref().filter(|_| !ctx.is_on_link()) {
            attempt.in_flight.connected();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        origin_form(request)?;
        if ctx.is_on_link() { tell_gateway(request, ctx) } else { tell_endpoint(request, ctx) }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if !ctx.is_on_link() {
            response.remove_header(&headers::FAULT);
            return Ok(());
        }
        let fault = response.headers.get(headers::FAULT).and_then(|value| value.to_str().ok());
        ctx.peer_fault = fault.and_then(|text| text.parse().ok());
        let Some(attempt) = &ctx.attempt else { return Ok(()) };
        match ctx.peer_fault.filter(|fault| fault.is_before_processing()) {
            None => attempt.in_flight.connected(),
            Some(fault) => {
                attempt.in_flight.connect_failed(clock::now());
                if ctx.may_try_again() && !session.as_ref().retry_buffer_truncated() {
                    let message = format!("{} answered {fault}", place(&attempt.target));
                    ctx.refusal = Some(Refusal { status: response.status, ..Refusal::fault(fault, message) });
                    let mut error = Error::new_up(ErrorType::HTTPStatus(response.status.as_u16()));
                    error.set_retry(true);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Trailers of answers; a request has none.
    fn upstream_response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut HeaderMap,
        ctx: &mut Context,
    ) -> Result<()> {
        headers::strip_trailers(trailers, if ctx.is_on_link() { Sender::Link } else { Sender::Client });
        Ok(())
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        _: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        // An application answered, or a peer's gateway for it: earlier failures are history.
        ctx.refusal = None;
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let unheard = ctx.peer_fault.take().is_some_and(|fault| fault.is_before_processing());
        let replayable = !session.as_ref().retry_buffer_truncated() && session.response_written().is_none();
        let unheard = unheard || was_unprocessed(&error);
        let repeatable = unheard || session.req_header().method.is_idempotent();
        if !replayable || !repeatable || !ctx.may_try_again() {
            error.set_retry(false);
        } else if broke_off(&error) {
            error.set_retry(true);
        } else {
            error.retry.decide_reuse(client_reused);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let Some(refusal) = explain(error, ctx) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let error_code = refusal.status.as_u16();
        if session.response_written().is_none() {
            // The client may be gone; the access log says so.
            let _ = refusal.write(session).await;
        }
        ctx.refusal = Some(refusal);
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// The access log has it all, one line a request.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        if let Some(flag) = error.filter(|_| ctx.refusal.is_none()).and_then(recording::flag_of) {
            ctx.flags.insert(flag);
        }
        if error.is_some() && ctx.attempts() >= TRIES_MAX {
            ctx.flags.insert(Flag::UpstreamRetryLimitExceeded);
        }
        recording::request(&self.plane, session, ctx);
    }
}

const TOO_LATE: &str = "the caller's deadline has passed";

/// Remembers what to answer, and yields the error with which pingora stops.
fn blame(ctx: &mut Context, refusal: Refusal) -> Box<Error> {
    let refusal = ctx.refusal.get_or_insert(refusal);
    Error::explain(ErrorType::HTTPStatus(refusal.status.as_u16()), refusal.message.clone())
}

fn unrouted() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request was not routed")
}

/// A target could not be connected to; the next one is tried.
fn failed(ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
    if let Some(attempt) = &ctx.attempt {
        attempt.in_flight.connect_failed(clock::now());
        let message = format!("cannot connect to {}: {}", place(&attempt.target), why(&error));
        ctx.refusal = Some(Refusal::fault(fault_of(&error), message));
    }
    error.set_retry(ctx.may_try_again());
    error
}

/// The connector says why there is no stream to a peer.
fn fault_of(error: &Error) -> Fault {
    let cause = error.root_cause();
    let no_stream = cause.downcast_ref().map(|no_stream| OpenFault::NoStream(*no_stream).fault());
    let refused = || cause.downcast_ref().map(OpenFault::fault);
    no_stream.or_else(refused).unwrap_or(Fault::Connect)
}

/// The cause where it is ours to tell, else only the kind: addresses are nobody else's business.
fn why(error: &Error) -> String {
    let cause = error.root_cause();
    let no_stream = cause.downcast_ref::<NoStream>().map(ToString::to_string);
    let refused = || cause.downcast_ref::<OpenFault>().map(ToString::to_string);
    no_stream.or_else(refused).unwrap_or_else(|| error.etype().as_str().to_owned())
}

/// What to answer for an error; none where nobody is there to hear it.
fn explain(error: &Error, ctx: &mut Context) -> Option<Refusal> {
    let place = ctx.attempt.as_ref().map_or_else(|| "upstream".to_owned(), |attempt| place(&attempt.target));
    match (error.esource(), error.etype()) {
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout,
        ) => None,
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => {
            let message = "the rest of the request did not come in time";
            Some(Refusal::new(StatusCode::REQUEST_TIMEOUT, "request-slow", message))
        }
        (ErrorSource::Downstream, _) => {
            Some(Refusal::new(StatusCode::BAD_REQUEST, "bad-request", "bad request"))
        }
        _ if ctx.refusal.is_some() => ctx.refusal.take(),
        (_, ErrorType::ReadTimedout) => Some(Refusal::timeout(format!("{place} did not answer in time"))),
        (ErrorSource::Upstream, kind) => {
            Some(Refusal::fault(Fault::Reset, format!("{place} broke the connection off: {}", kind.as_str())))
        }
        _ => {
            let message = "the gateway failed; its log says more";
            Some(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
        }
    }
}

/// The other side went away; unlike one that is slow, another one may do better.
fn broke_off(error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream
        && matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error
        )
}

/// How an answer names a target: the addresses of endpoints are nobody else's business.
fn place(target: &Target) -> String {
    match target {
        Target::Endpoint { .. } => "the endpoint".to_owned(),
        Target::Cluster(cluster) => format!("the gateway of cluster {cluster}"),
    }
}

/// A backend is no proxy: it gets origin form, also where the client used `HTTP_PROXY`.
fn origin_form(request: &mut RequestHeader) -> Result<()> {
    if matches!(request.raw_path(), [b'/', ..] | b"*") {
        return Ok(());
    }
    let target = request.uri.path_and_query().map_or("", |target| target.as_str());
    let slash = if target.starts_with('/') { "" } else { "/" };
    let origin = format!("{slash}{target}");
    request.set_raw_path(origin.as_bytes())
}

fn tell_gateway(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let Some(destination) = &ctx.destination else { return Ok(()) };
    let time_left = ctx.time_left(clock::now());
    for (name, value) in ctx.caller.headers(destination, time_left).pairs() {
        request.insert_header(name, value)?;
    }
    Ok(())
}

fn tell_endpoint(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    if let Some(client) = ctx.caller.client {
        request.insert_header(headers::FORWARDED_FOR, client.to_string())?;
    }
    if let Some(tls) = ctx.tls {
        request.insert_header(headers::FORWARDED_PROTO, if tls { "https" } else { "http" })?;
    }
    Ok(())
}
