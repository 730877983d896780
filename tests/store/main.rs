//! What only a real etcd can tell of the store on etcd.
#![allow(clippy::unwrap_used, reason = "a test")]

mod battery;
mod failures;
mod known;
mod roles;
