//! The bundle itself: which authorities are usable, what its content is called.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::authority::{Authority, AuthorityId};
use super::document::{self, InvalidBundle, SkippedKey};
use super::sequence::{self, BundleConflict, Succession};
use super::{BUNDLE_AUTHORITIES_MAX, REFRESH_HINT_DEFAULT};
use crate::digest::sha256;
use crate::spiffe_id::TrustDomain;

const REFRESH_HINT_MIN: Duration = Duration::from_secs(15);
const REFRESH_HINT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The authorities of one trust domain, with the sequence number under which they were published.
#[derive(Debug, Clone)]
pub struct Bundle {
    trust_domain: TrustDomain,
    sequence: Option<u64>,
    refresh_hint: Duration,
    usable: Vec<Authority>,
    // Part of the content, and of no use to a verifier.
    expired: Vec<Authority>,
    digest: [u8; 32],
}

/// A bundle, and what its document had beside it that is of no use.
#[derive(Debug, Clone)]
pub struct ParsedBundle {
    /// The bundle of the usable authorities.
    pub bundle: Bundle,
    /// Entries that were left out, for status and logs.
    pub skipped: Vec<SkippedKey>,
}

impl Bundle {
    /// Reads a bundle document of this trust domain.
    ///
    /// An entry that is not for X.509 or cannot be admitted is left out and reported; a document that
    /// breaks the format or its bounds is refused whole.
    pub fn parse(
        trust_domain: TrustDomain,
        document: &[u8],
        now: UnixTime,
    ) -> Result<ParsedBundle, InvalidBundle> {
        let document::Parsed { sequence, refresh_hint, authorities, mut skipped } =
            document::parse(document)?;
        let refresh_hint = refresh_hint.map_or(REFRESH_HINT_DEFAULT, clamp_hint);
        let bundle = Self::assemble(trust_domain, sequence, refresh_hint, authorities, now)?;
        skipped.extend(bundle.expired.iter().map(SkippedKey::expired));
        Ok(ParsedBundle { bundle, skipped })
    }

    /// Makes the bundle that the owner of a trust domain publishes.
    pub fn publish(
        trust_domain: TrustDomain,
        roots: &[CertificateDer<'static>],
        sequence: u64,
        refresh_hint: Duration,
        now: UnixTime,
    ) -> Result<Self, InvalidBundle> {
        let authorities: Result<Vec<_>, _> = roots.iter().cloned().map(Authority::admit).collect();
        Self::assemble(trust_domain, Some(sequence), clamp_hint(refresh_hint), authorities?, now)
    }

    /// The trust domain that these authorities may sign for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The number of this content; grows with each change (B2).
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How often the publisher wants to be asked, within sensible bounds (B3).
    pub fn refresh_hint(&self) -> Duration {
        self.refresh_hint
    }

    /// The authorities that had not expired when the bundle was read, in the order of their IDs.
    pub fn authorities(&self) -> &[Authority] {
        &self.usable
    }

    /// Names the whole content: SHA-256 of [`Self::to_json`].
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The bundle as a SPIFFE document; equal content gives equal bytes (B17).
    pub fn to_json(&self) -> Vec<u8> {
        document::write(self.sequence, self.refresh_hint, self.content())
    }

    /// Judges this bundle as a successor of the one that is held (B2).
    pub fn succeeds(&self, held: &Self) -> Result<Succession, BundleConflict> {
        sequence::judge(self, held)
    }

    /// Whether this key is one of the bundle's, expired or not.
    pub fn knows(&self, authority: &AuthorityId) -> bool {
        self.content().any(|known| known.id() == *authority)
    }

    /// Whether there are authorities and none of them could still be used when it was read.
    pub(crate) fn has_only_expired(&self) -> bool {
        self.usable.is_empty() && !self.expired.is_empty()
    }

    /// All authorities in the order of the document.
    pub(crate) fn content(&self) -> impl Iterator<Item = &Authority> {
        let mut all: Vec<_> = self.usable.iter().chain(&self.expired).collect();
        all.sort_by(|a, b| a.order().cmp(&b.order()));
        all.into_iter()
    }

    fn assemble(
        trust_domain: TrustDomain,
        sequence: Option<u64>,
        refresh_hint: Duration,
        mut authorities: Vec<Authority>,
        now: UnixTime,
    ) -> Result<Self, InvalidBundle> {
        authorities.sort_by(|a, b| a.order().cmp(&b.order()));
        authorities.dedup_by(|a, b| a.certificate() == b.certificate());
        let (usable, expired): (Vec<_>, Vec<_>) = authorities.into_iter().partition(|a| a.not_after() >= now);
        if usable.len() > BUNDLE_AUTHORITIES_MAX {
            return Err(InvalidBundle::TooManyAuthorities(usable.len()));
        }
        let mut bundle = Self { trust_domain, sequence, refresh_hint, usable, expired, digest: [0; 32] };
        bundle.digest = sha256(&bundle.to_json());
        Ok(bundle)
    }
}

fn clamp_hint(hint: Duration) -> Duration {
    hint.clamp(REFRESH_HINT_MIN, REFRESH_HINT_MAX)
}
