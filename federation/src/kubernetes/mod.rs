//! Kubernetes' shapes, wherever they come from: a directory, `isthmus apply`, or an API server.

pub mod objects;
