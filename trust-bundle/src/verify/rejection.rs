//! Why a peer was not believed, in words for the operator and in a label for the metrics.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use super::leaf::{ChainBounds, NotSvid};
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// Why a chain of certificates gives no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The chain is larger than we look at (X17).
    #[error(transparent)]
    Bounds(#[from] ChainBounds),
    /// The leaf is not an X.509-SVID.
    #[error("the peer's certificate is not an X.509-SVID: {0}")]
    NotSvid(#[from] NotSvid),
    /// We hold no bundle of the leaf's trust domain.
    #[error("trust domain {0} is not trusted here; hint: is the peer registered?")]
    UnknownTrustDomain(TrustDomain),
    /// No authority of the leaf's trust domain signed the chain (X15).
    #[error("no authority of trust domain {0} signed the certificate; hint: has the peer a newer bundle?")]
    UnknownIssuer(TrustDomain),
    /// A certificate of the chain has expired.
    #[error("the certificate of {0} has expired")]
    Expired(SpiffeId),
    /// A certificate of the chain is not valid yet (X19).
    #[error("the certificate of {0} is not valid yet; hint: compare the clocks")]
    NotYetValid(SpiffeId),
    /// No authority that we hold of the trust domain is valid at this time (X10).
    #[error("all authorities held of trust domain {0} are outside their validity")]
    AuthorityExpired(TrustDomain),
    /// The chain breaks another rule of path validation (X8, X11).
    #[error("the certificate of {id} has no valid path: {reason}")]
    Path {
        /// Whom the leaf names.
        id: SpiffeId,
        /// What webpki says, or we.
        reason: String,
    },
    /// The peer proved an identity that was not expected here (V2).
    #[error("the peer is {0}, which is not whom we wanted")]
    Unexpected(SpiffeId),
    /// No certificate of the chain is the pinned authority.
    #[error("the peer shows no authority that the join token pins; hint: is the token for this cluster?")]
    NotPinned,
}

impl Rejection {
    /// One word of a small fixed set, for metrics (V6).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Bounds(_) => "chain_too_large",
            Self::NotSvid(_) => "not_svid",
            Self::UnknownTrustDomain(_) => "unknown_td",
            Self::UnknownIssuer(_) => "unknown_issuer",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::AuthorityExpired(_) => "authority_expired",
            Self::Path { .. } => "invalid_path",
            Self::Unexpected(_) => "policy",
            Self::NotPinned => "not_pinned",
        }
    }

    /// The rejection that made a handshake fail, if it was one.
    pub fn in_tls(error: &rustls::Error) -> Option<&Self> {
        // rustls sees for itself that a certificate is missing.
        static NO_CERTIFICATE: Rejection = Rejection::NoCertificate;
        match error {
            rustls::Error::NoCertificatesPresented => Some(&NO_CERTIFICATE),
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }

    /// The same, from what tokio-rustls returns.
    pub fn in_io(error: &io::Error) -> Option<&Self> {
        let inner: &(dyn Error + 'static) = error.get_ref()?;
        inner.downcast_ref().and_then(Self::in_tls)
    }
}

// As `Other`, every rejection gives the peer the same alert: it does not learn what we trust.
impl From<Rejection> for rustls::Error {
    fn from(rejection: Rejection) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejection))))
    }
}
