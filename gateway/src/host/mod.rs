//! What the host gives and is told: sockets that outlive the process, readiness, signs of life.
//!
//! Under systemd a socket may come from a `.socket` unit, or from the store into which the process before
//! us put its own (`FDSTORE=1`). Either way the kernel's queue stays open while processes change, so that a
//! restart refuses nobody. Without systemd all of this does nothing.
//!
//! ```text
//!  environment ── inherited ──► Sockets ──► take or bind ──► listeners, DNS, admin
//!                                  │ keep, forget
//!                                  ▼
//!                           ServiceManager ──► READY, STOPPING, WATCHDOG, FDSTORE
//! ```
//! Which socket is the wanted one is decided in `matching`, as data.

mod inherited;
mod manager;
mod matching;
mod pulse;
mod signals;
mod sockets;

pub use inherited::inherited;
pub use manager::{ServiceManager, Watched};
pub use matching::{Offer, Want};
pub use pulse::Pulse;
pub use signals::{CutOff, signalled};
pub use sockets::{Inherited, Origin, SocketName, Sockets, StoreCommand};
