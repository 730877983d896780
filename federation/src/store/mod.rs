//! What a cluster must remember: peers, imports, trust, allocations, applied documents, leases.
//!
//! One trait with etcd's semantics and two implementations: `Embedded` for a single process, `Etcd` for
//! several. Both pass the same battery. Values are versioned by `codec` and found under typed `keys`;
//! neither knows which store holds them. `open` opens the one that is configured.
//!
//! ```text
//! revision  1 ──── 2 ──── 3 ──── 4 ──── 5 ──►     one counter for the whole store
//!           └─ trimmed ─┘ └── change log ──┘      watch(prefix, from): replay, then live, or Compacted
//! ```
//!
//! A store never interprets a value, never calls back, and holds nothing that can be read again from
//! its source (Kubernetes objects, files).

pub mod backup;
pub mod codec;
pub mod embedded;
pub mod etcd;
pub mod familiarity;
pub mod keys;
pub mod meta;

mod change;
mod contract;
mod expiry;
mod fenced;
mod key;
mod opening;
mod transaction;

#[cfg(any(test, feature = "test-battery"))]
pub mod battery;

pub use change::{Change, Changes, Entry, LeaseId, Revision, StoreId};
pub use codec::{InvalidValue, Stored};
pub use contract::{
    CommitError, Fault, LeaseError, Listing, PageError, Pages, Store, Watch, WatchEnd, list_all,
};
pub use embedded::Embedded;
pub use etcd::Etcd;
pub use expiry::expire_leases;
pub use fenced::{Fence, Fenced};
pub use key::{InvalidKey, Key, Prefix};
pub use opening::{OpenError, connect, open};
pub use transaction::{
    Compare, InvalidTransaction, OPERATIONS_MAX, Operation, TRANSACTION_BYTES_MAX, Transaction,
    VALUE_BYTES_MAX,
};
