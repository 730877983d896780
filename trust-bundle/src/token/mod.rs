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

mod id;
mod join_token;
mod proof;
mod text;
mod tls;

pub use id::{InvalidTokenId, TokenId};
pub use join_token::{JoinToken, TokenParts};
pub use proof::TokenRecord;
pub use text::InvalidToken;
pub use tls::{exporter, join_client_config, join_server_config, node_client_config, node_server_config};

/// The longest token text that is read; a full one has about 6 KiB.
pub const TOKEN_LENGTH_MAX: usize = 8 * 1024;

/// More endpoints than this are neither written nor read.
pub const TOKEN_ENDPOINTS_MAX: usize = 8;

/// More pins than this are neither written nor read: a root, the next one, and as much again.
pub const TOKEN_PINS_MAX: usize = 4;

#[cfg(test)]
mod tests;
