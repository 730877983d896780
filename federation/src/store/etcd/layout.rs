//! Our layout below another prefix: `/isthmus/v1/` stands for whatever was configured.

use bytes::Bytes;
use etcd_client::KeyValue;
use tracing::warn;

use super::super::change::{Entry, LeaseId, Revision};
use super::super::contract::Fault;
use super::super::key::{Key, Prefix};
use super::super::keys::ROOT;

#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: String,
}

/// The keys from the first to before the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: String,
    pub(super) end: String,
}

impl Layout {
    pub(super) fn new(root: &Prefix) -> Self {
        Self { root: root.as_str().to_owned() }
    }

    /// A key that every role may read, whether it is there or not.
    pub(super) fn anything(&self) -> String {
        format!("{}meta", self.root)
    }

    pub(super) fn key(&self, key: &Key) -> Result<String, Fault> {
        self.outward(key.as_str())
    }

    pub(super) fn range(&self, prefix: &Prefix) -> Result<Range, Fault> {
        let start = self.outward(prefix.as_str())?;
        let mut end = start.clone();
        end.pop();
        end.push('0'); // the character after '/'
        Ok(Range { start, end })
    }

    fn outward(&self, text: &str) -> Result<String, Fault> {
        match text.strip_prefix(ROOT) {
            Some(rest) => Ok(format!("{}{rest}", self.root)),
            None => Err(Fault::Unavailable(format!("{text} is outside of the layout {ROOT}"))),
        }
    }

    /// What a key in etcd is called here; `None` for one that no program of ours can have written.
    pub(super) fn read(&self, key: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(key).ok()?;
        let rest = text.strip_prefix(self.root.as_str())?;
        Key::new(&format!("{ROOT}{rest}")).ok()
    }

    pub(super) fn entry(&self, found: KeyValue) -> Option<Entry> {
        let Some(key) = self.read(found.key()) else {
            warn!(key = %String::from_utf8_lossy(found.key()), "passed over what is no key of ours");
            return None;
        };
        let lease = found.lease().cast_unsigned();
        let lease = (lease != 0).then_some(LeaseId(lease));
        let revision = Revision(found.mod_revision().cast_unsigned());
        let (_key, value) = found.into_key_value();
        Some(Entry { key, value: Bytes::from(value), revision, lease })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_prefix_stands_for_ours() {
        let layout = Layout::new(&Prefix::new("/sites/onprem/").unwrap());
        let key = Key::new("/isthmus/v1/peer/cloud").unwrap();
        assert_eq!(layout.key(&key).unwrap(), "/sites/onprem/peer/cloud");
        assert_eq!(layout.read(b"/sites/onprem/peer/cloud"), Some(key));
        let range = layout.range(&Prefix::new(ROOT).unwrap()).unwrap();
        assert_eq!(range, Range { start: "/sites/onprem/".into(), end: "/sites/onprem0".into() });
    }

    #[test]
    fn what_is_not_ours_is_neither_asked_for_nor_read() {
        let layout = Layout::new(&Prefix::new(ROOT).unwrap());
        assert!(layout.key(&Key::new("/other/meta").unwrap()).is_err());
        for key in
            [&b"/other/meta"[..], b"/isthmus/v1/", b"/isthmus/v1/a b", b"/isthmus/v1/\xff", b"/isthmus/v1/a/"]
        {
            assert_eq!(layout.read(key), None);
        }
    }
}
