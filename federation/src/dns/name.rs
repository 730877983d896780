//! A name as a query has it, in lower case and without its root.

use std::fmt;

/// Labels in the order of writing; one that is not plain ASCII matches nothing that we know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryName(Vec<Box<str>>);

impl QueryName {
    /// Takes the labels of a query, whatever bytes they hold.
    pub fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Self {
        let label = |bytes: &'a [u8]| {
            let lower = bytes.to_ascii_lowercase();
            let plain = lower.iter().all(|b| b.is_ascii_graphic() && *b != b'.');
            String::from_utf8(lower).ok().filter(|_| plain).unwrap_or_else(|| "?".to_owned())
        };
        Self(labels.map(|bytes| label(bytes).into()).collect())
    }

    /// The labels before a zone, the nearest to it first; none if the name is outside.
    pub(super) fn below(&self, zone: &str) -> Option<Vec<&str>> {
        let mut labels = self.0.iter().rev().map(|label| &**label);
        let mut zone = zone.rsplit('.');
        zone.all(|label| labels.next() == Some(label)).then(|| labels.collect())
    }
}

impl From<&str> for QueryName {
    /// Reads dotted text, with or without the root's dot.
    fn from(text: &str) -> Self {
        let text = text.strip_suffix('.').unwrap_or(text);
        Self::from_labels(text.split('.').filter(|label| !label.is_empty()).map(str::as_bytes))
    }
}

impl fmt::Display for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_below_their_zone() {
        for (name, zone, expected) in [
            ("a.b.clusterset.local", "clusterset.local", Some(vec!["b", "a"])),
            ("A.B.ClusterSet.Local.", "clusterset.local", Some(vec!["b", "a"])),
            ("clusterset.local", "clusterset.local", Some(vec![])),
            ("local", "clusterset.local", None),
            ("xclusterset.local", "clusterset.local", None),
            ("a.example.com", "clusterset.local", None),
            ("", "clusterset.local", None),
        ] {
            assert_eq!(QueryName::from(name).below(zone), expected, "{name}");
        }
    }

    #[test]
    fn strange_bytes_match_nothing() {
        let name =
            QueryName::from_labels([&b"a.b"[..], b"\xff", b"x y", b"clusterset", b"local"].into_iter());
        assert_eq!(name.below("clusterset.local"), Some(vec!["?", "?", "?"]));
    }
}
