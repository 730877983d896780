//! Peers.

pub mod addresses;
pub mod exports;
pub mod imports;
pub mod membership;
pub mod pace;
pub mod wire;

#[allow(warnings, clippy::all, clippy::allow_attributes_without_reason, clippy::unwrap_used, reason = "generated")]
#[rustfmt::skip]
pub(crate) mod proto;
