//! The SPIFFE bundle of one trust domain: the authorities that may sign its identities.
//!
//! ```text
//!   document ──parse──► entries ──admit──► Authority ──► Bundle ──► TrustStore
//! ```
//! A bundle belongs to one trust domain for ever; there is no way to merge two (B11), and the name of
//! the domain never comes from the document (B12). Content that is equal gives equal bytes and an
//! equal digest (B17). Whether an authority has expired does not change the content: the same document
//! read again tomorrow must not look like a forgery of today's.

mod authority;
mod content;
mod document;
mod sequence;

use std::time::Duration;

pub use authority::{Authority, AuthorityId, InvalidAuthority, InvalidAuthorityId};
pub use content::{Bundle, ParsedBundle};
pub use document::{InvalidBundle, SkipReason, SkippedKey};
pub use sequence::{BundleConflict, Succession};

/// The largest bundle document that is parsed (B15).
pub const BUNDLE_BYTES_MAX: usize = 256 * 1024;

/// More keys than this in one document are refused (B15).
pub const BUNDLE_KEYS_MAX: usize = 16;

/// More usable authorities than this are refused: each may cost a signature check (B15, V9).
pub const BUNDLE_AUTHORITIES_MAX: usize = 8;

/// A document nests five levels; more than this is an attack on the parser (B15).
pub const BUNDLE_DEPTH_MAX: usize = 8;

/// How often a bundle is fetched when it does not say (B3).
pub const REFRESH_HINT_DEFAULT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
