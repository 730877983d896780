//! What this process trusts: one immutable snapshot, replaced as a whole.
//!
//! One writer at a time, any number of readers that never wait. A bundle enters only as the successor
//! of the one that is held (B2), and only with keys that no other trust domain has (B14): a peer that
//! brings another's root in its own bundle could otherwise hide behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::identity::PeerIdentity;
use crate::bundle::{AuthorityId, Bundle, BundleConflict, Succession};
use crate::spiffe_id::TrustDomain;

/// The bundles of all trust domains that are trusted, shared by everything that verifies.
#[derive(Debug, Clone, Default)]
pub struct TrustStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<TrustSnapshot>,
    // Serialises writers; readers never take it.
    writing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        let current = ArcSwap::from_pointee(TrustSnapshot::default());
        Self { current, writing: Mutex::new(()), changed: watch::Sender::new(0) }
    }
}

impl TrustStore {
    /// Trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is trusted at this moment.
    pub fn load(&self) -> Arc<TrustSnapshot> {
        self.shared.current.load_full()
    }

    /// Takes a bundle, unless it is older than what is held or has a key of another trust domain.
    pub fn put(&self, bundle: Bundle) -> Result<(), TrustConflict> {
        let _writing = self.shared.writing.lock();
        let held = self.load();
        if let Some(before) = held.bundle(bundle.trust_domain())
            && bundle.succeeds(before)? == Succession::Same
        {
            return Ok(());
        }
        held.check_collisions(&bundle)?;
        let mut bundles = held.bundles.clone();
        bundles.insert(bundle.trust_domain().clone(), Arc::new(bundle));
        self.publish(&held, bundles);
        Ok(())
    }

    /// Trusts a domain no longer; says whether it was trusted before.
    ///
    /// Connections that it has open are not touched: cut them in the registry.
    pub fn remove(&self, trust_domain: &TrustDomain) -> bool {
        let _writing = self.shared.writing.lock();
        let held = self.load();
        let mut bundles = held.bundles.clone();
        let removed = bundles.remove(trust_domain).is_some();
        if removed {
            self.publish(&held, bundles);
        }
        removed
    }

    /// Wakes with the new generation after each real change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn publish(&self, held: &TrustSnapshot, bundles: BTreeMap<TrustDomain, Arc<Bundle>>) {
        let generation = held.generation + 1;
        self.shared.current.store(Arc::new(TrustSnapshot { generation, bundles }));
        self.shared.changed.send_replace(generation);
    }
}

/// What is trusted at one moment; never changes.
#[derive(Debug, Clone, Default)]
pub struct TrustSnapshot {
    generation: u64,
    bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl TrustSnapshot {
    /// Grows with each change of what is trusted; 0 is the empty beginning.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The bundle of a trust domain, if it is trusted.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.bundles.get(trust_domain)
    }

    /// All bundles, in the order of their trust domains.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.bundles.values()
    }

    /// The trust domain that has this authority, if any.
    pub fn owner_of(&self, authority: &AuthorityId) -> Option<&TrustDomain> {
        self.bundles.values().find(|bundle| bundle.knows(authority)).map(|bundle| bundle.trust_domain())
    }

    /// Whether the authority that vouched for a peer is still one of the peer's trust domain.
    ///
    /// For connections that are open already: what changed since is not known to them.
    pub fn vouches_for(&self, peer: &PeerIdentity) -> bool {
        self.bundle(peer.trust_domain()).is_some_and(|bundle| bundle.knows(&peer.authority()))
    }

    /// Refuses a bundle with a key that another trust domain has (B14, J8).
    pub fn check_collisions(&self, bundle: &Bundle) -> Result<(), TrustConflict> {
        let others = || self.bundles.values().filter(|held| held.trust_domain() != bundle.trust_domain());
        for authority in bundle.content().map(|authority| authority.id()) {
            if let Some(owner) = others().find(|held| held.knows(&authority)) {
                let (offered, owner) = (bundle.trust_domain().clone(), owner.trust_domain().clone());
                return Err(TrustConflict::SharedAuthority { authority, offered, owner });
            }
        }
        Ok(())
    }
}

/// Why a bundle is not taken into the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustConflict {
    /// It is no successor of the bundle that is held (B2).
    #[error(transparent)]
    Sequence(#[from] BundleConflict),
    /// One of its keys belongs to another trust domain already (B14, J8).
    #[error("the bundle of {offered} has authority {authority}, which is known as one of {owner}")]
    SharedAuthority {
        /// The key that both have.
        authority: AuthorityId,
        /// The trust domain whose bundle was offered.
        offered: TrustDomain,
        /// The trust domain that had it first.
        owner: TrustDomain,
    },
}
