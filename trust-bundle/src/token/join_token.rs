//! The token in memory: its secret, and what it says beside it.

use std::fmt;

use rustls::pki_types::UnixTime;
use zeroize::Zeroizing;

use super::id::TokenId;
use super::proof::{self, TokenRecord};
use super::text::{self, InvalidToken};
use super::{TOKEN_ENDPOINTS_MAX, TOKEN_PINS_MAX};
use crate::bundle::AuthorityId;
use crate::random::random;
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// What a token says, beside its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenParts {
    /// The name of the cluster that invites.
    pub acceptor_cluster: String,
    /// The trust domain of the cluster that invites.
    pub trust_domain: TrustDomain,
    /// Whom the joiner must find at the other end.
    pub join_id: SpiffeId,
    /// Where the join listener is, as `host:port`; the first [`TOKEN_ENDPOINTS_MAX`] are named.
    pub endpoints: Vec<String>,
    /// The roots that the join listener may show: the current one and the prepared one (J12).
    pub pins: Vec<AuthorityId>,
    /// Until when the token may be used, by the clock of the acceptor (J2).
    pub expires: UnixTime,
    /// The only cluster that may use the token, if it was made for one.
    pub joiner: Option<String>,
}

/// A token with its secret; never printed, wiped on drop.
pub struct JoinToken {
    pub(super) id: TokenId,
    pub(super) seed: Zeroizing<[u8; 32]>,
    pub(super) parts: TokenParts,
}

impl JoinToken {
    /// Makes a token, and the record with which the acceptor will recognise it.
    pub fn seal(mut parts: TokenParts) -> (Self, TokenRecord) {
        parts.endpoints.truncate(TOKEN_ENDPOINTS_MAX);
        parts.pins.truncate(TOKEN_PINS_MAX);
        let (id, seed) = (TokenId::from(random::<16>()), Zeroizing::new(random()));
        let record = TokenRecord::new(id, &seed, &parts);
        (Self { id, seed, parts }, record)
    }

    /// Reads a token that an operator handed in.
    pub fn open(text: &str) -> Result<Self, InvalidToken> {
        text::read(text)
    }

    /// The one line that an operator carries; whoever has it can join.
    pub fn text(&self) -> Zeroizing<String> {
        text::write(self)
    }

    /// Signs a request on one connection: proof of the token without sending it.
    pub fn prove(&self, exporter: &[u8; 32], request: &[u8]) -> [u8; 64] {
        proof::prove(&self.seed, exporter, request)
    }

    /// Names the token in requests, lists and logs; no secret.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The name of the cluster that invites.
    pub fn acceptor_cluster(&self) -> &str {
        &self.parts.acceptor_cluster
    }

    /// The trust domain of the cluster that invites.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.parts.trust_domain
    }

    /// Whom the joiner must find at the other end.
    pub fn join_id(&self) -> &SpiffeId {
        &self.parts.join_id
    }

    /// Where the join listener is, as `host:port`.
    pub fn endpoints(&self) -> &[String] {
        &self.parts.endpoints
    }

    /// The roots that the join listener may show.
    pub fn pins(&self) -> &[AuthorityId] {
        &self.parts.pins
    }

    /// Until when the token may be used, by the clock of the acceptor.
    pub fn expires(&self) -> UnixTime {
        self.parts.expires
    }

    /// The only cluster that may use the token, if it was made for one.
    pub fn joiner(&self) -> Option<&str> {
        self.parts.joiner.as_deref()
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, redacted)", self.id)
    }
}
