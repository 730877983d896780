//! What the two ends of a link tell each other on its control stream.
//!
//! One JSON object a line. There are four small messages a second on a link, so their size does not
//! matter, and what does is that a person can read a capture and that an older end skips what a newer
//! one says: an unknown `type` and unknown fields are passed over (T23), everything else must be exactly
//! right or the stream ends. A line is at most 16 KiB; what does not fit is said in several messages.

use bytes::{Buf, Bytes, BytesMut};
use federation::model::ServiceName;
use serde::{Deserialize, Serialize};

/// The version that we speak; the other end's may differ as long as it is not older than `VERSION_MIN`.
pub(super) const VERSION: u32 = 1;
pub(super) const VERSION_MIN: u32 = 1;

/// One line of the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Message {
    /// The first message of each end; again whenever the number of replicas has changed.
    Hello(Hello),
    /// To be answered at once.
    Probe {
        number: u64,
    },
    Answer {
        number: u64,
    },
    /// What the accepting end can serve; later messages say only what changed.
    Ready {
        services: Vec<ServiceReadiness>,
    },
    /// The sender is about to go: open no more streams here, and find another replica.
    Drain,
    /// Said by a newer end.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) replica: ReplicaId,
    /// How many gateways the sender's cluster runs.
    pub(super) replicas: u32,
}

/// Tells the gateways of one cluster apart; new with each start of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplicaId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a replica id is 1 to 64 letters, digits and '-'")]
pub struct InvalidReplicaId;

/// How much of a service is ready behind the sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReadiness {
    pub service: ServiceName,
    /// Ready endpoints; 0 also when the service is gone or no longer offered.
    pub ready: u32,
    /// The sum of their weights.
    pub capacity: u64,
}

/// Why a control stream cannot go on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidMessage {
    #[error("a message is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("not a message: {0}")]
    Malformed(String),
    #[error("a message names more than {SERVICES_PER_MESSAGE_MAX} services")]
    TooManyServices,
    #[error("a cluster of {0} replicas; hint: 1 to {REPLICAS_MAX} are possible")]
    Replicas(u32),
}

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let mut line = serde_json::to_vec(self).expect("a message has only string keys");
        line.push(b'\n');
        line.into()
    }

    /// Says any number of services, in as many messages as it takes.
    pub(super) fn ready(services: &[ServiceReadiness]) -> impl Iterator<Item = Self> {
        services.chunks(SERVICES_PER_MESSAGE_MAX).map(|some| Self::Ready { services: some.to_vec() })
    }

    fn decode(line: &[u8]) -> Result<Self, InvalidMessage> {
        let message: Self = serde_json::from_slice(line)
            .map_err(|error| InvalidMessage::Malformed(error.to_string().chars().take(200).collect()))?;
        match &message {
            Self::Ready { services } if services.len() > SERVICES_PER_MESSAGE_MAX => {
                Err(InvalidMessage::TooManyServices)
            }
            Self::Hello(hello) if hello.replicas == 0 || hello.replicas > REPLICAS_MAX => {
                Err(InvalidMessage::Replicas(hello.replicas))
            }
            _ => Ok(message),
        }
    }
}

impl ReplicaId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReplicaId {
    type Error = InvalidReplicaId;

    fn try_from(text: String) -> Result<Self, InvalidReplicaId> {
        let valid = (1..=REPLICA_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if valid { Ok(Self(text)) } else { Err(InvalidReplicaId) }
    }
}

impl From<ReplicaId> for String {
    fn from(id: ReplicaId) -> Self {
        id.0
    }
}

/// Finds messages in the bytes of a control stream, wherever they were cut.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    unread: BytesMut,
    /// So many bytes from the start are known to hold no end of line.
    searched: usize,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next whole message; none until more bytes come.
    pub(super) fn next(&mut self) -> Result<Option<Message>, InvalidMessage> {
        let Some(end) = self.unread[self.searched..].iter().position(|b| *b == b'\n') else {
            self.searched = self.unread.len();
            let too_long = self.searched > LINE_BYTES_MAX;
            return if too_long { Err(InvalidMessage::TooLong) } else { Ok(None) };
        };
        let line = self.unread.split_to(self.searched + end);
        self.unread.advance(1);
        self.searched = 0;
        if line.len() > LINE_BYTES_MAX {
            return Err(InvalidMessage::TooLong);
        }
        Message::decode(&line).map(Some)
    }
}

/// Room for the most services that one message may name, with long names.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;
const SERVICES_PER_MESSAGE_MAX: usize = 64;
/// No cluster runs more gateways; a larger count is a mistake or an attack.
const REPLICAS_MAX: u32 = 1024;
const REPLICA_ID_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Message>, InvalidMessage> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        std::iter::from_fn(|| decoder.next().transpose()).collect()
    }

    fn hello(replicas: u32) -> Message {
        let replica = ReplicaId::try_from("gw-0".to_owned()).unwrap();
        Message::Hello(Hello { version: VERSION, replica, replicas })
    }

    fn service(name: &str) -> ServiceReadiness {
        ServiceReadiness { service: name.parse().unwrap(), ready: u32::MAX, capacity: u64::MAX }
    }

    #[test]
    fn messages_read_back_as_written() {
        let ready = Message::Ready { services: vec![service("cart.shop")] };
        let said = [
            hello(3),
            Message::Probe { number: 7 },
            Message::Answer { number: u64::MAX },
            ready,
            Message::Drain,
        ];
        let bytes: Vec<u8> = said.iter().flat_map(Message::encode).collect();
        assert_eq!(decode(&bytes).unwrap(), said);
    }

    #[test]
    fn the_wire_is_readable_and_fixed() {
        let wire = |message: Message| String::from_utf8(message.encode().to_vec()).unwrap();
        assert_eq!(wire(Message::Probe { number: 7 }), "{\"type\":\"probe\",\"number\":7}\n");
        assert_eq!(
            wire(hello(2)),
            "{\"type\":\"hello\",\"version\":1,\"replica\":\"gw-0\",\"replicas\":2}\n"
        );
    }

    #[test]
    fn what_a_newer_end_says_is_passed_over() {
        let said =
            b"{\"type\":\"weather\",\"sunny\":true}\n{\"type\":\"probe\",\"number\":1,\"colour\":\"red\"}\n";
        assert_eq!(decode(said).unwrap(), [Message::Unknown, Message::Probe { number: 1 }]);
    }

    #[test]
    fn everything_else_must_be_exact() {
        for wrong in [
            "",
            "{}",
            "[]",
            "null",
            "probe",
            "{\"type\":\"probe\"}",
            "{\"type\":\"probe\",\"number\":-1}",
            "{\"type\":\"probe\",\"number\":1}{}",
            "{\"type\":\"hello\",\"version\":1,\"replica\":\"\",\"replicas\":1}",
            "{\"type\":\"hello\",\"version\":1,\"replica\":\"a b\",\"replicas\":1}",
            "{\"type\":\"hello\",\"version\":1,\"replica\":\"a\",\"replicas\":0}",
            "{\"type\":\"hello\",\"version\":1,\"replica\":\"a\",\"replicas\":100000}",
            "{\"type\":\"ready\",\"services\":[{\"service\":\"../x\",\"ready\":1,\"capacity\":1}]}",
            "\u{1}",
        ] {
            assert!(decode(format!("{wrong}\n").as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_line_is_bounded_with_and_without_an_end() {
        let long = vec![b' '; LINE_BYTES_MAX + 1];
        assert_eq!(decode(&long), Err(InvalidMessage::TooLong));
        assert_eq!(decode(&[long, b"\n".to_vec()].concat()), Err(InvalidMessage::TooLong));
        assert_eq!(decode(&vec![b' '; LINE_BYTES_MAX]), Ok(vec![]));
    }

    #[test]
    fn many_services_are_said_in_messages_that_fit() {
        let name = format!("{0}.{0}", "x".repeat(63));
        let services = vec![service(&name); 1000];
        let messages: Vec<_> = Message::ready(&services).collect();
        assert!(messages.iter().all(|message| message.encode().len() <= LINE_BYTES_MAX));
        let said: usize = messages
            .iter()
            .map(|message| match message {
                Message::Ready { services } => services.len(),
                _ => 0,
            })
            .sum();
        assert_eq!(said, 1000);
        let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
        assert_eq!(decode(&bytes).unwrap(), messages);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_text_that_looks_like_messages_panics(text in "(\\{\"type\":\"(hello|probe|ready|drain)\"[\\PC\\n]{0,40}\\}?\\n){0,5}") {
            let _ = decode(text.as_bytes());
        }

        #[test]
        fn cutting_changes_nothing(cuts in proptest::collection::vec(1usize..40, 1..40)) {
            let said = [hello(3), Message::Probe { number: 7 }, Message::Drain, Message::Answer { number: 7 }];
            let bytes: Vec<u8> = said.iter().flat_map(Message::encode).collect();
            let (mut decoder, mut heard, mut rest) = (Decoder::default(), Vec::new(), &bytes[..]);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, later) = rest.split_at(cut.min(rest.len()));
                decoder.push(piece);
                rest = later;
                while let Some(message) = decoder.next().unwrap() {
                    heard.push(message);
                }
            }
            prop_assert_eq!(heard, said);
        }
    }
}
