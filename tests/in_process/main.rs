//! Whole data planes in one process: real sockets on port 0, a test CA, hostile clients.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod drain;
mod east_west;
mod forward_proxy;
mod replacement;
mod start;
mod tunnels;
mod two_clusters;
mod virtual_ports;
