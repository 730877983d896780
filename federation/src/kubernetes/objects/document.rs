//! From a text of YAML documents to objects of the model, each on its own.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{endpoint_slice, gateway, http_route, service};
use crate::catalog::Object;
use crate::config::yaml::{self, Content, Document, Node};
use crate::model::{Label, ObjectKey, ObjectName};

/// Documents of one text; the rest is refused as one problem.
const DOCUMENTS_MAX: usize = 10_000;
/// Kinds of the Kubernetes API are shorter.
const KIND_BYTES_MAX: usize = 63;
/// Where a document names no namespace, as `kubectl` has it.
const DEFAULT_NAMESPACE: &str = "default";

/// A document that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedDocument {
    /// Of its first line in the text, from 1.
    pub line: u32,
    pub key: ObjectKey,
    pub object: Object,
    /// As it was written.
    pub raw: String,
    /// What was left out of it, and does not keep it from being served.
    pub notes: Vec<Note>,
}

/// A remark about one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub line: u32,
    pub field: String,
    pub message: String,
}

/// A document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {}{message}", field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
pub struct DocumentError {
    pub line: u32,
    pub field: Option<String>,
    pub message: String,
    /// The object that it was to be, as far as the document still says.
    pub key: Option<ObjectKey>,
}

/// Why an object cannot be taken, and which field says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct InvalidObject {
    pub path: String,
    pub reason: String,
}

impl InvalidObject {
    pub(super) fn new(path: impl Into<String>, reason: impl ToString) -> Self {
        Self { path: path.into(), reason: reason.to_string() }
    }
}

/// What reading an object yields, with (path, message) of what was left out.
pub(super) struct Read {
    pub(super) object: Object,
    pub(super) notes: Vec<(String, String)>,
}

impl From<Object> for Read {
    fn from(object: Object) -> Self {
        Self { object, notes: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    labels: Option<Map<String, Value>>,
}

impl Metadata {
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name)?.as_str()
    }
}

/// Reads every document of a text on its own.
pub fn parse_documents(text: &str) -> Vec<Result<ParsedDocument, DocumentError>> {
    let documents = yaml::documents(text);
    let surplus = documents.get(DOCUMENTS_MAX).map(|document| {
        let message = format!("more than {DOCUMENTS_MAX} documents in one text; split it");
        Err(DocumentError { line: document.line, field: None, message, key: None })
    });
    documents.iter().take(DOCUMENTS_MAX).map(parse).chain(surplus).collect()
}

fn parse(document: &Document<'_>) -> Result<ParsedDocument, DocumentError> {
    let node = document.parse().map_err(|error| DocumentError {
        line: error.line,
        field: None,
        message: error.message,
        key: None,
    })?;
    let key = key_of(&node);
    let read = read(&node).map_err(|invalid| DocumentError {
        line: node.line_at(&invalid.path),
        field: Some(invalid.path).filter(|path| !path.is_empty()),
        message: invalid.reason,
        key: key.clone(),
    })?;
    let notes = read.1.notes.into_iter();
    let note = |(field, message): (String, String)| Note { line: node.line_at(&field), field, message };
    Ok(ParsedDocument {
        line: document.line,
        key: read.0,
        object: read.1.object,
        raw: document.text.to_owned(),
        notes: notes.map(note).collect(),
    })
}

fn read(node: &Node) -> Result<(ObjectKey, Read), InvalidObject> {
    if !matches!(node.content, Content::Map(_)) {
        return Err(InvalidObject::new("", "an object must be a mapping of fields to values"));
    }
    let value = node.to_value();
    let header: Header = decode(&value)?;
    let key = header.key()?;
    let (group, version) = header.api_version.rsplit_once('/').unwrap_or(("", &header.api_version));
    let metadata = &header.metadata;
    let read = match (group, header.kind.as_str(), version) {
        ("", "Service", "v1") => service::read(&key, decode(&value)?)?,
        ("discovery.k8s.io", "EndpointSlice", "v1") => endpoint_slice::read(&key, metadata, decode(&value)?)?,
        ("multicluster.x-k8s.io", "ServiceExport", "v1beta1" | "v1alpha1") => {
            Object::Export(service::name(&key)?).into()
        }
        ("gateway.networking.k8s.io", "Gateway", "v1" | "v1beta1") => gateway::read(&key, decode(&value)?)?,
        ("gateway.networking.k8s.io", "HTTPRoute", "v1" | "v1beta1") => {
            http_route::read(&key, decode(&value)?)?
        }
        _ => return Err(header.unknown()),
    };
    Ok((key, read))
}

impl Header {
    fn key(&self) -> Result<ObjectKey, InvalidObject> {
        // A kind becomes part of a key of the store and of what is shown.
        if !(1..=KIND_BYTES_MAX).contains(&self.kind.len())
            || !self.kind.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(InvalidObject::new("kind", "must be letters and digits"));
        }
        let name = self.metadata.name.as_str();
        let namespace = self.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        Ok(ObjectKey {
            kind: self.kind.as_str().into(),
            namespace: Label::try_from(namespace).map_err(|e| InvalidObject::new("metadata.namespace", e))?,
            name: ObjectName::try_from(name).map_err(|e| InvalidObject::new("metadata.name", e))?,
        })
    }

    fn unknown(&self) -> InvalidObject {
        let known = [
            ("Service", "v1"),
            ("EndpointSlice", "discovery.k8s.io/v1"),
            ("ServiceExport", "multicluster.x-k8s.io/v1beta1"),
            ("Gateway", "gateway.networking.k8s.io/v1"),
            ("HTTPRoute", "gateway.networking.k8s.io/v1"),
        ];
        let quoted = |text: &str| format!("{:?}", text.chars().take(80).collect::<String>());
        if let Some((kind, version)) = known.iter().find(|(kind, _)| *kind == self.kind) {
            let reason = format!("{} is not read; hint: {kind} is {version:?}", quoted(&self.api_version));
            return InvalidObject::new("apiVersion", reason);
        }
        if self.kind == "ServiceImport" {
            return InvalidObject::new(
                "kind",
                "imports are derived; hint: write a ServiceExport where the service is",
            );
        }
        let kinds: Vec<_> = known.iter().map(|(kind, _)| *kind).collect();
        InvalidObject::new(
            "kind",
            format!("{} is not read; known are {}", quoted(&self.kind), kinds.join(", ")),
        )
    }
}

/// The key of a document that may be wrong in every other respect.
fn key_of(node: &Node) -> Option<ObjectKey> {
    let header: Header = decode(&node.to_value()).ok()?;
    header.key().ok()
}

/// Reads a serde type; an error says at which path.
pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, InvalidObject> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        InvalidObject::new(if path == "." { String::new() } else { path }, error.inner())
    })
}
