//! All configuration objects, and who owns each.
//!
//! Two sources may name the same object. The oldest claim owns it, so that a newcomer never takes an
//! object over; the others are kept, refused and told who the owner is, and the next in age follows
//! when the owner lets go. What is kept does not depend on the order in which the claims came.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Condition, ConditionKind, Object, ObjectStatus, Source};
use crate::model::{ObjectKey, Timestamp};

#[derive(Debug, Default)]
pub(super) struct Objects {
    /// The owner first, then the refused by age; never empty.
    claims: BTreeMap<ObjectKey, Vec<Claim>>,
}

#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) source: Source,
    pub(super) created: Timestamp,
    pub(super) object: Arc<Object>,
}

/// The owner's object before and after; nothing where nothing that counts has changed.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) before: Option<Claim>,
    pub(super) after: Option<Claim>,
}

impl Objects {
    pub(super) fn apply(&mut self, key: &ObjectKey, claim: Claim) -> Option<Change> {
        let before = self.owner(key).cloned();
        let claims = self.claims.entry(key.clone()).or_default();
        claims.retain(|held| !held.source.is_same_owner(&claim.source));
        claims.push(claim);
        claims.sort_by(|a, b| (a.created, &a.source).cmp(&(b.created, &b.source)));
        self.change(key, before)
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, source: &Source) -> Option<Change> {
        let before = self.owner(key).cloned();
        if let Some(claims) = self.claims.get_mut(key) {
            claims.retain(|held| !held.source.is_same_owner(source));
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
        self.change(key, before)
    }

    fn change(&self, key: &ObjectKey, before: Option<Claim>) -> Option<Change> {
        let after = self.owner(key).cloned();
        let same = match (&before, &after) {
            (Some(a), Some(b)) => a.created == b.created && a.object == b.object,
            (None, None) => true,
            _ => false,
        };
        (!same).then_some(Change { before, after })
    }

    fn owner(&self, key: &ObjectKey) -> Option<&Claim> {
        self.claims.get(key).and_then(|claims| claims.first())
    }

    /// Every claim on every object of a kind; `conditions` says what became of the owner's.
    pub(super) fn statuses(
        &self,
        kind: &str,
        conditions: impl Fn(&ObjectKey) -> Vec<Condition>,
    ) -> Vec<ObjectStatus> {
        let of_kind = self.claims.iter().filter(|(key, _)| &*key.kind == kind);
        let status = |key: &ObjectKey, claim: &Claim, conditions| ObjectStatus {
            key: key.clone(),
            source: claim.source.clone(),
            created: claim.created,
            conditions,
        };
        of_kind
            .flat_map(|(key, claims)| {
                let owner = &claims[0];
                let refused = claims[1..].iter().map(move |claim| status(key, claim, vec![refusal(owner)]));
                std::iter::once(status(key, owner, conditions(key))).chain(refused)
            })
            .collect()
    }

    pub(super) fn kinds(&self) -> Vec<Arc<str>> {
        let mut kinds: Vec<_> = self.claims.keys().map(|key| Arc::clone(&key.kind)).collect();
        kinds.dedup();
        kinds
    }
}

fn refusal(owner: &Claim) -> Condition {
    let message = format!("already defined by {}; remove one of the two", owner.source);
    Condition::fails(ConditionKind::Accepted, "AlreadyDefined", message)
}
