//! The decision itself: a chain, the bundle of one trust domain, a time; pure.
//!
//! webpki builds the path and checks signatures, dates, extended key usage and cA. Added here is what
//! it leaves out: the leaf is an SVID, the chain is bounded (X17), an intermediate without keyCertSign
//! is no issuer (X9), the anchor is valid at this time (X10) and its path length is kept (X11).

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::leaf::{
    Leaf, ca_constraints, check_chain_bounds, names_workload, parse_certificate, signs_certificates,
};
use super::provider;
use super::rejection::Rejection;
use super::trust_store::TrustSnapshot;
use crate::bundle::{Authority, AuthorityId, Bundle};
use crate::spiffe_id::SpiffeId;

/// Which side of the TLS handshake the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerSide {
    /// The peer dialled us.
    Client,
    /// We dialled the peer.
    Server,
}

/// A chain that holds: whose it is, who signed it, until when.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(crate) id: SpiffeId,
    pub(crate) authority: AuthorityId,
    pub(crate) not_after: UnixTime,
}

/// Verifies a chain, leaf first, under what this snapshot holds of the leaf's trust domain (X15).
pub(crate) fn verify(
    snapshot: &TrustSnapshot,
    chain: &[CertificateDer<'_>],
    side: PeerSide,
    now: UnixTime,
) -> Result<Verified, Rejection> {
    let leaf = parse_leaf(chain)?;
    let trust_domain = leaf.id().trust_domain();
    let Some(bundle) = snapshot.bundle(&trust_domain) else {
        return Err(Rejection::UnknownTrustDomain(trust_domain));
    };
    if bundle.has_only_expired() {
        return Err(Rejection::AuthorityExpired(trust_domain));
    }
    verify_leaf(leaf, bundle.authorities(), chain, side, now)
}

/// Verifies a client's chain under a bundle that was offered together with it, as a join does.
///
/// The answer only says that the chain and the bundle belong together; whether the bundle is to be
/// trusted is for the caller to decide.
pub fn verify_offered(
    chain: &[CertificateDer<'_>],
    offered: &Bundle,
    now: UnixTime,
) -> Result<SpiffeId, Rejection> {
    let leaf = parse_leaf(chain)?;
    let trust_domain = leaf.id().trust_domain();
    if trust_domain != *offered.trust_domain() {
        return Err(Rejection::UnknownTrustDomain(trust_domain));
    }
    verify_leaf(leaf, offered.authorities(), chain, PeerSide::Client, now).map(|verified| verified.id)
}

/// Verifies a chain under exactly these authorities, whatever trust domain its leaf names.
pub(crate) fn verify_under(
    authorities: &[Authority],
    chain: &[CertificateDer<'_>],
    side: PeerSide,
    now: UnixTime,
) -> Result<Verified, Rejection> {
    verify_leaf(parse_leaf(chain)?, authorities, chain, side, now)
}

fn parse_leaf(chain: &[CertificateDer<'_>]) -> Result<Leaf, Rejection> {
    check_chain_bounds(chain)?;
    Ok(Leaf::parse(chain.first().ok_or(Rejection::NoCertificate)?)?)
}

fn verify_leaf(
    leaf: Leaf,
    authorities: &[Authority],
    chain: &[CertificateDer<'_>],
    side: PeerSide,
    now: UnixTime,
) -> Result<Verified, Rejection> {
    let (usable, anchors): (Vec<_>, Vec<_>) = authorities
        .iter()
        .filter(|authority| authority.is_valid_at(now))
        .filter_map(|authority| Some((authority, authority.anchor()?)))
        .unzip();
    if usable.is_empty() && !authorities.is_empty() {
        return Err(Rejection::AuthorityExpired(leaf.id().trust_domain()));
    }
    let intermediates: Vec<_> = chain.iter().skip(1).filter(|c| may_issue(c)).cloned().collect();
    let end_entity = EndEntityCert::try_from(&chain[0]).map_err(|e| rejection(&leaf, &e))?;
    let path =
        build_path(&end_entity, &anchors, &intermediates, side, now).map_err(|e| rejection(&leaf, &e))?;
    let authority = signer(&path, &anchors, &usable).ok_or_else(|| broken_path(&leaf, "foreign anchor"))?;
    if !authority.allows_intermediates(path.intermediate_certificates().count()) {
        return Err(broken_path(&leaf, "longer than its authority allows"));
    }
    Ok(Verified { id: leaf.id().clone(), authority: authority.id(), not_after: leaf.not_after() })
}

fn build_path<'p>(
    end_entity: &'p EndEntityCert<'p>,
    anchors: &'p [TrustAnchor<'p>],
    intermediates: &'p [CertificateDer<'p>],
    side: PeerSide,
    now: UnixTime,
) -> Result<VerifiedPath<'p>, webpki::Error> {
    let usage = match side {
        PeerSide::Client => KeyUsage::client_auth(),
        PeerSide::Server => KeyUsage::server_auth(),
    };
    let algorithms = provider().signature_verification_algorithms.all;
    end_entity.verify_for_usage(algorithms, anchors, intermediates, now, usage, None, None)
}

// The path refers to an element of our own slice, so its place says which authority it was.
fn signer<'a>(
    path: &VerifiedPath<'_>,
    anchors: &[TrustAnchor<'_>],
    usable: &[&'a Authority],
) -> Option<&'a Authority> {
    let place = anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()))?;
    usable.get(place).copied()
}

// An identity is no issuer, whatever else its certificate says (X13).
fn may_issue(certificate: &CertificateDer<'_>) -> bool {
    parse_certificate(certificate).is_ok_and(|certificate| {
        signs_certificates(&certificate)
            && matches!(ca_constraints(&certificate), Ok(Some(_)))
            && !names_workload(&certificate)
    })
}

fn rejection(leaf: &Leaf, error: &webpki::Error) -> Rejection {
    let id = leaf.id().clone();
    match error {
        // A forged leaf has the name of a real issuer, or one that we never heard of: the same to us.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            Rejection::UnknownIssuer(id.trust_domain())
        }
        webpki::Error::CertExpired { .. } => Rejection::Expired(id),
        webpki::Error::CertNotValidYet { .. } => Rejection::NotYetValid(id),
        other => Rejection::Path { id, reason: other.to_string() },
    }
}

fn broken_path(leaf: &Leaf, reason: &str) -> Rejection {
    Rejection::Path { id: leaf.id().clone(), reason: reason.to_owned() }
}
