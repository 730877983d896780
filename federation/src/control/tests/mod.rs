//! Gateways against federation processes, over real sockets and real certificates.

mod attach;
mod fixture;
mod handover;
mod hostile;
mod nodes;
mod scale;
