//! Whole clusters under constant load, while everything about them changes: no request fails.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod observed;
mod reload;
mod restart;
mod trickle;
