//! What an operator writes: the static file, and the directory of Kubernetes-shaped documents.

pub(crate) mod yaml;
