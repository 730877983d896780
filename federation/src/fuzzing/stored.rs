//! What comes back from a store or a disk, or from another process of this cluster.

use std::fmt::Debug;
use std::str;

use bytes::Bytes;

use super::{NOW, cluster};
use crate::control::state::{Delta, Held, Parts, decode};
use crate::model::Import;
use crate::peering::records::{BundleRecord, JoinRecord, PeerRecord, SyncRecord};
use crate::snapshot::Generation;
use crate::store::keys::{Place, everything};
use crate::store::{Key, Prefix, Stored, codec};

/// A whole state, and the same as a change of nothing.
pub(super) fn state(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(delta) = Delta::parse(&bytes) {
        let written = delta.to_bytes();
        assert_eq!(written.len(), delta.length());
        let again = Delta::parse(&written).expect("what we write is a change");
        assert_eq!((again.put, again.removed), (delta.put, delta.removed));
    }
    let Ok(state) = decode(&bytes, Generation(7), NOW) else { return };
    let parts = Parts::encode(state, None);
    let full = parts.full();
    let read = decode(&full.to_bytes(), Generation(7), NOW).expect("what we encode is a state");
    assert_eq!(read, *parts.state());
    let held = Held::default().apply(&full, NOW).expect("and a change");
    assert_eq!(held.digest(), parts.digest());
}

pub(super) fn key(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(prefix) = Prefix::new(text) {
        assert!(prefix.as_str() == text && Key::new(text).is_err() && *prefix.end() > *text);
    }
    let Ok(key) = Key::new(text) else { return };
    assert_eq!(key.as_str(), text);
    if let Ok(place) = Place::try_from(&key) {
        assert_eq!(place.key(), key, "{place:?}");
        assert!(everything().contains(&key) && *key.as_str() < *everything().end());
    }
}

pub(super) fn value(bytes: &[u8]) {
    reads_back::<PeerRecord>(bytes);
    reads_back::<BundleRecord>(bytes);
    reads_back::<SyncRecord>(bytes);
    reads_back::<JoinRecord>(bytes);
    reads_back::<Import>(bytes);
    if let Ok(record) = codec::decode::<BundleRecord>(bytes)
        && let Ok(bundle) = record.read(super::domain("cloud.example"), NOW)
    {
        let written = BundleRecord::of(&bundle, cluster("cloud"));
        let again = written.read(super::domain("cloud.example"), NOW).expect("what we write is a bundle");
        assert_eq!(again.digest(), bundle.digest());
    }
}

fn reads_back<T: Stored + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(bytes) else { return };
    let written = codec::encode(&value).expect("what was read can be written");
    assert_eq!(codec::decode::<T>(&written).as_ref(), Ok(&value));
}
