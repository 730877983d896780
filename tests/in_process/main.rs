//! Whole data planes in one process: real sockets on port 0, a test CA, hostile clients.

mod drain;
mod east_west;
mod forward_proxy;
mod tunnels;
mod virtual_ports;
