//! A peer's own bundle, as its stream brings it.
//!
//! The order is that of notes/trust 3.4: whose it is, size, digest, format, sequence, collisions; then
//! it is stored, and only then believed. What is refused leaves the bundle that is held.

use ring::digest;
use trust_bundle::{BUNDLE_BYTES_MAX, Bundle, BundleConflict, InvalidBundle, Succession, TrustConflict};

use crate::clock;
use crate::peering::peers::PeerState;
use crate::peering::proto;
use crate::peering::records::BundleRecord;
use crate::peering::relationships::{LoadError, encode};
use crate::peering::us::Us;
use crate::peering::wire;
use crate::store::keys::Place;
use crate::store::{CommitError, Transaction};

/// Why a bundle was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It claims to be of a trust domain that is not the peer's (T2).
    Foreign(String),
    Refused(Refused),
    Store(CommitError),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the bundle has {0} bytes, at most {BUNDLE_BYTES_MAX} are accepted")]
    TooLarge(usize),
    #[error("the bundle is not the one that its digest names")]
    Digest,
    #[error("the bundle has no usable authority")]
    NoAuthority,
    #[error(transparent)]
    Invalid(#[from] InvalidBundle),
    /// A rollback, or two stories under one number (B2, T4).
    #[error(transparent)]
    Sequence(#[from] BundleConflict),
    /// An authority of another trust domain (B14, T3).
    #[error(transparent)]
    Collision(#[from] TrustConflict),
    #[error("the stored bundle cannot be replaced: {0}")]
    Stored(#[from] LoadError),
}

impl<T: Into<Refused>> From<T> for NotTaken {
    fn from(refused: T) -> Self {
        Self::Refused(refused.into())
    }
}

/// Takes a bundle that the peer sent; it is believed when this returns.
pub(super) async fn take(us: &Us, peer: &PeerState, said: proto::Bundle) -> Result<(), NotTaken> {
    let domain = peer.record().record.peer.trust_domain;
    if said.trust_domain != domain.as_str() {
        return Err(NotTaken::Foreign(wire::shown(&said.trust_domain)));
    }
    check_bytes(&said)?;
    let bundle = Bundle::parse(domain.clone(), &said.jwks, clock::unix_now())?.bundle;
    if bundle.authorities().is_empty() {
        return Err(Refused::NoAuthority.into());
    }
    // One relationship at a time, so that no other trust domain gets one of these authorities meanwhile.
    let _changing = us.changing.lock().await;
    let trusted = us.deps.trust.load();
    if let Some(held) = trusted.bundle(&domain)
        && bundle.succeeds(held)? == Succession::Same
    {
        return Ok(());
    }
    trusted.check_collisions(&bundle)?;
    store(us, peer, &bundle).await?;
    us.deps.trust.put(bundle)?;
    tracing::info!(peer = %peer.name, "a newer bundle of the peer is believed");
    Ok(())
}

fn check_bytes(said: &proto::Bundle) -> Result<(), Refused> {
    if said.jwks.len() > BUNDLE_BYTES_MAX {
        return Err(Refused::TooLarge(said.jwks.len()));
    }
    let digest = digest::digest(&digest::SHA256, &said.jwks);
    if digest.as_ref() == said.sha256 { Ok(()) } else { Err(Refused::Digest) }
}

async fn store(us: &Us, peer: &PeerState, bundle: &Bundle) -> Result<(), NotTaken> {
    let place = Place::Bundle(bundle.trust_domain().clone());
    let held = us.read::<BundleRecord>(&place).await?;
    let record = BundleRecord::of(bundle, peer.name.clone());
    let transaction = Transaction::new()
        .when(place.key(), held.map(|held| held.revision).unwrap_or_default())
        .when(Place::Peer(peer.name.clone()).key(), peer.record().revision)
        .put(place.key(), encode(&record));
    us.deps.store.commit(transaction).await.map(drop).map_err(NotTaken::Store)
}
