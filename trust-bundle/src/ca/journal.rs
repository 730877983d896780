//! What a CA must not forget: the number of its bundle, and until when its certificates may live.
//!
//! Other content of the bundle means another number (B2), whatever changed it: a setting, a root, a
//! newer version of this program. So the journal holds the digest of what was published last.
//!
//! Only the latest end per authority has to be durable (RT4). It is written rounded up, so that most
//! certificates need no write; an authority is then retired a little later than it could be.

use std::collections::BTreeMap;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::bundle::AuthorityId;
use crate::digest::Hex;
use crate::spiffe_id::TrustDomain;

/// The layout of the file; a file with a higher number was written by a newer version.
const VERSION: u32 = 1;

/// Ends are rounded up by this part of the lifetime that was asked for.
const ROUNDING_PART: u32 = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    version: u32,
    trust_domain: TrustDomain,
    sequence: u64,
    /// SHA-256 in hex of the bundle with that number, once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published: Option<String>,
    /// Seconds since 1970 per authority.
    latest_not_after: BTreeMap<AuthorityId, u64>,
}

/// What the journal says to a bundle under its present number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Publishing {
    /// It was published under this number.
    Known,
    /// Nothing was published under this number yet; now this is.
    First(Journal),
    /// Other content was published under this number: here is the next one.
    NeedsNumber(Journal),
}

/// Why the journal of a CA cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJournal {
    /// A newer version of this software wrote it.
    #[error("version {0} of the journal is newer than this program knows (version {VERSION})")]
    Newer(u32),
    /// It is damaged.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
}

impl Journal {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            version: VERSION,
            trust_domain,
            sequence: 1,
            published: None,
            latest_not_after: BTreeMap::new(),
        }
    }

    pub(super) fn parse(content: &[u8]) -> Result<Self, InvalidJournal> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |e: serde_json::Error| InvalidJournal::Damaged(e.to_string());
        let Versioned { version } = serde_json::from_slice(content).map_err(damaged)?;
        if version > VERSION {
            return Err(InvalidJournal::Newer(version));
        }
        serde_json::from_slice(content).map_err(damaged)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("strings and numbers always serialise");
        json.push(b'\n');
        json
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The journal of a bundle with this digest under the present number, if that is news.
    pub(super) fn publishing(&self, digest: &[u8; 32]) -> Publishing {
        let digest = Hex(digest).to_string();
        match &self.published {
            Some(published) if *published == digest => Publishing::Known,
            Some(_) => Publishing::NeedsNumber(Self {
                sequence: self.sequence.saturating_add(1),
                published: None,
                ..self.clone()
            }),
            None => Publishing::First(Self { published: Some(digest), ..self.clone() }),
        }
    }

    /// Whether anybody may have seen anything of this CA.
    pub(super) fn is_in_use(&self) -> bool {
        self.published.is_some() || !self.latest_not_after.is_empty()
    }

    /// No certificate of this authority lives longer; none means that it has issued nothing.
    pub(super) fn latest_not_after(&self, authority: &AuthorityId) -> Option<UnixTime> {
        let seconds = self.latest_not_after.get(authority)?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(*seconds)))
    }

    /// The journal with this certificate in it, if it does not cover it already.
    pub(super) fn with(&self, authority: AuthorityId, not_after: UnixTime, ttl: Duration) -> Option<Self> {
        if self.latest_not_after(&authority).is_some_and(|latest| latest >= not_after) {
            return None;
        }
        let rounded = not_after.as_secs().saturating_add((ttl / ROUNDING_PART).as_secs());
        let mut journal = self.clone();
        journal.latest_not_after.insert(authority, rounded);
        Some(journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn covers_the_latest_end_and_is_rarely_written() {
        let (one, other) = (AuthorityId::from([1; 32]), AuthorityId::from([2; 32]));
        let ttl = Duration::from_secs(3600);
        let journal = Journal::new(TrustDomain::try_from("td").unwrap());
        assert!(!journal.is_in_use());
        let journal = journal.with(one, at(10_000), ttl).unwrap();
        assert!(journal.is_in_use());
        assert_eq!(journal.latest_not_after(&one), Some(at(10_450)));
        assert_eq!(journal.with(one, at(10_450), ttl), None);
        assert_eq!(journal.with(one, at(10_451), ttl).unwrap().latest_not_after(&one), Some(at(10_901)));
        assert_eq!(journal.latest_not_after(&other), None);
    }

    #[test]
    fn b2_other_content_gets_another_number() {
        let journal = Journal::new(TrustDomain::try_from("td").unwrap());
        let Publishing::First(journal) = journal.publishing(&[1; 32]) else { panic!("{journal:?}") };
        assert!(journal.is_in_use());
        assert_eq!(journal.publishing(&[1; 32]), Publishing::Known);
        let Publishing::NeedsNumber(next) = journal.publishing(&[2; 32]) else { panic!("{journal:?}") };
        assert_eq!((journal.sequence(), next.sequence()), (1, 2));
        assert!(matches!(next.publishing(&[3; 32]), Publishing::First(_)));
    }

    #[test]
    fn survives_a_round_trip_and_refuses_the_unknown() {
        let journal = Journal::new(TrustDomain::try_from("td").unwrap());
        let journal = journal.with(AuthorityId::from([7; 32]), at(5), Duration::from_secs(1)).unwrap();
        assert_eq!(Journal::parse(&journal.to_json()).unwrap(), journal);
        let newer = br#"{"version":2,"something":"else"}"#;
        assert_eq!(Journal::parse(newer), Err(InvalidJournal::Newer(2)));
        for damaged in ["", "{}", "[]", r#"{"version":1}"#, r#"{"version":-1}"#] {
            assert!(
                matches!(Journal::parse(damaged.as_bytes()), Err(InvalidJournal::Damaged(_))),
                "{damaged}"
            );
        }
    }
}
