//! From a socket to a request: bind, accept, look at the first bytes, terminate TLS, speak HTTP.

pub mod client_hello;
pub mod opening;
