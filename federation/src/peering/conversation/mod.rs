//! What is said on a peering stream, and what follows from what is heard; pure.
//!
//! ```text
//!   say:   Snapshot ─► ExportLog ─► Speaker::flush ─► Utterance...      at our pace, from what the peer holds
//!   hear:  Message ─► hear ─► Imports, Changed, Heard                   judged, nothing is stored yet
//!   keep:  Changed ─► transactions ─► (store) ─► news for the catalog   durable first, told afterwards
//! ```
//! `stream` is the shell around it: it waits, stores and sends, in the order that these parts are
//! written in. A simulator drives the same parts with a store, a network and a clock of its own.

mod hear;
mod keep;
mod say;

pub use super::proto::Message;
pub use hear::{Heard, Introduction, InvalidHello, ends, hear, introduction};
pub use keep::{Loaded, Reread, changed, deleted, ended, established, load, news, reread, transactions};
pub use say::{Flush, Greeting, Speaker, Utterance};
