//! A transaction: what must be true, and what then changes, all or nothing.
//!
//! The bounds are E16's, so that what one store takes every store takes (etcd refuses more than 128
//! operations, and one key twice in a transaction).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::change::{LeaseId, Revision};
use super::key::{Key, Prefix};

/// Compares and operations together; etcd's own limit is 128 of each.
pub const OPERATIONS_MAX: usize = 100;
/// Keys and values together; etcd refuses requests above 1.5 MiB, and one slow write delays all.
pub const TRANSACTION_BYTES_MAX: usize = 512 * 1024;
/// One value; more is a sign of something that belongs into several keys.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// What must hold before anything changes: the revision that last changed a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub key: Key,
    pub revision: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put { key: Key, value: Bytes, lease: Option<LeaseId> },
    Delete(Key),
    DeletePrefix(Prefix),
}

/// Compares and operations, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    compares: Vec<Compare>,
    operations: Vec<Operation>,
    /// The first compare is the fence of a leader, which stands beside the bound.
    fenced: bool,
}

/// Why no store takes a transaction; repeating it does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransaction {
    #[error("the transaction has {0} compares and operations, at most {OPERATIONS_MAX} are taken")]
    TooManyOperations(usize),
    #[error("the transaction has {0} bytes, at most {TRANSACTION_BYTES_MAX} are taken")]
    TooLarge(usize),
    #[error("the value of {key} has {bytes} bytes, at most {VALUE_BYTES_MAX} are taken")]
    ValueTooLarge { key: Key, bytes: usize },
    #[error("the transaction changes {0} twice")]
    ChangedTwice(Key),
}

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }

    /// Commits only if `key` was last changed at `revision`.
    #[must_use]
    pub fn when(mut self, key: Key, revision: Revision) -> Self {
        self.compares.push(Compare { key, revision });
        self
    }

    /// Commits only if what was asked for, and before that `key` was last changed at `revision`: whoever
    /// asked need not know of it, so it takes no room of the bound.
    #[must_use]
    pub fn fenced(mut self, key: Key, revision: Revision) -> Self {
        self.compares.insert(0, Compare { key, revision });
        self.fenced = true;
        self
    }

    /// Commits only if `key` does not exist.
    #[must_use]
    pub fn when_absent(self, key: Key) -> Self {
        self.when(key, Revision::ABSENT)
    }

    #[must_use]
    pub fn put(self, key: Key, value: impl Into<Bytes>) -> Self {
        self.operation(Operation::Put { key, value: value.into(), lease: None })
    }

    /// Puts a key that goes when its lease does.
    #[must_use]
    pub fn put_leased(self, key: Key, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.operation(Operation::Put { key, value: value.into(), lease: Some(lease) })
    }

    #[must_use]
    pub fn delete(self, key: Key) -> Self {
        self.operation(Operation::Delete(key))
    }

    #[must_use]
    pub fn delete_prefix(self, prefix: Prefix) -> Self {
        self.operation(Operation::DeletePrefix(prefix))
    }

    fn operation(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    pub fn compares(&self) -> &[Compare] {
        &self.compares
    }

    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Compares and operations together.
    pub fn len(&self) -> usize {
        self.compares.len() + self.operations.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of keys and values, as the bound counts them.
    pub fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| compare.key.as_str().len());
        compares.chain(self.operations.iter().map(Operation::bytes)).sum()
    }

    /// Every store asks this first, so that all of them refuse the same.
    pub fn check(&self) -> Result<(), InvalidTransaction> {
        let asked = self.len() - usize::from(self.fenced);
        if asked > OPERATIONS_MAX {
            return Err(InvalidTransaction::TooManyOperations(asked));
        }
        if self.bytes() > TRANSACTION_BYTES_MAX {
            return Err(InvalidTransaction::TooLarge(self.bytes()));
        }
        let mut changed = BTreeSet::new();
        for operation in &self.operations {
            operation.check_value()?;
            if let Some(key) = operation.key()
                && (!changed.insert(key) || self.deletes_around(key))
            {
                return Err(InvalidTransaction::ChangedTwice(key.clone()));
            }
        }
        Ok(())
    }

    fn deletes_around(&self, key: &Key) -> bool {
        self.operations.iter().any(|other| match other {
            Operation::DeletePrefix(prefix) => prefix.contains(key),
            Operation::Put { .. } | Operation::Delete(_) => false,
        })
    }
}

impl Operation {
    fn key(&self) -> Option<&Key> {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => Some(key),
            Self::DeletePrefix(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.as_str().len() + value.len(),
            Self::Delete(key) => key.as_str().len(),
            Self::DeletePrefix(prefix) => prefix.as_str().len(),
        }
    }

    fn check_value(&self) -> Result<(), InvalidTransaction> {
        match self {
            Self::Put { key, value, .. } if value.len() > VALUE_BYTES_MAX => {
                Err(InvalidTransaction::ValueTooLarge { key: key.clone(), bytes: value.len() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key::new(&format!("/isthmus/v1/t/{n}")).unwrap()
    }

    #[test]
    fn bounds_are_those_of_rule_e16() {
        let many = (0..OPERATIONS_MAX).fold(Transaction::new(), |txn, n| txn.put(key(n), "x"));
        assert_eq!(many.check(), Ok(()));
        assert_eq!(many.clone().fenced(key(OPERATIONS_MAX), Revision(1)).check(), Ok(()));
        let refused = many.put(key(OPERATIONS_MAX), "x").check();
        assert_eq!(refused, Err(InvalidTransaction::TooManyOperations(OPERATIONS_MAX + 1)));

        let fits = Transaction::new().put(key(0), vec![0; VALUE_BYTES_MAX]);
        assert_eq!(fits.check(), Ok(()));
        let refused = Transaction::new().put(key(0), vec![0; VALUE_BYTES_MAX + 1]).check();
        assert_eq!(
            refused,
            Err(InvalidTransaction::ValueTooLarge { key: key(0), bytes: VALUE_BYTES_MAX + 1 })
        );

        let heavy = (0..8).fold(Transaction::new(), |txn, n| txn.put(key(n), vec![0; VALUE_BYTES_MAX]));
        assert!(matches!(heavy.check(), Err(InvalidTransaction::TooLarge(_))));
    }

    #[test]
    fn one_key_changes_once() {
        let prefix = Prefix::new("/isthmus/v1/t/").unwrap();
        for twice in [
            Transaction::new().put(key(1), "a").put(key(1), "b"),
            Transaction::new().put(key(1), "a").delete(key(1)),
            Transaction::new().delete_prefix(prefix.clone()).put(key(1), "a"),
        ] {
            assert_eq!(twice.check(), Err(InvalidTransaction::ChangedTwice(key(1))));
        }
        let beside = Key::new("/isthmus/v1/u/1").unwrap();
        assert_eq!(Transaction::new().delete_prefix(prefix).put(beside, "a").check(), Ok(()));
    }
}
