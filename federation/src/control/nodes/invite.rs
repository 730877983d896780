//! Node tokens on the federation side: made, listed, revoked.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde::Serialize;
use trust_bundle::{JoinToken, TokenId, TokenParts};

use super::{NodeRecord, NodeTokenState, Nodes};
use crate::clock;
use crate::model::Timestamp;
use crate::peering::wire;
use crate::store::keys::{self, Place};
use crate::store::{CommitError, Entry, Fault, InvalidValue, Transaction, codec, list_all};

/// A token lives at most this long, so that a forgotten one opens nothing.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Tokens that are kept at a time, used and expired ones included.
const TOKENS_MAX: usize = 1000;
/// A record outlives its token, so that an operator can still be told what became of it.
const RECORD_OUTLIVES: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    #[error("a token lives at least a second and at most a day")]
    Lifetime,
    #[error("no address for gateways is advertised; hint: set control.advertise")]
    NoAddress,
    #[error("{TOKENS_MAX} tokens are kept already; hint: wait until some are a day old")]
    TooMany,
    #[error("our own bundle is not there yet; hint: try again")]
    NoBundle,
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl From<Fault> for InviteError {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeTokenError {
    #[error("there is no node token {0}")]
    Unknown(TokenId),
    #[error("node token {0} was used already")]
    Used(TokenId),
    #[error("what is stored cannot be read: {0}")]
    Value(#[from] InvalidValue),
    #[error(transparent)]
    Store(#[from] CommitError),
}

impl From<Fault> for NodeTokenError {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

/// A token as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeToken {
    pub id: TokenId,
    pub created: Timestamp,
    pub created_by: String,
    pub expires: Timestamp,
    pub state: NodeTokenState,
}

impl Nodes {
    /// Makes a token with which one gateway process gets its first SVID.
    pub async fn invite(&self, ttl: Duration, by: &str) -> Result<JoinToken, InviteError> {
        if ttl < Duration::from_secs(1) || ttl > TOKEN_TTL_MAX {
            return Err(InviteError::Lifetime);
        }
        let deps = &self.shared.deps;
        if deps.control.is_empty() {
            return Err(InviteError::NoAddress);
        }
        if list_all(&*deps.store, &keys::nodes()).await?.entries.len() >= TOKENS_MAX {
            return Err(InviteError::TooMany);
        }
        let now = clock::unix_now();
        let (token, record) = JoinToken::seal(self.parts(later(now, ttl))?);
        let record = NodeRecord {
            token: record,
            created: clock::timestamp(now),
            created_by: wire::shown(by),
            state: NodeTokenState::Unused,
        };
        let lease = deps.store.grant(ttl + RECORD_OUTLIVES, now).await?;
        let key = Place::Node(token.id()).key();
        let value = codec::encode(&record).expect("names, times and keys always serialise");
        deps.store.commit(Transaction::new().when_absent(key.clone()).put_leased(key, value, lease)).await?;
        tracing::info!(target: "isthmus::audit", token = %token.id(), by = %record.created_by, "node token created");
        Ok(token)
    }

    fn parts(&self, expires: UnixTime) -> Result<TokenParts, InviteError> {
        let deps = &self.shared.deps;
        let trusted = deps.trust.load();
        let bundle = trusted.bundle(&deps.trust_domain).ok_or(InviteError::NoBundle)?;
        Ok(TokenParts {
            acceptor_cluster: deps.cluster.to_string(),
            trust_domain: deps.trust_domain.clone(),
            join_id: deps.join_svid.current().id().clone(),
            endpoints: deps.control.iter().map(ToString::to_string).collect(),
            pins: bundle.authorities().iter().map(|authority| authority.id()).collect(),
            expires,
            // A token with a cluster's name is for that cluster; this is for nobody in particular.
            joiner: None,
        })
    }

    /// All tokens that are remembered, oldest first.
    pub async fn tokens(&self) -> Result<Vec<NodeToken>, NodeTokenError> {
        let listing = list_all(&*self.shared.deps.store, &keys::nodes()).await?;
        let view = |entry: &Entry| codec::decode::<NodeRecord>(&entry.value).map(view);
        let mut views = listing.entries.iter().map(view).collect::<Result<Vec<_>, _>>()?;
        views.sort_by_key(|token| token.created);
        Ok(views)
    }

    /// Makes a token useless that has not been used (J10).
    pub async fn revoke(&self, id: TokenId, by: &str) -> Result<(), NodeTokenError> {
        let store = &self.shared.deps.store;
        let entry = store.get(&Place::Node(id).key()).await?.ok_or(NodeTokenError::Unknown(id))?;
        let record: NodeRecord = codec::decode(&entry.value)?;
        match record.state {
            NodeTokenState::Used { .. } => return Err(NodeTokenError::Used(id)),
            NodeTokenState::Revoked { .. } => return Ok(()),
            NodeTokenState::Unused => {}
        }
        let state = NodeTokenState::Revoked { at: clock::timestamp_now() };
        store.commit(replace(&entry, &NodeRecord { state, ..record })?).await?;
        tracing::info!(target: "isthmus::audit", token = %id, by = %wire::shown(by), "node token revoked");
        Ok(())
    }
}

/// Puts another record in the place of one, if nobody else has done so; it keeps its lease.
pub(super) fn replace(entry: &Entry, record: &NodeRecord) -> Result<Transaction, InvalidValue> {
    let (key, value) = (entry.key.clone(), codec::encode(record)?);
    let transaction = Transaction::new().when(key.clone(), entry.revision);
    Ok(match entry.lease {
        Some(lease) => transaction.put_leased(key, value, lease),
        None => transaction.put(key, value),
    })
}

fn view(record: NodeRecord) -> NodeToken {
    NodeToken {
        id: record.token.id(),
        created: record.created,
        created_by: record.created_by,
        expires: clock::timestamp(record.token.expires()),
        state: record.state,
    }
}

fn later(now: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + by)
}
