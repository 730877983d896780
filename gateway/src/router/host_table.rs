//! Host names, exact and wildcard, from the most to the least specific match.

use std::collections::HashMap;
use std::iter;

use federation::model::Hostname;

/// One value for each host name; none as host name takes every host.
#[derive(Debug)]
pub(super) struct HostTable<T> {
    exact: HashMap<Box<str>, T>,
    /// By the name without `*.`.
    wildcard: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<T> HostTable<T> {
    /// The value of a host name, made if it is the first.
    pub(super) fn entry(&mut self, hostname: Option<&Hostname>, make: impl FnOnce() -> T) -> &mut T {
        match hostname {
            None => self.any.get_or_insert_with(make),
            Some(name) if name.is_wildcard() => self.wildcard.entry(name.name().into()).or_insert_with(make),
            Some(name) => self.exact.entry(name.name().into()).or_insert_with(make),
        }
    }

    /// All that match a lower-case host: exact, then the longest wildcard, then the rest.
    pub(super) fn matches<'t, 'h>(&'t self, host: &'h str) -> impl Iterator<Item = &'t T> + use<'t, 'h, T> {
        let parent = |name: &&'h str| name.split_once('.').map(|(_, parent)| parent);
        let parents = iter::successors(parent(&host), parent).filter(|_| !self.wildcard.is_empty());
        let wildcards = parents.filter_map(|name| self.wildcard.get(name));
        self.exact.get(host).into_iter().chain(wildcards).chain(&self.any)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.wildcard.values_mut()).chain(&mut self.any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_host_name_comes_first() {
        let mut table = HostTable::default();
        for name in ["a.b.com", "*.b.com", "*.com", "*.x.com", "b.com"] {
            table.entry(Some(&name.try_into().unwrap()), || name);
        }
        table.entry(None, || "any");
        for (host, expected) in [
            ("a.b.com", &["a.b.com", "*.b.com", "*.com", "any"][..]),
            ("z.y.b.com", &["*.b.com", "*.com", "any"]),
            ("b.com", &["b.com", "*.com", "any"]),
            ("x.com", &["*.com", "any"]),
            ("com", &["any"]),
            ("127.0.0.1", &["any"]),
        ] {
            assert_eq!(table.matches(host).copied().collect::<Vec<_>>(), expected, "{host}");
        }
    }
}
