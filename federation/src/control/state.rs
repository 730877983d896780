//! What a gateway needs to serve on its own, as parts that can be compared, sent and kept.
//!
//! ```text
//!   State ──encode──► Parts ──diff──► Delta ══ bytes ══► Delta ──apply──► Held ──► State
//! ```
//! A state is a snapshot and the bundles of all trust domains. Each service, import, peer, listener and
//! bundle is a part of its own with a key and a digest, so that a change costs what it touches: what is
//! the same allocation as before is neither encoded nor hashed again, and what did not change is shared
//! between the states of a receiver. The digest of a state names its content, not its generation.
//!
//! Compatibility: members are only added to parts and default when absent; a part of a kind that the
//! receiver does not know counts for the digest and for nothing else.

mod delta;
mod encode;
mod held;
mod key;
mod part;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use trust_bundle::{Bundle, Hex, TrustDomain, TrustStore, from_hex};

use crate::snapshot::{Generation, Snapshot};

pub use delta::{Chunks, Delta, InvalidDelta};
pub use encode::{Parts, diff};
pub use held::{Held, InvalidState, decode};
pub use key::{InvalidKey, Key};

/// More than this in one state or delta is refused: 100 000 endpoints take a twentieth of it.
pub const STATE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Parts of one state; more is refused.
pub const PARTS_MAX: usize = 1_000_000;

/// Everything that a gateway serves from.
#[derive(Debug, Clone)]
pub struct State {
    pub snapshot: Arc<Snapshot>,
    /// Our own trust domain's and those of all peers.
    pub bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl State {
    /// A snapshot with all that is trusted at this moment.
    pub fn new(snapshot: Arc<Snapshot>, trust: &TrustStore) -> Self {
        let trusted = trust.load();
        let by_domain = |bundle: &Arc<Bundle>| (bundle.trust_domain().clone(), Arc::clone(bundle));
        Self { snapshot, bundles: trusted.bundles().map(by_domain).collect() }
    }

    pub fn generation(&self) -> Generation {
        self.snapshot.generation
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let digests = |state: &Self| -> Vec<_> {
            state.bundles.iter().map(|(domain, bundle)| (domain.clone(), bundle.digest())).collect()
        };
        self.snapshot == other.snapshot && digests(self) == digests(other)
    }
}

/// How far somebody is: which generation, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Position {
    pub generation: Generation,
    pub digest: Digest,
}

/// Names the content of a state: SHA-256 over the keys and digests of its parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
#[serde(into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        Self::finish(ring::digest::digest(&ring::digest::SHA256, bytes))
    }

    fn of_parts<'a>(parts: impl Iterator<Item = (&'a Key, &'a Self)>) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for (key, digest) in parts {
            context.update(key.as_str().as_bytes());
            context.update(b" ");
            context.update(&digest.0);
        }
        Self::finish(context.finish())
    }

    fn finish(digest: ring::digest::Digest) -> Self {
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the hexadecimal digits of a digest")]
pub struct InvalidDigest;

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        from_hex(text).map(Self).ok_or(InvalidDigest)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
