//! The federation side of a redemption: who proves to have the token gets the gateway role, once.

use std::net::IpAddr;

use prost::Message as _;
use ring::digest::{SHA256, digest};
use tonic::Status;
use trust_bundle::{CSR_BYTES_MAX, Hex, TokenId, TokenRecord};

use super::invite::replace;
use super::{NodeRecord, NodeTokenState, Nodes, instant};
use crate::clock;
use crate::control::message::addresses_said;
use crate::control::proto::{NodeRequest, RedeemRequest, RedeemResponse};
use crate::control::{SigningRefused, server};
use crate::issuer::Role;
use crate::model::Timestamp;
use crate::store::keys::Place;
use crate::store::{CommitError, Entry, Fault, InvalidValue, codec};

/// A rival may win the transaction; then everything is judged again.
const ATTEMPTS_MAX: usize = 3;

/// Why there is no SVID.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum Refused {
    #[error("too many attempts; hint: wait some seconds")]
    TooMany,
    /// Unknown token or wrong proof: whoever has no token learns nothing (J5).
    #[error("the token opens nothing here")]
    Uniform,
    #[error("the token was revoked at {0}")]
    Revoked(Timestamp),
    #[error("the token expired at {0}; hint: ask for a new one")]
    Expired(Timestamp),
    #[error("the token was used already by another node; the operator is alarmed")]
    UsedByAnother,
    #[error("the request cannot be read")]
    Malformed,
    #[error(transparent)]
    Signing(#[from] SigningRefused),
    #[error("the token cannot be used now: {0}; hint: try again")]
    Store(#[from] CommitError),
    #[error("the token's record cannot be read: {0}")]
    Value(#[from] InvalidValue),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Store(fault.into())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let words = refused.to_string();
        match refused {
            Refused::TooMany => Self::resource_exhausted(words),
            Refused::Uniform => Self::permission_denied(words),
            Refused::Signing(_) | Refused::Store(_) => Self::unavailable(words),
            _ => Self::failed_precondition(words),
        }
    }
}

impl Nodes {
    /// Judges a stranger on one connection, in the order of notes/trust 4.2.
    pub(in crate::control) async fn redeem(
        &self,
        from: IpAddr,
        exporter: &[u8; 32],
        said: &RedeemRequest,
    ) -> Result<RedeemResponse, Refused> {
        let admitted = self.shared.limit.lock().admits(from, instant());
        let redeemed = if admitted { self.judge(exporter, said).await } else { Err(Refused::TooMany) };
        match &redeemed {
            Ok(_) => tracing::info!(target: "isthmus::audit", %from, "a node has its first SVID"),
            Err(refused @ Refused::UsedByAnother) => {
                tracing::error!(target: "isthmus::audit", %from, %refused, "a node token was used twice: is it leaked?");
            }
            Err(refused) => tracing::warn!(target: "isthmus::audit", %from, %refused, "node refused"),
        }
        redeemed
    }

    async fn judge(&self, exporter: &[u8; 32], said: &RedeemRequest) -> Result<RedeemResponse, Refused> {
        for _attempt in 0..ATTEMPTS_MAX {
            let (csr, entry, record) = self.prove(exporter, said).await?;
            match self.claim(&csr, &entry, record).await {
                Err(Refused::Store(CommitError::Conflict { .. })) => {}
                Err(refused) => return Err(refused),
                Ok(()) => return self.answer(csr).await,
            }
        }
        Err(Refused::Uniform)
    }

    /// Says whether the caller has the token; takes as long when there is none (J5).
    async fn prove(
        &self,
        exporter: &[u8; 32],
        said: &RedeemRequest,
    ) -> Result<(Vec<u8>, Entry, NodeRecord), Refused> {
        let request = NodeRequest::decode(said.request.as_slice()).ok();
        let id = request.as_ref().and_then(|request| TokenId::try_from(request.token_id.as_slice()).ok());
        let entry = match id {
            Some(id) => self.shared.deps.store.get(&Place::Node(id).key()).await?,
            None => None,
        };
        let record = entry.as_ref().map(|entry| codec::decode::<NodeRecord>(&entry.value)).transpose()?;
        let dummy = TokenRecord::dummy();
        let token = record.as_ref().map_or(&dummy, |record| &record.token);
        let proven = token.verify(exporter, &said.request, &said.proof);
        match (request, entry, record) {
            (Some(request), Some(entry), Some(record)) if proven => Ok((request.csr, entry, record)),
            _ => Err(Refused::Uniform),
        }
    }

    /// Makes the token this node's, before anything is issued: a lost answer can be asked for again.
    async fn claim(&self, csr: &[u8], entry: &Entry, record: NodeRecord) -> Result<(), Refused> {
        if csr.is_empty() || csr.len() > CSR_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        let now = clock::unix_now();
        let csr_sha256 = Hex(digest(&SHA256, csr).as_ref()).to_string();
        match &record.state {
            NodeTokenState::Revoked { at } => return Err(Refused::Revoked(*at)),
            // Judged by our clock alone (J2).
            _ if record.token.expires() < now => {
                return Err(Refused::Expired(clock::timestamp(record.token.expires())));
            }
            NodeTokenState::Used { csr_sha256: first, .. } if *first == csr_sha256 => return Ok(()),
            NodeTokenState::Used { .. } => return Err(Refused::UsedByAnother),
            NodeTokenState::Unused => {}
        }
        let state = NodeTokenState::Used { at: clock::timestamp(now), csr_sha256 };
        self.shared.deps.store.commit(replace(entry, &NodeRecord { state, ..record })?).await?;
        Ok(())
    }

    async fn answer(&self, csr: Vec<u8>) -> Result<RedeemResponse, Refused> {
        let deps = &self.shared.deps;
        let id = Role::Gateway.id(&deps.trust_domain);
        let chain = server::issue(&deps.signer, id, csr).await?;
        let trusted = deps.trust.load();
        let missing = || SigningRefused { reason: "our own bundle is not there".to_owned() };
        let bundle = trusted.bundle(&deps.trust_domain).ok_or_else(missing)?;
        Ok(RedeemResponse {
            cluster: deps.cluster.to_string(),
            trust_domain: deps.trust_domain.to_string(),
            chain: chain.into_iter().map(|certificate| certificate.to_vec()).collect(),
            bundle: bundle.to_json(),
            control: addresses_said(&deps.control),
        })
    }
}
