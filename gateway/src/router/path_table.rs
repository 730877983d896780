//! The matches of all routes of one host name, in the order of precedence of the Gateway API.
//!
//! Exact path, then the longest prefix, then the most headers, then the oldest route, then its name, then
//! the order of rules: across routes, not route by route (notes/conformance 5.3). Paths are hashed, so the
//! cost of a request follows its own path and not the number of routes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use federation::model::{HeaderMatch, HttpMatch, HttpRoute, HttpRule, PathMatch};
use http::{HeaderMap, HeaderName};

#[derive(Debug, Default)]
pub(super) struct PathTable {
    exact: HashMap<Box<str>, Vec<Entry>>,
    prefix: HashMap<Box<str>, Vec<Entry>>,
    /// No longer prefix of a request's path needs to be looked up: what a stranger sends is bounded by it.
    longest_prefix: usize,
}

/// Names and the values that they must have.
type Headers = Box<[(HeaderName, Box<str>)]>;

/// One match of one rule of a route.
#[derive(Debug)]
pub(super) struct Entry {
    route: Arc<HttpRoute>,
    rule: usize,
    headers: Headers,
}

impl Entry {
    pub(super) fn route(&self) -> &Arc<HttpRoute> {
        &self.route
    }

    pub(super) fn rule_index(&self) -> usize {
        self.rule
    }

    pub(super) fn rule(&self) -> &HttpRule {
        &self.route.rules[self.rule]
    }

    fn matches(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|(name, value)| has(headers, name, value))
    }
}

impl PathTable {
    pub(super) fn insert(&mut self, route: &Arc<HttpRoute>) {
        let everything = HttpMatch { path: PathMatch::Prefix(String::new()), headers: Vec::new() };
        for (index, rule) in route.rules.iter().enumerate() {
            if rule.matches.is_empty() {
                self.insert_match(route, index, &everything);
            }
            for rule_match in &rule.matches {
                self.insert_match(route, index, rule_match);
            }
        }
    }

    fn insert_match(&mut self, route: &Arc<HttpRoute>, rule: usize, rule_match: &HttpMatch) {
        // A name that is no header name is in no request.
        let Some(headers) = compile(&rule_match.headers) else { return };
        let entry = Entry { route: route.clone(), rule, headers };
        let entries = match &rule_match.path {
            PathMatch::Exact(path) => self.exact.entry(path.as_str().into()),
            PathMatch::Prefix(path) => {
                self.longest_prefix = self.longest_prefix.max(path.len());
                self.prefix.entry(path.as_str().into())
            }
        };
        entries.or_default().push(entry);
    }

    /// Brings equal paths into order; the sort is stable, so rules stay as they were written.
    pub(super) fn sort(&mut self) {
        for entries in self.exact.values_mut().chain(self.prefix.values_mut()) {
            entries.sort_by(|a, b| {
                let rank = |entry: &Entry| (Reverse(entry.headers.len()), entry.route.created);
                rank(a).cmp(&rank(b)).then_with(|| a.route.key.cmp(&b.route.key)).then(a.rule.cmp(&b.rule))
            });
        }
    }

    /// The match that wins for a path without its query.
    pub(super) fn find(&self, path: &str, headers: &HeaderMap) -> Option<&Entry> {
        let exact = self.exact.get(path).and_then(|entries| winner(entries, headers));
        exact.or_else(|| {
            let mut prefixes = prefixes(path).filter(|prefix| prefix.len() <= self.longest_prefix);
            prefixes.find_map(|prefix| winner(self.prefix.get(prefix)?, headers))
        })
    }
}

fn winner<'a>(entries: &'a [Entry], headers: &HeaderMap) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.matches(headers))
}

/// All prefixes of whole segments, the longest first; the root is empty.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let whole = (!path.ends_with('/')).then_some(path);
    // `OPTIONS *` has no segments, and still is a request to the root.
    let root = (!path.starts_with('/')).then_some("");
    whole.into_iter().chain(path.rmatch_indices('/').map(|(at, _)| &path[..at])).chain(root)
}

/// Of equivalent header names only the first counts (Gateway API, `HTTPRouteMatch.headers`).
fn compile(headers: &[HeaderMatch]) -> Option<Headers> {
    let mut compiled: Vec<(HeaderName, Box<str>)> = Vec::with_capacity(headers.len());
    for header in headers {
        let name = HeaderName::try_from(&header.name).ok()?;
        if !compiled.iter().any(|(known, _)| *known == name) {
            compiled.push((name, header.value.as_str().into()));
        }
    }
    Some(compiled.into())
}

/// A header that came more than once has the value of all, joined by commas (RFC 9110, section 5.3).
fn has(headers: &HeaderMap, name: &HeaderName, expected: &str) -> bool {
    let mut rest = Some(expected.as_bytes());
    for (at, value) in headers.get_all(name).iter().enumerate() {
        rest = rest
            .and_then(|rest| if at == 0 { Some(rest) } else { rest.strip_prefix(b",") })
            .and_then(|rest| rest.strip_prefix(value.as_bytes()));
    }
    rest.is_some_and(<[u8]>::is_empty) && headers.contains_key(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_segments() {
        for (path, expected) in [
            ("/", &[""][..]),
            ("/a", &["/a", ""]),
            ("/a/", &["/a", ""]),
            ("/a/b", &["/a/b", "/a", ""]),
            ("/a//b", &["/a//b", "/a/", "/a", ""]),
            ("*", &["*", ""]),
        ] {
            assert_eq!(prefixes(path).collect::<Vec<_>>(), expected, "{path}");
        }
    }

    #[test]
    fn repeated_headers_are_compared_joined() {
        for (values, expected, matches) in [
            (&["a"][..], "a", true),
            (&["a", "b"], "a,b", true),
            (&["a", "b"], "a", false),
            (&["a,b"], "a,b", true),
            (&["ab"], "a", false),
            (&[], "", false),
            (&[""], "", true),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-test", value.parse().unwrap());
            }
            let name = HeaderName::from_static("x-test");
            assert_eq!(has(&headers, &name, expected), matches, "{values:?} {expected}");
        }
    }
}
