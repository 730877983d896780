//! Which of two bundles of a trust domain is the newer one (B2).
//!
//! A publisher numbers each change. Whoever replays an old bundle, perhaps one with a root that has
//! been revoked since, has a smaller number; whoever shows different content under the same number
//! tells two stories at once. Both are refused, and both are worth an alarm.

use super::Bundle;
use crate::spiffe_id::TrustDomain;

/// How a bundle relates to the one that it would replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// It is newer: take it.
    Newer,
    /// It is what we hold already.
    Same,
}

/// Why a bundle may not replace the one that is held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleConflict {
    /// It is older than what is held, or lost the number that its domain used to send.
    #[error("bundle {offered:?} of {trust_domain} is older than bundle {held}, which is held")]
    Rollback {
        /// The trust domain of both.
        trust_domain: TrustDomain,
        /// The sequence number that is held.
        held: u64,
        /// The sequence number that was offered, if any.
        offered: Option<u64>,
    },
    /// It has the number of the held one and other content.
    #[error("two different bundles of {trust_domain} have the sequence number {sequence}")]
    Equivocation {
        /// The trust domain of both.
        trust_domain: TrustDomain,
        /// The number of both.
        sequence: u64,
    },
    /// It belongs to another trust domain, so there is no order between them (B11).
    #[error("a bundle of {offered} cannot replace one of {held}")]
    TrustDomain {
        /// The trust domain that is held.
        held: TrustDomain,
        /// The trust domain that was offered.
        offered: TrustDomain,
    },
}

pub(super) fn judge(offered: &Bundle, held: &Bundle) -> Result<Succession, BundleConflict> {
    let trust_domain = held.trust_domain().clone();
    if *offered.trust_domain() != trust_domain {
        let offered = offered.trust_domain().clone();
        return Err(BundleConflict::TrustDomain { held: trust_domain, offered });
    }
    if offered.digest() == held.digest() {
        return Ok(Succession::Same);
    }
    match (offered.sequence(), held.sequence()) {
        // A publisher that never numbered is taken at the time of the fetch.
        (_, None) => Ok(Succession::Newer),
        (Some(offered), Some(held)) if offered > held => Ok(Succession::Newer),
        (Some(sequence), Some(held)) if sequence == held => {
            Err(BundleConflict::Equivocation { trust_domain, sequence })
        }
        (offered, Some(held)) => Err(BundleConflict::Rollback { trust_domain, held, offered }),
    }
}
