//! The identity of a peer, and the one door through which it comes (V1, V21).

use rustls::CommonState;
use rustls::pki_types::UnixTime;

use super::path::{PeerSide, Verified, verify};
use super::rejection::Rejection;
use super::trust_store::TrustStore;
use crate::bundle::AuthorityId;
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// Who is at the other end of a connection; only [`authenticate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    id: SpiffeId,
    trust_domain: TrustDomain,
    authority: AuthorityId,
    not_after: UnixTime,
    trust_generation: u64,
}

impl PeerIdentity {
    /// The SPIFFE ID that the peer proved.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The trust domain of that ID.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authority at the root of the peer's chain.
    pub fn authority(&self) -> AuthorityId {
        self.authority
    }

    /// When the peer's certificate ceases to be valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The generation of the trust snapshot that the peer was verified with.
    pub fn trust_generation(&self) -> u64 {
        self.trust_generation
    }
}

/// Verifies the peer of a finished handshake with what is trusted now.
///
/// The handshake has verified the chain already, but what is trusted may have changed in between, and
/// nothing else in the process may make an identity out of a connection (V21).
pub fn authenticate(
    store: &TrustStore,
    connection: &CommonState,
    side: PeerSide,
    now: UnixTime,
) -> Result<PeerIdentity, Rejection> {
    let chain = connection.peer_certificates().ok_or(Rejection::NoCertificate)?;
    let snapshot = store.load();
    let Verified { id, authority, not_after } = verify(&snapshot, chain, side, now)?;
    let trust_domain = id.trust_domain();
    Ok(PeerIdentity { id, trust_domain, authority, not_after, trust_generation: snapshot.generation() })
}
