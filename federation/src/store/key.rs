//! Keys and prefixes as texts that every store takes.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Longer keys are a mistake: the longest of ours is a document's, below 400 bytes.
const KEY_BYTES_MAX: usize = 512;

/// The path of one entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// What a listing, a watch or a deletion covers; ends with '/', so that `peer/a` never means `peer/ab`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Prefix(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("{0:?} is not a key: segments of visible ASCII after '/', at most {KEY_BYTES_MAX} bytes")]
    Key(String),
    #[error("{0:?} is not a prefix: a key that ends with '/'")]
    Prefix(String),
}

impl Key {
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        let valid = is_path(text) && !text.ends_with('/');
        if valid { Ok(Self(text.into())) } else { Err(InvalidKey::Key(excerpt(text))) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Prefix {
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        let valid = is_path(text) && text.ends_with('/');
        if valid { Ok(Self(text.into())) } else { Err(InvalidKey::Prefix(excerpt(text))) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn contains(&self, key: &Key) -> bool {
        key.as_str().starts_with(self.as_str())
    }

    /// The first text after all keys of the prefix, as etcd's `range_end`.
    pub fn end(&self) -> String {
        let mut end = self.0[..self.0.len() - 1].to_owned();
        end.push('0'); // the character after '/'
        end
    }
}

fn is_path(text: &str) -> bool {
    text.len() <= KEY_BYTES_MAX
        && text.starts_with('/')
        && !text.contains("//")
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

macro_rules! shows_text {
    ($($type:ident),+) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

shows_text!(Key, Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bounded_visible_paths() {
        for good in ["/a", "/isthmus/v1/meta", "/isthmus/v1/trust/td/a.example.org"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "a", "/a/", "/a//b", "/a b", "/ä", "/a\n", &format!("/{}", "x".repeat(512))] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_prefix_ends_between_segments() {
        let prefix = Prefix::new("/p/a/").unwrap();
        for (key, inside) in [("/p/a/x", true), ("/p/ab/x", false), ("/p/a", false), ("/p/b", false)] {
            let key = Key::new(key).unwrap();
            assert_eq!(prefix.contains(&key), inside, "{key}");
            let in_range = (prefix.as_str()..prefix.end().as_str()).contains(&key.as_str());
            assert_eq!(in_range, inside, "{key}");
        }
        assert!(Prefix::new("/p/a").is_err());
    }
}
