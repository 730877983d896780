//! Who contributed first to a name, and when that is forgotten again (T5).
//!
//! A claim outlives the contribution, so that its holder is first again when it comes back. But a peer
//! can name a new service with every message: what nobody uses is bounded for each peer, the longest
//! unused goes first, and with a relationship all that it left behind goes. What is in use never goes.

use std::collections::BTreeMap;

use crate::model::{ClusterName, ServiceName};

/// Claims that one peer leaves behind: more than a cluster withdraws and offers again in a while.
pub(super) const UNUSED_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: BTreeMap<ServiceName, ClusterName>,
    /// Of each holder, the names that nobody contributes to, and the order in which they became so.
    unused: BTreeMap<ClusterName, BTreeMap<ServiceName, u64>>,
    next: u64,
}

impl Claims {
    pub(super) fn holder(&self, service: &ServiceName) -> Option<&ClusterName> {
        self.holders.get(service)
    }

    pub(super) fn hold(&mut self, service: ServiceName, peer: ClusterName) {
        self.release(&service);
        self.holders.insert(service, peer);
    }

    pub(super) fn release(&mut self, service: &ServiceName) {
        if let Some(former) = self.holders.remove(service) {
            self.forget(service, &former);
        }
    }

    /// Notes whether anybody contributes to a name.
    pub(super) fn note(&mut self, service: &ServiceName, used: bool) {
        let Some(holder) = self.holders.get(service).cloned() else { return };
        if used {
            self.forget(service, &holder);
            return;
        }
        let order = self.next;
        self.unused.entry(holder).or_default().entry(service.clone()).or_insert(order);
        self.next += 1;
    }

    fn forget(&mut self, service: &ServiceName, holder: &ClusterName) {
        if let Some(names) = self.unused.get_mut(holder) {
            names.remove(service);
            if names.is_empty() {
                self.unused.remove(holder);
            }
        }
    }

    /// What need not be remembered any more; it is asked for until it is released.
    pub(super) fn excess(&self, is_peer: impl Fn(&ClusterName) -> bool) -> Vec<ServiceName> {
        let mut excess = Vec::new();
        for (holder, names) in &self.unused {
            let kept = if is_peer(holder) { UNUSED_MAX } else { 0 };
            let mut by_age: Vec<_> = names.iter().map(|(name, order)| (*order, name)).collect();
            by_age.sort_unstable();
            let over = by_age.len().saturating_sub(kept);
            excess.extend(by_age.into_iter().take(over).map(|(_, name)| name.clone()));
        }
        excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> ServiceName {
        format!("s{number}.shop").parse().unwrap()
    }

    fn peer(name: &str) -> ClusterName {
        name.try_into().unwrap()
    }

    #[test]
    fn what_a_peer_leaves_behind_is_bounded_and_the_oldest_goes_first() {
        let mut claims = Claims::default();
        for number in 0..UNUSED_MAX + 3 {
            claims.hold(name(number), peer("cloud"));
            claims.note(&name(number), false);
        }
        claims.note(&name(1), true);
        assert_eq!(claims.excess(|_| true), [name(0), name(2)]);
        claims.release(&name(0));
        claims.release(&name(2));
        assert_eq!(claims.excess(|_| true), []);
        assert_eq!(claims.holder(&name(1)), Some(&peer("cloud")));
    }

    #[test]
    fn only_what_is_in_use_outlives_a_relationship() {
        let mut claims = Claims::default();
        for (number, used) in [(1, true), (2, false)] {
            claims.hold(name(number), peer("cloud"));
            claims.note(&name(number), used);
        }
        claims.hold(name(3), peer("quay"));
        claims.note(&name(3), false);
        assert_eq!(claims.excess(|peer| peer.as_str() == "quay"), [name(2)]);
    }
}
