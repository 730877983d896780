//! The join token: one line of text with which a cluster joins another, once.
//!
//! ```text
//!   acceptor                                          joiner
//!   seal ──► JoinToken ──(the operator carries it)──► open
//!     └────► TokenRecord                              dial an endpoint; the chain must hold a pin
//!   verify ◄────────── request, proof ─────────────── prove
//! ```
//! The secret in the token is a signing key that is never sent: what goes over the wire is a signature
//! over the request and this very TLS connection (4.2). The acceptor keeps only the public key, so a
//! backup of its store lets nobody in (J3). Nothing here decides whether a token may be used, expired
//! or was used before: that is the join server's, whose answers must all look alike (J5).

mod proof;
mod text;
mod tls;

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::UnixTime;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::bundle::AuthorityId;
use crate::digest::{Hex, from_hex};
use crate::random::random;
use crate::spiffe_id::{SpiffeId, TrustDomain};

pub use proof::TokenRecord;
pub use text::InvalidToken;
pub use tls::{exporter, join_client_config, join_server_config};

/// The longest token text that is read; a full one has about 6 KiB.
pub const TOKEN_LENGTH_MAX: usize = 8 * 1024;

/// More endpoints than this are neither written nor read.
pub const TOKEN_ENDPOINTS_MAX: usize = 8;

/// More pins than this are neither written nor read: a root, the next one, and as much again.
pub const TOKEN_PINS_MAX: usize = 4;

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
    id: TokenId,
    seed: Zeroizing<[u8; 32]>,
    parts: TokenParts,
}

impl JoinToken {
    /// Makes a token, and the record with which the acceptor will recognise it.
    pub fn seal(parts: TokenParts) -> (Self, TokenRecord) {
        Self::seal_with(parts, TokenId(random()), Zeroizing::new(random()))
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

    fn seal_with(mut parts: TokenParts, id: TokenId, seed: Zeroizing<[u8; 32]>) -> (Self, TokenRecord) {
        parts.endpoints.truncate(TOKEN_ENDPOINTS_MAX);
        parts.pins.truncate(TOKEN_PINS_MAX);
        let record = TokenRecord::new(id, &seed, &parts);
        (Self { id, seed, parts }, record)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, redacted)", self.id)
    }
}

/// The public name of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = InvalidTokenId;

    fn from_str(text: &str) -> Result<Self, InvalidTokenId> {
        from_hex(text).map(Self).ok_or(InvalidTokenId)
    }
}

impl TryFrom<&[u8]> for TokenId {
    type Error = InvalidTokenId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidTokenId> {
        bytes.try_into().map(Self).map_err(|_other_length| InvalidTokenId)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The text is not the name of a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token is named by 32 hexadecimal digits")]
pub struct InvalidTokenId;

#[cfg(test)]
mod tests;
