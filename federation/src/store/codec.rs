//! What a value looks like in a store: a small envelope around the JSON of one kind.
//!
//! ```text
//! {"v":1,"kind":"peer","data":{...}}
//! ```
//!
//! The envelope is read first, so that a value of a newer program is named instead of misread, and a
//! value under the wrong key is noticed. Fields that are new in a version have a serde default, so that
//! older values stay readable; `v` rises only where an older program would do harm.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A type that is kept in a store.
pub trait Stored: Serialize + DeserializeOwned {
    /// What the envelope calls it; never changes.
    const KIND: &'static str;
    /// The newest shape that this program knows.
    const VERSION: u32 = 1;
}

/// Why a value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("not a stored value: {0}")]
    Malformed(String),
    #[error("a {found:?} is stored where a {expected:?} belongs")]
    OtherKind { expected: &'static str, found: String },
    #[error("a {kind} of version {found} was written by a newer program, this one reads up to {supported}")]
    Newer { kind: &'static str, found: u32, supported: u32 },
}

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    kind: &'static str,
    data: &'a T,
}

/// The envelope alone: `data` stays unread until version and kind are known to be ours.
#[derive(Deserialize)]
struct Header {
    v: u32,
    kind: String,
}

#[derive(Deserialize)]
struct Read<T> {
    data: T,
}

pub fn encode<T: Stored>(value: &T) -> Result<Vec<u8>, InvalidValue> {
    serde_json::to_vec(&Written { v: T::VERSION, kind: T::KIND, data: value }).map_err(malformed)
}

pub fn decode<T: Stored>(bytes: &[u8]) -> Result<T, InvalidValue> {
    let header: Header = serde_json::from_slice(bytes).map_err(malformed)?;
    if header.kind != T::KIND {
        let found = header.kind.chars().take(64).collect();
        return Err(InvalidValue::OtherKind { expected: T::KIND, found });
    }
    if header.v > T::VERSION {
        return Err(InvalidValue::Newer { kind: T::KIND, found: header.v, supported: T::VERSION });
    }
    serde_json::from_slice(bytes).map(|read: Read<T>| read.data).map_err(malformed)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn malformed(error: serde_json::Error) -> InvalidValue {
    InvalidValue::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Cup {
        size: u32,
        #[serde(default)]
        handle: bool,
    }

    impl Stored for Cup {
        const KIND: &'static str = "cup";
        const VERSION: u32 = 2;
    }

    #[test]
    fn values_read_back_as_written() {
        let cup = Cup { size: 3, handle: true };
        let bytes = encode(&cup).unwrap();
        assert_eq!(bytes, br#"{"v":2,"kind":"cup","data":{"size":3,"handle":true}}"#);
        assert_eq!(decode::<Cup>(&bytes), Ok(cup));
    }

    #[test]
    fn only_known_versions_of_the_right_kind_are_read() {
        let older = br#"{"v":1,"kind":"cup","data":{"size":3}}"#;
        assert_eq!(decode::<Cup>(older), Ok(Cup { size: 3, handle: false }));
        let newer = br#"{"v":3,"kind":"cup","data":{"volume":"9 l"}}"#;
        assert_eq!(decode::<Cup>(newer), Err(InvalidValue::Newer { kind: "cup", found: 3, supported: 2 }));
        let other = br#"{"v":1,"kind":"plate","data":{"size":3}}"#;
        let found = "plate".to_owned();
        assert_eq!(decode::<Cup>(other), Err(InvalidValue::OtherKind { expected: "cup", found }));
        for bad in [
            "",
            "{}",
            "null",
            r#"{"v":1,"kind":"cup"}"#,
            r#"{"v":-1,"kind":"cup","data":{"size":1}}"#,
            r#"{"v":1,"kind":"cup","data":{}}"#,
        ] {
            assert!(matches!(decode::<Cup>(bad.as_bytes()), Err(InvalidValue::Malformed(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            drop(decode::<Cup>(&bytes));
        }
    }
}
