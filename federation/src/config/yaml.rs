//! YAML with line numbers: a tree in which every value knows where it stands.
//!
//! A text is first cut into its documents, which YAML allows without understanding them, so that one
//! document with a syntax error does not take its neighbours with it.

use std::fmt;
use std::num::FpCategory;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Deeper nesting than any object of ours has; bounds the recursion over the tree.
const DEPTH_MAX: usize = 48;
/// Values in one document: an EndpointSlice of 1000 endpoints has some 20 000.
const NODES_MAX: usize = 200_000;
/// Room for a message of the YAML parser, which may quote the document.
const MESSAGE_CHARS_MAX: usize = 300;

/// One document of a text, from the line after its `---`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    /// Of its first line that is neither empty nor a comment; lines count from 1.
    pub(crate) line: u32,
    /// Lines before this one within the whole text.
    offset: u32,
    pub(crate) text: &'a str,
}

/// A value and its line within the whole text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// The documents of a text, without those that hold nothing.
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut offset, mut position) = (0, 0, 0);
    for (line, content) in (1_u32..).zip(lines(text)) {
        if is_marker(content, "---") || is_marker(content, "...") {
            documents.extend(document(&text[start..position], offset));
            // What stands behind `---` on its line belongs to the document.
            start = position + 3;
            offset = line - 1;
        }
        position += content.len();
    }
    documents.extend(document(&text[start..], offset));
    documents
}

/// Lines with their ends, as YAML has them: a carriage return by itself ends a line too.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.find(['\r', '\n']) {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None => rest.len(),
        };
        let (line, later) = rest.split_at(end);
        rest = later;
        (!line.is_empty()).then_some(line)
    })
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn document(text: &str, offset: u32) -> Option<Document<'_>> {
    let holds = |line: &&str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('%')
    };
    let first = lines(text).position(|line| holds(&line))?;
    let first = u32::try_from(first).unwrap_or(u32::MAX);
    Some(Document { line: offset.saturating_add(first).saturating_add(1), offset, text })
}

impl Document<'_> {
    pub(crate) fn parse(&self) -> Result<Node, SyntaxError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX },
            strict_booleans: true,
            underscored_numbers_as_strings: true,
            emit_comments: false,
            with_snippet: false,
        };
        let parsed = serde_saphyr::from_str_with_options::<Spanned<Raw>>(self.text, options);
        parsed.map(|raw| self.node(raw.referenced.line(), raw.value)).map_err(|error| SyntaxError {
            line: self.line_of(error.location().map_or(0, |location| location.line())),
            message: one_line(&error.to_string()),
        })
    }

    fn line_of(&self, within: u64) -> u32 {
        match u32::try_from(within) {
            Ok(0) | Err(_) => self.line,
            Ok(within) => self.offset.saturating_add(within),
        }
    }

    fn node(&self, line: u64, raw: Raw) -> Node {
        let content = match raw {
            Raw::Scalar(value) => Content::Scalar(value),
            Raw::List(items) => Content::List(
                items.into_iter().map(|item| self.node(item.referenced.line(), item.value)).collect(),
            ),
            Raw::Map(entries) => Content::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.value, self.node(key.referenced.line(), value.value)))
                    .collect(),
            ),
        };
        Node { line: self.line_of(line), content }
    }
}

fn one_line(message: &str) -> String {
    let words: Vec<_> = message.split_whitespace().collect();
    words.join(" ").chars().take(MESSAGE_CHARS_MAX).collect()
}

impl Node {
    /// The same content without lines.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Map(entries) => Value::Object(
                entries.iter().map(|(key, value)| (key.clone(), value.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The line of a path such as `spec.ports[0].name`, or of the part of it that exists.
    pub(crate) fn line_at(&self, path: &str) -> u32 {
        let mut node = self;
        for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
            let next = match (&node.content, part.strip_suffix(']')) {
                (Content::List(items), Some(index)) => index.parse().ok().and_then(|i: usize| items.get(i)),
                _ => node.get(part),
            };
            let Some(next) = next else { break };
            node = next;
        }
        node.line
    }
}

/// What the parser hands over; lines are still relative to the document.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Raw, E> {
        match value.classify() {
            FpCategory::Nan | FpCategory::Infinite => Err(E::custom("not a finite number")),
            _ => Ok(Raw::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number))),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        while let Some((key, value)) = access.next_entry::<Spanned<String>, Spanned<Raw>>()? {
            if entries.iter().any(|(held, _)| held.value == key.value) {
                return Err(A::Error::custom(format_args!("{:?} is written twice", key.value)));
            }
            entries.push((key, value));
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = "# two documents\n\nkind: A\nspec:\n  ports:\n  - {name: x, port: 80}\n  - name: y\n---\n\n# second\nkind: B\nlist: [1, 2.5, on, null, \"7\"]\n";

    #[test]
    fn values_know_their_lines() {
        let documents = documents(TEXT);
        assert_eq!(documents.iter().map(|d| d.line).collect::<Vec<_>>(), [3, 11]);
        let node = documents[0].parse().unwrap();
        for (path, line) in [
            ("kind", 3),
            ("spec", 4),
            ("spec.ports[0].port", 6),
            ("spec.ports[1].name", 7),
            ("spec.absent.x", 4),
        ] {
            assert_eq!(node.line_at(path), line, "{path}");
        }
        let second = documents[1].parse().unwrap();
        assert_eq!(second.line_at("list"), 12);
        assert_eq!(second.to_value(), json!({"kind": "B", "list": [1, 2.5, "on", null, "7"]}));
    }

    #[test]
    fn markers_cut_only_at_the_start_of_a_line() {
        for (text, lines) in [
            ("", vec![]),
            ("---\n# nothing\n---\n", vec![]),
            ("a: 1", vec![1]),
            ("--- {a: 1}\n--- {b: 2}\n", vec![1, 2]),
            ("a: |\n  ---\n  x\n", vec![1]),
            ("%YAML 1.2\n---\na: 1\n...\n---\nb: 1\n", vec![3, 6]),
            ("a: 1\r\n---\r\nb: 2\r\n", vec![1, 3]),
            ("a: 1\r---\rb: 2\r", vec![1, 3]),
            ("a: ---x\n---x: 1\n", vec![1]),
        ] {
            let found: Vec<_> = documents(text).iter().map(|d| d.line).collect();
            assert_eq!(found, lines, "{text:?}");
        }
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        for (text, line) in [
            ("a: 1\n---\nb: [1, 2\nc: 3\n", 3..=5),
            ("a: 1\na: 2\n", 1..=2),
            ("a: 1\r---\rb: [1, 2\rc: 3\r", 3..=5),
            ("a: 1\n---\nx: \"open\n", 3..=4),
            ("a: .nan\n", 1..=1),
        ] {
            let errors: Vec<_> = documents(text).iter().filter_map(|d| d.parse().err()).collect();
            assert_eq!(errors.len(), 1, "{text:?} {errors:?}");
            assert!(line.contains(&errors[0].line), "{text:?} {errors:?}");
        }
    }

    #[test]
    fn alias_bombs_and_deep_nesting_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb += &format!("a{n}: &a{n} [{aliases}]\n");
        }
        let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
        for text in [bomb, deep] {
            assert!(documents(&text)[0].parse().is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-a-z0-9:{}\\[\\]&*!|>'\"#%@., \n\t]{0,120}") {
            for document in documents(&text) {
                if let Ok(node) = document.parse() {
                    node.to_value();
                }
            }
        }
    }
}
