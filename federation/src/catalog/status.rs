//! What we tell an operator about an object: conditions, as Kubernetes writes them.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Source;
use crate::model::{ObjectKey, Timestamp};

/// One object of one source, with what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectStatus {
    pub key: ObjectKey,
    pub source: Source,
    pub created: Timestamp,
    pub conditions: Vec<Condition>,
}

/// One statement about an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    pub status: Verdict,
    /// As the Gateway API and the MCS API spell them (notes/conformance 5.2, 4.5).
    pub reason: &'static str,
    pub message: String,
    /// The listener or the parent that it speaks of; none is the whole object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ConditionKind {
    /// We serve it.
    Accepted,
    /// Everything that it refers to exists and may be used.
    ResolvedRefs,
    /// Some of its rules cannot be served as written.
    PartiallyInvalid,
    /// Another listener has the same port and host name.
    Conflicted,
    /// The export names a service that can be exported.
    Valid,
    /// Clusters export the service differently.
    Conflict,
    /// The peer's service is part of the merged name.
    Merged,
    /// What we know of it can be believed.
    Fresh,
    /// It has an address of its own here.
    AddressAllocated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Verdict {
    True,
    False,
}

impl Condition {
    pub fn holds(kind: ConditionKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Verdict::True, reason, message: message.into(), section: None }
    }

    pub fn fails(kind: ConditionKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Verdict::False, reason, message: message.into(), section: None }
    }

    pub fn of(mut self, section: impl Into<Arc<str>>) -> Self {
        self.section = Some(section.into());
        self
    }

    /// Does it tell of something that an operator should mend; some kinds are bad when they hold.
    pub fn is_problem(&self) -> bool {
        let bad = match self.kind {
            ConditionKind::PartiallyInvalid | ConditionKind::Conflicted | ConditionKind::Conflict => {
                Verdict::True
            }
            ConditionKind::Accepted
            | ConditionKind::ResolvedRefs
            | ConditionKind::Valid
            | ConditionKind::Merged
            | ConditionKind::Fresh
            | ConditionKind::AddressAllocated => Verdict::False,
        };
        self.status == bad
    }

    /// Does it keep the whole object from being served.
    pub(super) fn is_refusal(&self) -> bool {
        self.kind == ConditionKind::Accepted && self.status == Verdict::False && self.section.is_none()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(section) = &self.section {
            write!(f, "{section}: ")?;
        }
        write!(f, "{:?}={:?} ({}) {}", self.kind, self.status, self.reason, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_conflict_is_no_problem() {
        for (condition, problem) in [
            (Condition::fails(ConditionKind::Conflict, "NoConflicts", ""), false),
            (Condition::holds(ConditionKind::Conflict, "PortConflict", ""), true),
            (Condition::fails(ConditionKind::Conflicted, "NoConflicts", ""), false),
            (Condition::holds(ConditionKind::PartiallyInvalid, "UnsupportedValue", ""), true),
            (Condition::holds(ConditionKind::Accepted, "Accepted", ""), false),
            (Condition::fails(ConditionKind::Accepted, "Invalid", ""), true),
            (Condition::fails(ConditionKind::Merged, "MergePending", ""), true),
        ] {
            assert_eq!(condition.is_problem(), problem, "{condition}");
        }
    }
}
