//! A document as a flat map from path to text, with every structural mistake named.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ConfigError;
use super::settings::{self, Kind};

/// What one place of the document holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    Text(String),
    List(Vec<String>),
}

/// All that was given, by path.
pub(super) type Tree = BTreeMap<String, Given>;

/// Lists have an end.
const LIST_ENTRIES_MAX: usize = 64;

/// Flattens a document; what is not a setting is an error, the rest stays.
pub(super) fn flatten(document: &Value, errors: &mut Vec<ConfigError>) -> Tree {
    let mut tree = Tree::new();
    match document {
        Value::Null => {}
        Value::Object(_) => visit("", document, &mut tree, errors),
        other => errors.push(wrong("(document)", format!("is {}, not settings by name", describe(other)))),
    }
    tree
}

fn visit(path: &str, value: &Value, tree: &mut Tree, errors: &mut Vec<ConfigError>) {
    match (value, settings::find(path)) {
        (Value::Null, _) => {}
        (Value::Object(children), None) => {
            for (name, child) in children {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if settings::find(&path).is_some() || settings::is_section(&path) {
                    visit(&path, child, tree, errors);
                } else {
                    errors.push(unknown(&path));
                }
            }
        }
        (value, Some(setting)) => match given(value, setting.kind) {
            Ok(given) => drop(tree.insert(path.to_owned(), given)),
            Err(message) => errors.push(wrong(path, message)),
        },
        (other, None) => {
            errors.push(wrong(path, format!("is {}, but has settings below it", describe(other))))
        }
    }
}

fn given(value: &Value, kind: Kind) -> Result<Given, String> {
    if matches!(kind, Kind::GatewayAddresses | Kind::Endpoints | Kind::Networks) {
        let Value::Array(entries) = value else { return Err(format!("is {}, not a list", describe(value))) };
        if entries.len() > LIST_ENTRIES_MAX {
            return Err(format!("has {} entries, more than {LIST_ENTRIES_MAX}", entries.len()));
        }
        return entries.iter().map(scalar).collect::<Result<_, _>>().map(Given::List);
    }
    scalar(value).map(Given::Text)
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        other => Err(format!("is {}, not a single value", describe(other))),
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section",
    }
}

pub(super) fn wrong(path: &str, message: impl Into<String>) -> ConfigError {
    ConfigError::Setting { path: path.to_owned(), message: message.into() }
}

pub(super) fn unknown(path: &str) -> ConfigError {
    let hint =
        settings::nearest(path).map(|known| format!(" (hint: did you mean {known}?)")).unwrap_or_default();
    wrong(path, format!("is not a setting{hint}"))
}
