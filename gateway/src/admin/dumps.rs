//! What a process believes, as it believes it now: nothing here is computed for show.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use federation::catalog;
use federation::clock;
use federation::config::directory;
use federation::control::nodes::{NodeToken, NodeTokenState};
use federation::model::{Freshness, Peer, RelationshipState};
use federation::peering::TokenView;
use federation::peering::records::TokenState;
use federation::snapshot::Snapshot;
use http::{StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use super::api::{
    About, Condition, ListenerStatus, ObjectStatus, PeerStatus, Problem, Status, SvidStatus, TokenStatus,
};
use super::changes::Refused;
use super::server::{Context, Inspected};
use super::standing;
use crate::balancer::LinkState;
use crate::link;

pub(super) async fn about(State(context): State<Context>) -> Json<About> {
    let cluster = context.operator.snapshot().cluster.clone();
    Json(About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.name.to_string(),
        trust_domain: cluster.trust_domain.to_string(),
        cookie_file: context.cookie.path().display().to_string(),
    })
}

/// The process runs; that is all it says.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// Traffic may be sent here.
pub(super) async fn ready(State(context): State<Context>) -> Response {
    if standing::is_ready(&context) {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting, draining, or without a leader\n").into_response()
}

pub(super) async fn metrics(State(context): State<Context>) -> Response {
    let Inspected { metrics, svids, .. } = &*context.inspected;
    context.inspected.paths().iter().for_each(|peer| metrics.own().peer(peer));
    // The first to end is what an alarm waits for.
    let expiries = svids.iter().map(|svid| svid.current().not_after().as_secs());
    metrics.own().svid_expiry(Duration::from_secs(expiries.min().unwrap_or_default()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.encode()).into_response()
}

pub(super) async fn config(State(context): State<Context>) -> Json<Value> {
    Json(context.inspected.config.clone())
}

pub(super) async fn snapshot(State(context): State<Context>) -> Response {
    match &context.inspected.data_plane {
        // What requests are served with.
        Some(plane) => dump(&*plane.views.load().snapshot),
        None => dump(&*context.operator.snapshot()),
    }
}

pub(super) async fn links(State(context): State<Context>) -> Response {
    dump(&context.inspected.paths())
}

/// Serialised by reference: a dump of 100 000 endpoints is not copied into a tree first.
fn dump(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub(super) async fn connections(State(context): State<Context>) -> Json<Vec<Value>> {
    let live = context.inspected.registry.list();
    let show = |connection: &std::sync::Arc<trust_bundle::Connection>| {
        json!({
            "id": connection.id(),
            "origin": format!("{:?}", connection.origin()),
            "owner": connection.owner(),
            "identity": connection.peer().map(|peer| peer.id().to_string()),
        })
    };
    Json(live.iter().map(show).collect())
}

pub(super) async fn trust(State(context): State<Context>) -> Json<Value> {
    let trusted = context.inspected.trust.load();
    let authority = |authority: &trust_bundle::Authority| {
        json!({
            "id": authority.id().to_string(),
            "expires": clock::timestamp(authority.not_after()).to_string(),
        })
    };
    let bundles = trusted.bundles().map(|bundle| {
        json!({
            "trustDomain": bundle.trust_domain().to_string(),
            "sequence": bundle.sequence(),
            "authorities": bundle.authorities().iter().map(authority).collect::<Vec<_>>(),
        })
    });
    Json(json!({ "generation": trusted.generation(), "bundles": bundles.collect::<Vec<_>>() }))
}

pub(super) async fn objects(State(context): State<Context>) -> Result<Json<Vec<ObjectStatus>>, Refused> {
    context.operator.check_here()?;
    Ok(Json(context.operator.objects(None).await.into_iter().map(ObjectStatus::from).collect()))
}

pub(super) async fn objects_of_kind(
    State(context): State<Context>,
    Path(kind): Path<String>,
) -> Result<Json<Vec<ObjectStatus>>, Refused> {
    if !catalog::is_known_kind(&kind) {
        let known = catalog::KINDS.join(", ");
        return Err(Refused::invalid(format!("there is no kind {kind:?}; known are {known}")));
    }
    context.operator.check_here()?;
    Ok(Json(context.operator.objects(Some(&kind)).await.into_iter().map(ObjectStatus::from).collect()))
}

impl From<catalog::ObjectStatus> for ObjectStatus {
    fn from(status: catalog::ObjectStatus) -> Self {
        Self {
            kind: status.key.kind.to_string(),
            namespace: status.key.namespace.to_string(),
            name: status.key.name.to_string(),
            source: status.source.to_string(),
            created: status.created.to_string(),
            conditions: status.conditions.into_iter().map(Condition::from).collect(),
        }
    }
}

impl From<catalog::Condition> for Condition {
    fn from(condition: catalog::Condition) -> Self {
        let section = condition.section.map(|section| format!("{section}: ")).unwrap_or_default();
        Self {
            kind: format!("{:?}", condition.kind),
            status: condition.status == catalog::Verdict::True,
            reason: condition.reason.to_owned(),
            message: format!("{section}{}", condition.message),
        }
    }
}

pub(super) async fn peers(State(context): State<Context>) -> Json<Vec<PeerStatus>> {
    Json(peer_statuses(&context))
}

/// By what peering says where it is in this process, else by the snapshot.
fn peer_statuses(context: &Context) -> Vec<PeerStatus> {
    let (snapshot, paths) = (context.operator.snapshot(), context.inspected.paths());
    let status = |peer: &Peer, freshness: Freshness| {
        let path = paths.iter().find(|path| path.peer == peer.name);
        let view = snapshot.peers.get(&peer.name);
        PeerStatus {
            cluster: peer.name.to_string(),
            trust_domain: peer.trust_domain.to_string(),
            state: relationship(peer),
            freshness: knowledge(peer, freshness),
            path: path.map_or("none", |path| path_word(path.state)).to_owned(),
            round_trip_milliseconds: path.and_then(round_trip),
            imports: view.map_or(0, |view| view.imports.len()),
            exports: view.map_or(0, |view| view.exported_to.len()),
            gateways: peer.gateways.iter().map(ToString::to_string).collect(),
            joined: peer.joined.to_string(),
        }
    };
    if context.operator.check_here().is_ok() {
        let peers = context.operator.peers();
        return peers.iter().map(|known| status(&known.peer, known.freshness)).collect();
    }
    snapshot.peers.values().map(|view| status(&view.peer, view.freshness)).collect()
}

/// Nothing is known of who has ended the relationship.
fn knowledge(peer: &Peer, freshness: Freshness) -> String {
    match peer.state {
        RelationshipState::Active => format!("{freshness:?}").to_lowercase(),
        RelationshipState::RemovedByPeer { .. } => "none".to_owned(),
    }
}

fn relationship(peer: &Peer) -> String {
    match &peer.state {
        RelationshipState::Active => "active".to_owned(),
        RelationshipState::RemovedByPeer { at } => format!("removed by {} at {at}", peer.name),
    }
}

fn token_state(token: &TokenView) -> String {
    match &token.state {
        TokenState::Unused if token.expires < clock::timestamp_now() => "expired".to_owned(),
        TokenState::Unused => "unused".to_owned(),
        TokenState::Used(redemption) => format!("used at {} by {}", redemption.at, redemption.trust_domain),
        TokenState::Revoked { at } => format!("revoked at {at}"),
    }
}

fn path_word(state: LinkState) -> &'static str {
    match state {
        LinkState::Up => "up",
        LinkState::Down => "down",
        LinkState::Draining => "draining",
    }
}

fn round_trip(path: &link::PeerStatus) -> Option<f64> {
    path.dialled.iter().filter_map(|link| link.round_trip_ms).min_by(f64::total_cmp)
}

pub(super) async fn tokens(State(context): State<Context>) -> Result<Json<Vec<TokenStatus>>, Refused> {
    let tokens = context.operator.tokens().await?;
    let status = |token: TokenView| TokenStatus {
        id: token.id.to_string(),
        cluster: token.joiner.to_string(),
        state: token_state(&token),
        expires: token.expires.to_string(),
    };
    Ok(Json(tokens.into_iter().map(status).collect()))
}

pub(super) async fn node_tokens(State(context): State<Context>) -> Result<Json<Vec<TokenStatus>>, Refused> {
    let tokens = context.operator.node_tokens().await?;
    let status = |token: NodeToken| TokenStatus {
        id: token.id.to_string(),
        cluster: context.operator.snapshot().cluster.name.to_string(),
        state: match &token.state {
            NodeTokenState::Unused if token.expires < clock::timestamp_now() => "expired".to_owned(),
            NodeTokenState::Unused => "unused".to_owned(),
            NodeTokenState::Used { at, .. } => format!("used at {at}"),
            NodeTokenState::Revoked { at } => format!("revoked at {at}"),
        },
        expires: token.expires.to_string(),
    };
    Ok(Json(tokens.into_iter().map(status).collect()))
}

pub(super) async fn status(State(context): State<Context>) -> Json<Status> {
    let snapshot = context.operator.snapshot();
    let svid = |handle: &trust_bundle::SvidHandle| {
        let svid = handle.current();
        let expires = clock::timestamp(svid.not_after()).to_string();
        SvidStatus { id: svid.id().to_string(), expires, generation: handle.generation() }
    };
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: snapshot.cluster.name.to_string(),
        trust_domain: snapshot.cluster.trust_domain.to_string(),
        ready: standing::is_ready(&context),
        role: context.inspected.role.to_owned(),
        control: standing::control(&context),
        leader: standing::leader(&context.inspected),
        store: standing::store(&context.inspected),
        gateways: standing::gateways(&context),
        generation: snapshot.generation.0,
        services: snapshot.services.len(),
        peers: peer_statuses(&context),
        listeners: listeners(&context, &snapshot),
        svids: context.inspected.svids.iter().map(svid).collect(),
        problems: problems(&context).await,
    })
}

/// The fixed ones, and those of `Gateway` objects.
fn listeners(context: &Context, snapshot: &Snapshot) -> Vec<ListenerStatus> {
    let fixed = context
        .inspected
        .listeners
        .iter()
        .map(|(name, address)| ListenerStatus { name: (*name).to_owned(), address: address.to_string() });
    let dynamic = snapshot.listeners.iter().map(|view| ListenerStatus {
        name: format!("{} {}", view.listener.gateway, view.listener.name),
        address: match view.listener.address {
            Some(ip) => std::net::SocketAddr::new(ip, view.listener.port).to_string(),
            None => format!(":{}", view.listener.port),
        },
    });
    fixed.chain(dynamic).collect()
}

/// File, line and field, as far as they are known.
fn place(problem: &directory::Problem) -> String {
    let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
    let field = problem.field.as_ref().map(|field| format!(" {field}")).unwrap_or_default();
    format!("{}{line}{field}", problem.file)
}

fn told(condition: &catalog::Condition) -> String {
    let verdict = if condition.status == catalog::Verdict::True { "true" } else { "false" };
    format!("{:?} is {verdict}, {}: {}", condition.kind, condition.reason, condition.message)
}

/// Everything that is not as it was written: documents, objects, sockets.
async fn problems(context: &Context) -> Vec<Problem> {
    let mut problems = standing::problems(context);
    problems.extend(context.operator.problems().iter().map(|problem| Problem {
        subject: place(problem),
        message: problem.message.clone(),
        hint: None,
    }));
    for object in context.operator.objects(None).await {
        let bad = object.conditions.iter().filter(|condition| condition.is_problem());
        problems.extend(bad.map(|condition| Problem {
            subject: format!("{} ({})", object.key, object.source),
            message: told(condition),
            hint: None,
        }));
    }
    problems.extend(context.operator.unbound().iter().map(|(replica, socket)| Problem {
        subject: format!("{} for {} ({replica})", socket.address, socket.owner),
        message: socket.reason.clone(),
        hint: Some(socket.remedy.clone()),
    }));
    problems
}
