//! What an operator should know of a document in the directory.

use std::sync::Arc;

use serde::Serialize;

/// Something in the directory that cannot be served as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Path below the directory; empty is the directory itself.
    pub file: Arc<str>,
    /// None is the whole file.
    pub line: Option<u32>,
    pub field: Option<String>,
    pub message: String,
    pub severity: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is not served, or only its last good state.
    Error,
    /// The document is served without the field.
    Note,
}

/// Problems of the last pass, by file and line.
pub type Problems = Arc<[Problem]>;
