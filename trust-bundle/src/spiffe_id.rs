//! SPIFFE IDs and trust domains that are valid by construction.
//!
//! The parser follows the SPIFFE-ID specification to the letter and never normalises: what came out
//! of a certificate is either exactly a SPIFFE ID or nothing at all (rule ID9). An upper-case trust
//! domain, a percent sign or a dot segment is an error, not something to clean up, because two
//! readers that clean up differently see two identities in one certificate.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest SPIFFE ID that is read or made, in bytes (ID8).
pub const SPIFFE_ID_LENGTH_MAX: usize = 2048;

/// The longest trust domain, in bytes: RFC 3986 bounds a host name so (ID6).
pub const TRUST_DOMAIN_LENGTH_MAX: usize = 255;

const SCHEME: &str = "spiffe://";

/// The name of a trust domain; always valid, cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The bare name, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of the trust domain itself, which has no path.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{self}").into(), trust_domain: self.clone() }
    }
}

/// A SPIFFE ID; always valid, cheap to clone. Only an ID with a path names a workload.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Joins a trust domain and a path, which is empty or begins with a slash.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, InvalidSpiffeId> {
        check_path(path)?;
        check_length(SCHEME.len() + trust_domain.0.len() + path.len())?;
        Ok(Self { text: format!("{SCHEME}{trust_domain}{path}").into(), trust_domain: trust_domain.clone() })
    }

    /// The trust domain that this ID belongs to.
    pub fn trust_domain(&self) -> TrustDomain {
        self.trust_domain.clone()
    }

    /// The path with its leading slash; empty for the ID of a trust domain.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.trust_domain.0.len()..]
    }

    /// The whole ID, scheme included.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TryFrom<&str> for TrustDomain {
    type Error = InvalidSpiffeId;

    fn try_from(name: &str) -> Result<Self, InvalidSpiffeId> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }
}

impl TryFrom<&str> for SpiffeId {
    type Error = InvalidSpiffeId;

    fn try_from(text: &str) -> Result<Self, InvalidSpiffeId> {
        check_length(text.len())?;
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::try_from(name)?;
        check_path(path)?;
        Ok(Self { text: text.into(), trust_domain })
    }
}

/// Why a text is not a SPIFFE ID or not a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// It does not begin with `spiffe://` (ID1).
    #[error("a SPIFFE ID begins with \"spiffe://\"")]
    Scheme,
    /// It is longer than any SPIFFE ID may be (ID8).
    #[error("{length} bytes are more than the {SPIFFE_ID_LENGTH_MAX} that a SPIFFE ID may have")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It names no trust domain (ID3).
    #[error("the trust domain is empty")]
    TrustDomainEmpty,
    /// Its trust domain is too long (ID6).
    #[error("{length} bytes are more than the {TRUST_DOMAIN_LENGTH_MAX} that a trust domain may have")]
    TrustDomainTooLong {
        /// The length of the trust domain in bytes.
        length: usize,
    },
    /// Its trust domain has a character that none may have (ID3, ID4).
    #[error("a trust domain has only lower-case letters, digits, \".\", \"-\" and \"_\", not {character:?}")]
    TrustDomainCharacter {
        /// The first offending character.
        character: char,
    },
    /// Its path does not begin with a slash.
    #[error("a path begins with \"/\"")]
    PathStart,
    /// Its path has an empty segment or ends with a slash (ID7).
    #[error("a path has no empty segment and no trailing slash")]
    PathSegmentEmpty,
    /// Its path has a `.` or `..` segment (ID7).
    #[error("a path has no \".\" or \"..\" segment")]
    PathSegmentDots,
    /// Its path has a character that none may have (ID2, ID7).
    #[error("a path segment has only letters, digits, \".\", \"-\" and \"_\", not {character:?}")]
    PathCharacter {
        /// The first offending character.
        character: char,
    },
}

fn check_length(length: usize) -> Result<(), InvalidSpiffeId> {
    if length > SPIFFE_ID_LENGTH_MAX {
        return Err(InvalidSpiffeId::TooLong { length });
    }
    Ok(())
}

fn check_trust_domain(name: &str) -> Result<(), InvalidSpiffeId> {
    if name.is_empty() {
        return Err(InvalidSpiffeId::TrustDomainEmpty);
    }
    if name.len() > TRUST_DOMAIN_LENGTH_MAX {
        return Err(InvalidSpiffeId::TrustDomainTooLong { length: name.len() });
    }
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match name.chars().find(|c| !allowed(*c)) {
        Some(character) => Err(InvalidSpiffeId::TrustDomainCharacter { character }),
        None => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), InvalidSpiffeId> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(InvalidSpiffeId::PathStart)?;
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), InvalidSpiffeId> {
    match segment {
        "" => return Err(InvalidSpiffeId::PathSegmentEmpty),
        "." | ".." => return Err(InvalidSpiffeId::PathSegmentDots),
        _ => {}
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment.chars().find(|c| !allowed(*c)) {
        Some(character) => Err(InvalidSpiffeId::PathCharacter { character }),
        None => Ok(()),
    }
}

// Both types are text with the same traits around it; one list keeps them alike.
macro_rules! text_traits {
    ($type:ty, $field:tt) => {
        impl FromStr for $type {
            type Err = InvalidSpiffeId;

            fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
                Self::try_from(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidSpiffeId;

            fn try_from(text: String) -> Result<Self, InvalidSpiffeId> {
                Self::try_from(text.as_str())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.$field)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.$field, f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.$field
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.$field)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::try_from(text.as_str()).map_err(D::Error::custom)
            }
        }
    };
}

text_traits!(TrustDomain, 0);
text_traits!(SpiffeId, text);

// Its hash and order are those of the text, so a map can be asked with what came off the wire.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn accepts(texts: &[&str]) {
        for text in texts {
            let id = SpiffeId::try_from(*text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert_eq!(id.to_string(), *text);
        }
    }

    #[track_caller]
    fn rejects(texts: &[&str], why: InvalidSpiffeId) {
        for text in texts {
            assert_eq!(SpiffeId::try_from(*text), Err(why.clone()), "{text:?}");
        }
    }

    fn bad_domain(character: char) -> InvalidSpiffeId {
        InvalidSpiffeId::TrustDomainCharacter { character }
    }

    fn bad_path(character: char) -> InvalidSpiffeId {
        InvalidSpiffeId::PathCharacter { character }
    }

    #[test]
    fn id1_scheme_is_exactly_spiffe() {
        let not =
            ["http://td/p", "spiffe:/td/p", "spiffe//td", "SPIFFE://td/p", "spiffe:td", "td/p", "", "sp"];
        rejects(&not, InvalidSpiffeId::Scheme);
        rejects(&[" spiffe://td/p"], InvalidSpiffeId::Scheme);
    }

    #[test]
    fn id2_no_query_and_no_fragment() {
        rejects(&["spiffe://td/p?q", "spiffe://td/p?"], bad_path('?'));
        rejects(&["spiffe://td/p#f", "spiffe://td/p#"], bad_path('#'));
        rejects(&["spiffe://td?"], bad_domain('?'));
        rejects(&["spiffe://td#"], bad_domain('#'));
    }

    #[test]
    fn id3_authority_is_only_a_trust_domain() {
        rejects(&["spiffe:///p", "spiffe://"], InvalidSpiffeId::TrustDomainEmpty);
        rejects(&["spiffe://u@td/p"], bad_domain('@'));
        rejects(&["spiffe://td:80/p"], bad_domain(':'));
    }

    #[test]
    fn id4_trust_domain_is_lower_case_without_percent() {
        rejects(&["spiffe://TD/p"], bad_domain('T'));
        rejects(&["spiffe://t%61d/p"], bad_domain('%'));
        rejects(&["spiffe://[::1]/p"], bad_domain('['));
    }

    #[test]
    fn id5_names_like_addresses_are_not_special() {
        accepts(&["spiffe://10.0.0.1/p", "spiffe://a..b/p", "spiffe://-/p", "spiffe://.", "spiffe://_/x"]);
    }

    #[test]
    fn id6_trust_domain_has_at_most_255_bytes() {
        let name = "a".repeat(255);
        assert!(TrustDomain::try_from(name.as_str()).is_ok());
        let name = "a".repeat(256);
        let too_long = InvalidSpiffeId::TrustDomainTooLong { length: 256 };
        assert_eq!(TrustDomain::try_from(name.as_str()), Err(too_long));
    }

    #[test]
    fn id7_path_segments_are_plain() {
        rejects(&["spiffe://td/a//b", "spiffe://td/a/", "spiffe://td/", "spiffe://td//"], {
            InvalidSpiffeId::PathSegmentEmpty
        });
        let dots = ["spiffe://td/.", "spiffe://td/a/../b", "spiffe://td/./a", "spiffe://td/.."];
        rejects(&dots, InvalidSpiffeId::PathSegmentDots);
        rejects(&["spiffe://td/a%2fb"], bad_path('%'));
        rejects(&["spiffe://td/\u{e9}"], bad_path('\u{e9}'));
        accepts(&["spiffe://td/...", "spiffe://td/.a", "spiffe://td/..a", "spiffe://td/A/b_C-1.x"]);
    }

    #[test]
    fn id8_whole_id_has_at_most_2048_bytes() {
        let fits = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        accepts(&[&fits]);
        rejects(&[&format!("{fits}a")], InvalidSpiffeId::TooLong { length: 2049 });
        let td = TrustDomain::try_from("td").unwrap();
        assert!(SpiffeId::new(&td, &fits["spiffe://td".len()..]).is_ok());
        let path = format!("/{}", "a".repeat(2048 - 11));
        assert_eq!(SpiffeId::new(&td, &path), Err(InvalidSpiffeId::TooLong { length: 2049 }));
    }

    #[test]
    fn id10_id_of_a_trust_domain_has_no_path() {
        let id = SpiffeId::try_from("spiffe://td").unwrap();
        assert_eq!(id.path(), "");
        assert_eq!(id, id.trust_domain().id());
        let gateway = SpiffeId::new(&id.trust_domain(), "/isthmus/gateway").unwrap();
        assert_eq!(gateway.path(), "/isthmus/gateway");
        assert_eq!(gateway.as_str(), "spiffe://td/isthmus/gateway");
        assert_eq!(SpiffeId::new(&id.trust_domain(), "gateway"), Err(InvalidSpiffeId::PathStart));
    }

    // The same loop as in go-spiffe's id_test: each byte, in both places.
    #[test]
    fn every_single_byte_is_judged_as_specified() {
        for byte in 0..=127u8 {
            let c = char::from(byte);
            let in_domain = matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
            assert_eq!(TrustDomain::try_from(format!("a{c}b").as_str()).is_ok(), in_domain, "{c:?}");
            let in_path = c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
            assert_eq!(SpiffeId::try_from(format!("spiffe://td/a{c}b").as_str()).is_ok(), in_path, "{c:?}");
        }
    }

    #[test]
    fn serialises_as_a_string_and_checks_on_the_way_in() {
        let id = SpiffeId::try_from("spiffe://td/a").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/a\"");
        assert_eq!(serde_json::from_str::<SpiffeId>("\"spiffe://td/a\"").unwrap(), id);
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://TD/a\"").is_err());
        assert!(serde_json::from_str::<TrustDomain>("\"t d\"").is_err());
    }

    proptest! {
        #[test]
        fn valid_ids_survive_a_round_trip(text in "spiffe://[a-z0-9._-]{1,40}(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,9}){0,5}") {
            let id = SpiffeId::try_from(text.as_str()).unwrap();
            prop_assert_eq!(id.to_string(), text);
            prop_assert_eq!(&SpiffeId::new(&id.trust_domain(), id.path()).unwrap(), &id);
        }

        #[test]
        fn whatever_parses_is_printed_unchanged(text in "(spiffe://)?\\PC{0,60}") {
            if let Ok(id) = SpiffeId::try_from(text.as_str()) {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = SpiffeId::try_from(text.as_ref());
            let _ = TrustDomain::try_from(text.as_ref());
        }
    }
}
