//! Who may speak: SPIFFE identities, bundles, the CA, the TLS verifiers, join tokens.
//!
//! ```text
//!   BuiltinCa ──SVID──► SvidHandle ─┐                       ┌─► PeerIdentity ──► Registry
//!       └─────Bundle──► TrustStore ─┴─► TLS configurations ─┴─► Rejection
//! ```
//! [`TrustDomain`] and [`SpiffeId`] are valid by construction. A [`Bundle`] says which authorities may
//! sign for one trust domain, the [`TrustStore`] holds those of all that are trusted, and the verifiers
//! look up a peer's authorities by the trust domain that the peer claims, never in a pool. A finished
//! handshake becomes a [`PeerIdentity`] through [`authenticate`] and in no other way. Every connection
//! is in the [`Registry`], so that losing trust can end it.
//!
//! This crate knows nothing of clusters, services, stores or HTTP, and decides nothing about what an
//! identity may do. Time is an argument; the only files that it touches are those of the built-in CA.
//!
//! To come, each as a module of its own: `rotation` (the root's three phases) after `ca`, `endpoint`
//! (the SPIFFE bundle endpoint) after `bundle`, and files and the SPIRE Workload API within `source`.

#![warn(missing_docs)]

// In reading order.
mod spiffe_id;

mod svid;

mod bundle;

mod verify;

mod ca;

pub mod source;

mod token;

mod registry;

// Small mechanisms that know nothing of the above.
mod digest;
mod file;
mod key;
pub mod pem;
mod random;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod testing;

pub use bundle::{
    Authority, AuthorityId, BUNDLE_AUTHORITIES_MAX, BUNDLE_BYTES_MAX, BUNDLE_DEPTH_MAX, BUNDLE_KEYS_MAX,
    Bundle, BundleConflict, InvalidAuthority, InvalidAuthorityId, InvalidBundle, ParsedBundle,
    REFRESH_HINT_DEFAULT, SkipReason, SkippedKey, Succession,
};
pub use ca::{
    BuiltinCa, CSR_BYTES_MAX, CaError, CaSettings, InvalidJournal, InvalidRequest, IssueError, NoValidity,
    Signer, SignerFailed,
};
pub use digest::{Hex, from_hex};
pub use key::InvalidKey;
pub use registry::{Connection, Origin, Registry};
pub use source::{SvidHandle, renewal};
pub use spiffe_id::{InvalidSpiffeId, SPIFFE_ID_LENGTH_MAX, SpiffeId, TRUST_DOMAIN_LENGTH_MAX, TrustDomain};
pub use svid::{InvalidSvid, SvidKey, X509Svid};
pub use token::{
    InvalidToken, InvalidTokenId, JoinToken, TOKEN_ENDPOINTS_MAX, TOKEN_LENGTH_MAX, TOKEN_PINS_MAX, TokenId,
    TokenParts, TokenRecord, exporter, join_client_config, join_server_config, node_client_config,
    node_server_config,
};
pub use verify::{
    CERTIFICATE_BYTES_MAX, CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, ChainBounds, ClientAuth, ExpectedPeer,
    NotSvid, PeerIdentity, PeerSide, Rejection, TrustConflict, TrustSnapshot, TrustStore, authenticate,
    client_config, provider, server_config, verify_offered,
};
