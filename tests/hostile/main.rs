//! The hostile table: what strangers send to each door of a process, and what they get for it.
//!
//! Each input is data: bytes, pauses, floods. It is sent while well-behaved clients use the same door, and
//! none of those may fail; what the stranger saw, which counter rose and whether the log says so is
//! compared with the table. Then all that costs no time is done again and again while memory is looked at.
//! `ISTHMUS_HOSTILE_TABLE=<file> cargo test -p tests --test hostile` writes the table as Markdown.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod certificates;
mod frames;
mod http;
mod link;
mod services;
mod stranger;
mod table;
mod world;

/// As in the product: what is freed goes back to the system, so that memory can be compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
