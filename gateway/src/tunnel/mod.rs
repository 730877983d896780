//! Byte streams between clusters: CONNECT over a link, one stream for one connection.

mod stream;

pub use stream::Tunnel;
