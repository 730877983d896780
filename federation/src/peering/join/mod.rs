//! How two clusters that know nothing of each other come to a relationship: with one token.
//!
//! ```text
//!   acceptor                                  joiner
//!   invite ─► record in the store             token ─► dial, believe only the pinned root
//!   redeem ◄───── request, proof ──────────── ask
//!     one transaction: token used, peer, bundle
//!          ───── our bundle, our gateways ──► one transaction: peer, bundle
//! ```
//! Until the proof verifies, every answer is the same, whatever is wrong (J5); whoever has the token is
//! told what to do about it. The same joiner may ask again and gets the same answer; another one with
//! the same token is refused, and that is an alarm. Afterwards there is no secret any more: both sides
//! believe each other's bundle and nothing else.

mod ask;
pub(crate) mod limit;
mod redeem;
mod tokens;

use std::time::Duration;

pub use ask::JoinError;
pub use tokens::{InviteError, TOKEN_TTL_MAX, TOKENS_MAX, TokenError, TokenView};

pub(super) use ask::join;
pub(super) use redeem::JoinService;
pub(super) use tokens::{Latest, invite, is_open, load_latest, revoke, tokens};

/// A request with its bundle (J6).
pub(super) const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// How long one redemption may take.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(5);
