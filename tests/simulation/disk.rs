//! The store of one cluster as the trait describes it, and the ways in which it can fail.
//!
//! A commit that returned is durable. One that failed may have happened or not, which is for the
//! caller to bear; a crash in the middle of several leaves a prefix of them.

use std::collections::BTreeMap;

use federation::store::{Entry, Key, Operation, Prefix, Revision, Transaction};

/// What goes wrong at one of the next commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The process dies; whether the commit happened.
    Crash { happened: bool },
    /// The store says that it is not available; whether the commit happened.
    Fault { happened: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotDone {
    Conflict,
    Fault,
    Crashed,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    entries: BTreeMap<Key, Entry>,
    revision: Revision,
    /// After so many commits.
    pub(crate) trouble: Option<(u32, Trouble)>,
    pub(crate) unavailable: bool,
    backup: Option<(BTreeMap<Key, Entry>, Revision)>,
    /// A broken store that says yes and forgets; only a deliberate breakage sets it.
    pub(crate) forgets: bool,
}

impl Disk {
    pub(crate) fn commit(&mut self, transaction: &Transaction) -> Result<Revision, NotDone> {
        transaction.check().expect("what is committed keeps to the bounds");
        if self.unavailable {
            return Err(NotDone::Fault);
        }
        match self.trouble.take() {
            Some((0, Trouble::Crash { happened })) => {
                let _lost = happened.then(|| self.write(transaction));
                return Err(NotDone::Crashed);
            }
            Some((0, Trouble::Fault { happened })) => {
                let _unheard = happened.then(|| self.write(transaction));
                return Err(NotDone::Fault);
            }
            Some((left, trouble)) => self.trouble = Some((left - 1, trouble)),
            None => {}
        }
        self.write(transaction)
    }

    fn write(&mut self, transaction: &Transaction) -> Result<Revision, NotDone> {
        let holds = transaction.compares().iter().all(|compare| {
            let held = self.entries.get(&compare.key).map_or(Revision::ABSENT, |entry| entry.revision);
            held == compare.revision
        });
        if !holds {
            return Err(NotDone::Conflict);
        }
        let revision = self.revision.next();
        if std::mem::take(&mut self.forgets) {
            return Ok(revision);
        }
        let mut changed = false;
        for operation in transaction.operations() {
            match operation {
                Operation::Put { key, value, lease } => {
                    let (key, value, lease) = (key.clone(), value.clone(), *lease);
                    self.entries.insert(key.clone(), Entry { key, value, revision, lease });
                    changed = true;
                }
                Operation::Delete(key) => changed |= self.entries.remove(key).is_some(),
                Operation::DeletePrefix(prefix) => {
                    let before = self.entries.len();
                    self.entries.retain(|key, _| !prefix.contains(key));
                    changed |= self.entries.len() != before;
                }
            }
        }
        if changed {
            self.revision = revision;
        }
        Ok(self.revision)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn list(&self, prefix: &Prefix) -> Vec<Entry> {
        self.entries.values().filter(|entry| prefix.contains(&entry.key)).cloned().collect()
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = Some((self.entries.clone(), self.revision));
    }

    /// Goes back to the backup, if there is one; its revision counter goes on, as a restore does it.
    pub(crate) fn restore(&mut self) -> bool {
        let Some((entries, _)) = self.backup.clone() else { return false };
        self.entries = entries;
        self.revision = self.revision.next();
        true
    }
}
