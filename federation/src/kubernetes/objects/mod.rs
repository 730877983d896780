//! Kubernetes objects as the model reads them: pure, lenient, never silent.
//!
//! Only fields that we act on are named here. An unknown field or an unknown word in an enumeration
//! never fails an object by itself; what would change its meaning if it were left out becomes a
//! condition, a note or an error with its path (notes/conformance 5.8). The types are hand-written
//! since those of the Kubernetes libraries refuse a whole list for one unknown word.

mod document;
mod endpoint_slice;
mod gateway;
mod http_route;
mod service;
#[cfg(test)]
mod tests;

pub use document::{DocumentError, InvalidObject, Note, ParsedDocument, parse_documents};
