//! Tokens on the acceptor's side: made, listed, revoked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde::Serialize;
use trust_bundle::{JoinToken, TokenId, TokenParts};

use crate::clock;
use crate::model::{ClusterName, Timestamp};
use crate::peering::records::{JoinRecord, TokenState};
use crate::peering::relationships::{LoadError, encode};
use crate::peering::us::Us;
use crate::peering::wire;
use crate::store::keys::{self, Place};
use crate::store::{CommitError, Fault, Transaction, codec, list_all};

/// A token lives at most this long, so that a forgotten one opens nothing.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Tokens that are kept at a time, used and expired ones included.
pub const TOKENS_MAX: usize = 1000;
/// A record outlives its token, so that an operator can still be told what became of it.
const RECORD_OUTLIVES: Duration = Duration::from_secs(24 * 60 * 60);

/// When the last token that was made expires; after it nobody may knock.
#[derive(Debug, Default)]
pub(in crate::peering) struct Latest(AtomicU64);

impl Latest {
    fn extend(&self, expires: UnixTime) {
        self.0.fetch_max(expires.as_secs(), Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    #[error("{0} is this cluster itself")]
    Ourselves(ClusterName),
    #[error("a token lives at least a second and at most a day")]
    Lifetime,
    #[error("no address is advertised; hint: set gateway.eastWest.advertise, or let the other side invite")]
    NoAddress,
    #[error("{TOKENS_MAX} tokens are kept already; hint: wait until some are a day old")]
    TooMany,
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl From<Fault> for InviteError {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("there is no token {0}")]
    Unknown(TokenId),
    #[error("token {0} was used already; hint: remove the peer instead")]
    Used(TokenId),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Store(#[from] CommitError),
}

/// A token as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    pub id: TokenId,
    pub joiner: ClusterName,
    pub created: Timestamp,
    pub created_by: String,
    pub expires: Timestamp,
    pub state: TokenState,
}

/// Makes a token that only the named cluster can use, once.
pub(in crate::peering) async fn invite(
    us: &Us,
    joiner: &ClusterName,
    ttl: Duration,
    by: &str,
) -> Result<JoinToken, InviteError> {
    if *joiner == us.deps.cluster {
        return Err(InviteError::Ourselves(joiner.clone()));
    }
    if ttl < Duration::from_secs(1) || ttl > TOKEN_TTL_MAX {
        return Err(InviteError::Lifetime);
    }
    if us.deps.advertise.is_empty() {
        return Err(InviteError::NoAddress);
    }
    if list_all(&*us.deps.store, &keys::joins()).await?.entries.len() >= TOKENS_MAX {
        return Err(InviteError::TooMany);
    }
    let now = clock::unix_now();
    let (token, record) = JoinToken::seal(parts(us, joiner, later(now, ttl)));
    let record = JoinRecord {
        token: record,
        joiner: joiner.clone(),
        created: clock::timestamp(now),
        created_by: wire::shown(by),
        state: TokenState::Unused,
    };
    let lease = us.deps.store.grant(ttl + RECORD_OUTLIVES, now).await?;
    let key = Place::Join(token.id()).key();
    let transaction = Transaction::new().when_absent(key.clone()).put_leased(key, encode(&record), lease);
    us.deps.store.commit(transaction).await?;
    us.latest.extend(token.expires());
    tracing::info!(target: "isthmus::audit", token = %token.id(), %joiner, by = %record.created_by, "join token created");
    Ok(token)
}

fn parts(us: &Us, joiner: &ClusterName, expires: UnixTime) -> TokenParts {
    TokenParts {
        acceptor_cluster: us.deps.cluster.to_string(),
        trust_domain: us.deps.trust_domain.clone(),
        join_id: us.deps.join_svid.current().id().clone(),
        endpoints: us.deps.advertise.iter().map(ToString::to_string).collect(),
        // All that are published: a rotation between now and the redemption breaks nothing (J12).
        pins: us.bundle().authorities().iter().map(|authority| authority.id()).collect(),
        expires,
        joiner: Some(joiner.to_string()),
    }
}

fn later(now: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + by)
}

/// All tokens that are remembered, oldest first.
pub(in crate::peering) async fn tokens(us: &Us) -> Result<Vec<TokenView>, LoadError> {
    let mut views: Vec<TokenView> = records(us).await?.into_iter().map(view).collect();
    views.sort_by_key(|token| token.created);
    Ok(views)
}

async fn records(us: &Us) -> Result<Vec<JoinRecord>, LoadError> {
    let listing = list_all(&*us.deps.store, &keys::joins()).await?;
    let read = |entry: &crate::store::Entry| {
        codec::decode(&entry.value).map_err(|reason| LoadError::Value { key: entry.key.clone(), reason })
    };
    listing.entries.iter().map(read).collect()
}

fn view(record: JoinRecord) -> TokenView {
    TokenView {
        id: record.token.id(),
        joiner: record.joiner,
        created: record.created,
        created_by: record.created_by,
        expires: clock::timestamp(record.token.expires()),
        state: record.state,
    }
}

/// Makes a token useless that has not been used (J10).
pub(in crate::peering) async fn revoke(us: &Us, id: TokenId, by: &str) -> Result<(), TokenError> {
    let place = Place::Join(id);
    let held = us.read::<JoinRecord>(&place).await?.ok_or(TokenError::Unknown(id))?;
    match held.value.state {
        TokenState::Used(_) => return Err(TokenError::Used(id)),
        TokenState::Revoked { .. } => return Ok(()),
        TokenState::Unused => {}
    }
    let state = TokenState::Revoked { at: clock::timestamp_now() };
    let revoked = held.replaced_by(&place, &JoinRecord { state, ..held.value.clone() });
    us.deps.store.commit(revoked).await?;
    tracing::info!(target: "isthmus::audit", token = %id, by = %wire::shown(by), "join token revoked");
    Ok(())
}

/// Is any token left that a stranger could use.
pub(in crate::peering) fn is_open(us: &Us) -> bool {
    us.latest.0.load(Ordering::Relaxed) >= clock::unix_now().as_secs()
}

/// Reads back until when strangers may knock.
pub(in crate::peering) async fn load_latest(us: &Us) -> Result<(), LoadError> {
    for record in records(us).await? {
        if !matches!(record.state, TokenState::Revoked { .. }) {
            us.latest.extend(record.token.expires());
        }
    }
    Ok(())
}
