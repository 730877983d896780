//! One transaction of ours as one of etcd's.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::super::change::{LeaseId, Revision};
use super::super::contract::{CommitError, Fault};
use super::super::transaction::{Operation, Transaction};
use super::fault::Failed;
use super::layout::Layout;
use super::members::Repeat;
use super::shared::{Shared, kv};

impl Shared {
    /// A commit whose answer is lost may have happened, so it is sent once.
    pub(super) async fn commit(&self, transaction: &Transaction) -> Result<Revision, CommitError> {
        let txn = translate(&self.layout, transaction)?;
        let floor = self.seen.load(Ordering::Relaxed);
        let commit = |client: Client| {
            let txn = txn.clone();
            async move { kv(&client).txn(txn).await }
        };
        let answer = match self.call(Repeat::IfUnsent, commit).await {
            Ok(answer) => answer,
            Err(failed) if failed.is_unknown_lease() => {
                return Err(self.unknown_lease(transaction, failed).await);
            }
            Err(failed) => return Err(failed.into_fault().into()),
        };
        let revision = self.check(answer.header(), floor)?;
        if answer.succeeded() { Ok(revision) } else { Err(conflict(transaction, &answer)) }
    }

    /// etcd does not say which lease it was.
    async fn unknown_lease(&self, transaction: &Transaction, failed: Failed) -> CommitError {
        let leases: BTreeSet<LeaseId> = transaction.operations().iter().filter_map(lease).collect();
        for lease in &leases {
            let id = lease.0.cast_signed();
            let look = |client: Client| async move { client.lease_client().time_to_live(id, None).await };
            match self.call(Repeat::Always, look).await {
                Ok(answer) if answer.ttl() <= 0 => return CommitError::NoSuchLease(*lease),
                Ok(_) => {}
                Err(failed) if failed.is_unknown_lease() => return CommitError::NoSuchLease(*lease),
                Err(failed) => return failed.into_fault().into(),
            }
        }
        failed.into_fault().into()
    }
}

fn lease(operation: &Operation) -> Option<LeaseId> {
    match operation {
        Operation::Put { lease, .. } => *lease,
        Operation::Delete(_) | Operation::DeletePrefix(_) => None,
    }
}

fn translate(layout: &Layout, transaction: &Transaction) -> Result<Txn, Fault> {
    let mut compares = Vec::new();
    let mut otherwise = Vec::new();
    for compare in transaction.compares() {
        let key = layout.key(&compare.key)?;
        let revision = compare.revision.0.cast_signed();
        compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, revision));
        otherwise.push(TxnOp::get(key, Some(GetOptions::new().with_keys_only())));
    }
    let mut then = transaction
        .operations()
        .iter()
        .map(|operation| translate_operation(layout, operation))
        .collect::<Result<Vec<_>, _>>()?;
    if then.is_empty() {
        // Without a read, a member that lags behind would answer by itself.
        then.push(TxnOp::get(layout.anything(), Some(GetOptions::new().with_count_only())));
    }
    Ok(Txn::new().when(compares).and_then(then).or_else(otherwise))
}

fn translate_operation(layout: &Layout, operation: &Operation) -> Result<TxnOp, Fault> {
    Ok(match operation {
        Operation::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0.cast_signed()));
            TxnOp::put(layout.key(key)?, value.to_vec(), options)
        }
        Operation::Delete(key) => TxnOp::delete(layout.key(key)?, None),
        Operation::DeletePrefix(prefix) => {
            let range = layout.range(prefix)?;
            TxnOp::delete(range.start, Some(DeleteOptions::new().with_range(range.end)))
        }
    })
}

/// The first compare that does not hold; the answers are in the order of the compares.
fn conflict(transaction: &Transaction, answer: &TxnResponse) -> CommitError {
    let found = answer.op_responses();
    for (compare, found) in transaction.compares().iter().zip(found) {
        let TxnOpResponse::Get(found) = found else { continue };
        let last = found.kvs().first().map_or(0, |entry| entry.mod_revision().cast_unsigned());
        if Revision(last) != compare.revision {
            return CommitError::Conflict {
                key: compare.key.clone(),
                expected: compare.revision,
                found: Revision(last),
            };
        }
    }
    Fault::Unavailable("etcd refused a commit without saying why".to_owned()).into()
}
