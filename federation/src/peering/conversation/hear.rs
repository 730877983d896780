//! The receiving half's decisions: what a message means, before anything is stored.

use super::Message;
use crate::model::ClusterName;
use crate::peering::imports::{Changed, Imports, Refusal, Violation};
use crate::peering::proto::{self, message::Body};
use crate::peering::records::PeerRecord;
use crate::peering::wire;
use crate::store::Revision;

/// What the peer has said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The life of the peer's process.
    pub epoch: u64,
    /// How far it holds our exports, if they are of this life of ours.
    pub held: Option<Revision>,
    /// The bundle of ours that it holds.
    pub bundle_sha256: Option<Vec<u8>>,
    pub bundle_sequence: Option<u64>,
}

/// The first message does not introduce the peer that was authenticated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHello {
    #[error("the first message was another one")]
    Missing,
    #[error("no version of the protocol")]
    Protocol,
    #[error("{expected} says that it is {said}")]
    Another { expected: ClusterName, said: String },
}

/// What a message comes to.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// It is in `imports` and `changed`, or staged.
    Exports,
    /// A service is not taken, and what was held of it stays.
    Refused(Revision, Refusal),
    /// The peer has told everything up to here.
    Reached(Revision),
    /// The peer ended the relationship that these bytes name; see `ends`.
    Farewell(Vec<u8>),
    /// Not about exports.
    Other(Body),
}

/// Reads the first message, which must be that of the peer that was authenticated.
pub fn introduction(
    our_epoch: u64,
    name: &ClusterName,
    first: Option<Message>,
) -> Result<Introduction, InvalidHello> {
    let Some(Message { body: Some(Body::Hello(hello)), .. }) = first else {
        return Err(InvalidHello::Missing);
    };
    if hello.protocol == 0 {
        return Err(InvalidHello::Protocol);
    }
    if hello.cluster != name.as_str() {
        let said = wire::shown(&hello.cluster);
        return Err(InvalidHello::Another { expected: name.clone(), said });
    }
    let held = hello.held.filter(|held| held.epoch == our_epoch).map(|held| Revision(held.revision));
    let (bundle_sequence, bundle_sha256) =
        hello.bundle.map_or((None, None), |bundle| (bundle.sequence, Some(bundle.sha256)));
    Ok(Introduction { epoch: hello.epoch, held, bundle_sha256, bundle_sequence })
}

/// Judges a message; what an honest peer cannot say ends the stream.
pub fn hear(body: Body, imports: &mut Imports, changed: &mut Changed) -> Result<Heard, Violation> {
    match body {
        Body::Service(said) => {
            let revision = Revision(said.revision);
            match imports.service(said, changed)? {
                Ok(()) => Ok(Heard::Exports),
                Err(refusal) => Ok(Heard::Refused(revision, refusal)),
            }
        }
        Body::ServiceRemoved(said) => imports.removed(&said, changed).map(|()| Heard::Exports),
        Body::FullBegin(proto::FullBegin {}) => imports.full_begin().map(|()| Heard::Exports),
        Body::FullEnd(said) => imports.full_end(Revision(said.revision), changed).map(|()| Heard::Exports),
        Body::Heartbeat(said) => Ok(Heard::Reached(Revision(said.revision))),
        Body::Removed(said) => Ok(Heard::Farewell(said.relationship)),
        other => Ok(Heard::Other(other)),
    }
}

/// Does a farewell end this relationship: one that comes late must not end the next.
///
/// An older program does not say which one it means.
pub fn ends(said: &[u8], record: &PeerRecord) -> bool {
    said.is_empty() || said == record.relationship.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> proto::Hello {
        let held = Some(proto::Position { epoch: 7, revision: 3 });
        proto::Hello { protocol: 1, cluster: "cloud".into(), epoch: 9, held, bundle: None }
    }

    fn heard(hello: proto::Hello) -> Result<Introduction, InvalidHello> {
        let first = wire::message(Body::Hello(hello));
        introduction(7, &ClusterName::try_from("cloud").unwrap(), Some(first))
    }

    #[test]
    fn a_peer_is_whom_its_certificate_names() {
        assert!(heard(hello()).is_ok());
        let other = heard(proto::Hello { cluster: "other\u{1b}[2J".into(), ..hello() }).unwrap_err();
        assert!(other.to_string().contains("other\\u{1b}"), "{other}");
        assert!(heard(proto::Hello { protocol: 0, ..hello() }).is_err());
        assert!(heard(proto::Hello { protocol: 99, ..hello() }).is_ok(), "a newer one speaks ours too");
        let cloud = ClusterName::try_from("cloud").unwrap();
        assert_eq!(introduction(7, &cloud, None), Err(InvalidHello::Missing));
    }

    #[test]
    fn what_is_held_of_another_life_counts_for_nothing() {
        assert_eq!(heard(hello()).unwrap().held, Some(Revision(3)));
        let held = Some(proto::Position { epoch: 8, revision: 3 });
        assert_eq!(heard(proto::Hello { held, ..hello() }).unwrap().held, None);
    }
}
