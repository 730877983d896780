//! What an operator changes: peers, tokens, documents, identities.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use federation::app::OperatorError;
use federation::config::{self, ApplyOutcome};
use federation::model::{ClusterName, Freshness};
use http::StatusCode;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use trust_bundle::Hex;

use super::api::{
    Applied, Failure, InviteAnswer, InviteNodeRequest, InviteRequest, JoinAnswer, JoinRequest, Outcome,
    SvidAnswer, SvidRequest,
};
use super::server::Context;
use crate::balancer::LinkState;

/// A refused change, as status and body.
pub(super) struct Refused(StatusCode, Failure);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<OperatorError> for Refused {
    fn from(error: OperatorError) -> Self {
        let status = match &error {
            OperatorError::Refused(_) => StatusCode::CONFLICT,
            OperatorError::Unavailable(_) | OperatorError::Elsewhere(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let text = error.to_string();
        let (error, hint) = match text.split_once("; hint: ") {
            Some((error, hint)) => (error.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        Self(status, Failure { error, hint })
    }
}

fn invalid(error: impl ToString) -> Refused {
    Refused::invalid(error.to_string())
}

impl Refused {
    pub(super) fn invalid(error: String) -> Self {
        Self(StatusCode::BAD_REQUEST, Failure { error, hint: None })
    }
}

fn cluster_name(text: &str) -> Result<ClusterName, Refused> {
    ClusterName::try_from(text).map_err(invalid)
}

pub(super) async fn invite(
    State(context): State<Context>,
    Json(request): Json<InviteRequest>,
) -> Result<Json<InviteAnswer>, Refused> {
    let joiner = cluster_name(&request.cluster)?;
    let invitation = context.operator.invite(&joiner, Duration::from_secs(request.ttl_seconds)).await?;
    Ok(Json(InviteAnswer {
        token: invitation.token,
        id: invitation.id,
        cluster: request.cluster,
        expires: invitation.expires.to_string(),
    }))
}

pub(super) async fn join(
    State(context): State<Context>,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinAnswer>, Refused> {
    let peer = context.operator.join(&request.token).await?;
    let digest = context.inspected.trust.load().bundle(&peer.trust_domain).map(|bundle| bundle.digest());
    let settled = async {
        while !is_usable(&context, &peer.name) {
            tokio::time::sleep(SETTLE_LOOK_EVERY).await;
        }
    };
    let usable = tokio::time::timeout(SETTLE_TIME_MAX, settled).await.is_ok();
    Ok(Json(JoinAnswer {
        usable,
        cluster: peer.name.to_string(),
        trust_domain: peer.trust_domain.to_string(),
        bundle_sha256: Hex(&digest.unwrap_or_default()).to_string(),
    }))
}

/// Who joins means to use it: links lead both ways, and each side knows what the other one exports.
fn is_usable(context: &Context, peer: &ClusterName) -> bool {
    let paths = context.inspected.paths();
    let linked = paths
        .iter()
        .any(|path| path.peer == *peer && path.state == LinkState::Up && !path.accepted.is_empty());
    let told = context.operator.peers().into_iter().any(|known| {
        known.peer.name == *peer
            && known.freshness == Freshness::Fresh
            && known.imports.acknowledged.is_some()
            && known.exports.acknowledged >= Some(known.exports.revision)
    });
    linked && told
}

/// Long enough for a far peer; one that cannot dial us is joined all the same.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(5);
const SETTLE_LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) async fn remove_peer(
    State(context): State<Context>,
    Path(cluster): Path<String>,
) -> Result<Json<Value>, Refused> {
    let removal = context.operator.remove_peer(&cluster_name(&cluster)?).await?;
    Ok(Json(json!({ "removed": cluster, "told": removal.told })))
}

pub(super) async fn revoke_token(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    context.operator.revoke_token(&id).await?;
    Ok(Json(json!({ "revoked": id })))
}

pub(super) async fn invite_node(
    State(context): State<Context>,
    Json(request): Json<InviteNodeRequest>,
) -> Result<Json<InviteAnswer>, Refused> {
    let invitation = context.operator.invite_node(Duration::from_secs(request.ttl_seconds)).await?;
    Ok(Json(InviteAnswer {
        token: invitation.token,
        id: invitation.id,
        cluster: context.operator.snapshot().cluster.name.to_string(),
        expires: invitation.expires.to_string(),
    }))
}

pub(super) async fn revoke_node_token(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    context.operator.revoke_node_token(&id).await?;
    Ok(Json(json!({ "revoked": id })))
}

pub(super) async fn apply(
    State(context): State<Context>,
    documents: String,
) -> Result<Json<Vec<Applied>>, Refused> {
    let outcomes = context.operator.apply(&documents).await?;
    Ok(Json(outcomes.into_iter().map(Applied::from).collect()))
}

pub(super) async fn delete(
    State(context): State<Context>,
    documents: String,
) -> Result<Json<Vec<Applied>>, Refused> {
    let outcomes = context.operator.delete(&documents).await?;
    Ok(Json(outcomes.into_iter().map(Applied::from).collect()))
}

impl From<ApplyOutcome> for Applied {
    fn from(outcome: ApplyOutcome) -> Self {
        let (outcome, object) = (outcome.result, outcome.object);
        let done = |done| match done {
            config::Applied::Created => Outcome::Created,
            config::Applied::Configured => Outcome::Configured,
            config::Applied::Unchanged => Outcome::Unchanged,
            config::Applied::Deleted => Outcome::Deleted,
        };
        match outcome {
            Ok(change) => Self { object, outcome: done(change), reason: None },
            Err(reason) => Self { object, outcome: Outcome::Refused, reason: Some(reason) },
        }
    }
}

pub(super) async fn issue_svid(
    State(context): State<Context>,
    Json(request): Json<SvidRequest>,
) -> Result<Json<SvidAnswer>, Refused> {
    let csr = CertificateSigningRequestDer::from_pem_slice(request.csr.as_bytes()).map_err(invalid)?;
    let issued = context.operator.issue_workload_svid(&request.path, &csr)?;
    let pem = |certificates: &[rustls::pki_types::CertificateDer<'_>]| {
        certificates.iter().map(|c| trust_bundle::pem::encode("CERTIFICATE", c)).collect::<String>()
    };
    let authorities: Vec<_> = issued.bundle.authorities().iter().map(|a| a.certificate().clone()).collect();
    Ok(Json(SvidAnswer {
        id: issued.id.to_string(),
        chain: pem(&issued.chain),
        authorities: pem(&authorities),
        bundle: String::from_utf8_lossy(&issued.bundle.to_json()).into_owned(),
        expires: issued.expires.to_string(),
    }))
}
