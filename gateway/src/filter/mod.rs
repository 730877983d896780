//! What is changed about a request on its way: pure, one file for each kind of change.
//!
//! To come, each beside `headers`: redirect, rewrite, CORS, mirrors, limits, authorization.

mod headers;

pub use headers::{Sender, is_reserved};
