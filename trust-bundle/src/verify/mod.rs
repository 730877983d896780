//! Who is at the other end of a TLS connection.
//!
//! ```text
//!   handshake ──► PeerVerifier ──► leaf ──► the leaf's own trust domain in the TrustSnapshot ──► path
//!   afterwards ─► authenticate() ──────────────────── the same, with what we trust by then ──► PeerIdentity
//! ```
//! The anchors of a chain are those of the trust domain that the leaf names, and no others (X15): a
//! pool of all roots would let each peer speak for every other one. [`authenticate`] is the only place
//! that makes a [`PeerIdentity`] (V1), so nothing can be authorised that was not verified.
//! What an identity may do is not decided here.

mod identity;
mod leaf;
mod path;
mod rejection;
mod tls;
mod trust_store;
mod verifier;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub use identity::{PeerIdentity, authenticate};
pub use leaf::{CERTIFICATE_BYTES_MAX, CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, ChainBounds, NotSvid};
pub use path::{PeerSide, verify_offered};
pub use rejection::Rejection;
pub use tls::{ExpectedPeer, client_config, server_config};
pub use trust_store::{TrustConflict, TrustSnapshot, TrustStore};
pub use verifier::ClientAuth;

pub(crate) use leaf::{
    Leaf, ca_constraints, check_chain_bounds, parse_certificate, signs_certificates, unix_time,
};
pub(crate) use path::verify_under;
pub(crate) use tls::{anonymous_client_with, client_with, server_with};
pub(crate) use verifier::{Judge, PeerVerifier};

/// The one crypto provider; passed explicitly everywhere, never taken from the process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

#[cfg(test)]
mod tests;
