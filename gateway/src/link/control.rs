//! The control stream of a link, from the end that dialled: hello, probes, what the peer says of itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use pingora_core::connectors::http::v2::ConnectionRef;
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_http::RequestHeader;
use tokio::time::timeout;

use super::message::{Decoder, Hello, InvalidMessage, Message, VERSION_MIN};

/// The path of the one long request that every link for HTTP carries.
pub const CONTROL_PATH: &str = "/isthmus.link.v1/Control";

/// An open control stream.
pub(super) struct Control {
    session: Http2Session,
    send: SendStream<Bytes>,
    decoder: Decoder,
    /// Probes without an answer, and when they were sent.
    unanswered: VecDeque<(u64, Instant)>,
    probes: u64,
}

/// Why a link has no control stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("the link takes no streams")]
    NoStream,
    #[error("the peer did not say hello in time")]
    TimedOut,
    #[error("the peer answered the control request with {0}")]
    Status(u16),
    #[error("the peer ended the control stream")]
    Ended,
    #[error("the peer said something else before hello")]
    NoHello,
    #[error(
        "the peer speaks version {0} of the control stream; hint: {VERSION_MIN} is the oldest understood here"
    )]
    Version(u32),
    #[error("the control stream broke: {0}")]
    Broken(String),
    #[error(transparent)]
    Message(#[from] InvalidMessage),
}

impl Control {
    /// Opens the stream and exchanges hellos; also says how long that took.
    pub(super) async fn open(
        http2: &ConnectionRef,
        authority: &str,
        ours: Hello,
        started: Instant,
        now: impl Fn() -> Instant,
    ) -> Result<(Self, Hello, Duration), ControlError> {
        let opened = timeout(HELLO_TIME_MAX, Self::exchange(http2, authority, ours));
        let (control, hello) = opened.await.map_err(|_elapsed| ControlError::TimedOut)??;
        Ok((control, hello, now().duration_since(started)))
    }

    async fn exchange(
        http2: &ConnectionRef,
        authority: &str,
        ours: Hello,
    ) -> Result<(Self, Hello), ControlError> {
        let mut session = http2.spawn_stream().await.map_err(broken)?.ok_or(ControlError::NoStream)?;
        session.write_request_header(Box::new(request(authority)?), false).map_err(broken)?;
        let send = session.take_request_body_writer().ok_or(ControlError::NoStream)?;
        let mut control =
            Self { session, send, decoder: Decoder::default(), unanswered: VecDeque::new(), probes: 0 };
        control.say(&Message::Hello(ours))?;
        control.session.read_response_header().await.map_err(broken)?;
        let status = control.session.response_header().map_or(0, |header| header.status.as_u16());
        if status != 200 {
            return Err(ControlError::Status(status));
        }
        match control.hear().await? {
            Some(Message::Hello(hello)) if hello.version < VERSION_MIN => {
                Err(ControlError::Version(hello.version))
            }
            Some(Message::Hello(hello)) => Ok((control, hello)),
            Some(_) => Err(ControlError::NoHello),
            None => Err(ControlError::Ended),
        }
    }

    /// The next message; none after the last. Nothing is lost when this is dropped while it waits.
    pub(super) async fn hear(&mut self) -> Result<Option<Message>, ControlError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            match self.session.read_response_body().await.map_err(broken)? {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Ok(None),
            }
        }
    }

    /// Asks for a sign of life.
    pub(super) fn probe(&mut self, now: Instant) -> Result<(), ControlError> {
        if self.unanswered.len() >= UNANSWERED_MAX {
            return Ok(()); // nobody reads; more would only fill our memory
        }
        self.probes += 1;
        self.unanswered.push_back((self.probes, now));
        self.say(&Message::Probe { number: self.probes })
    }

    /// The round trip that an answer proves; none if it answers nothing that was asked.
    pub(super) fn answered(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let at = self.unanswered.iter().position(|(asked, _)| *asked == number)?;
        let (_, sent) = self.unanswered.drain(..=at).next_back()?;
        Some(now.duration_since(sent))
    }

    pub(super) fn answer(&mut self, number: u64) -> Result<(), ControlError> {
        self.say(&Message::Answer { number })
    }

    pub(super) fn hello(&mut self, ours: Hello) -> Result<(), ControlError> {
        self.say(&Message::Hello(ours))
    }

    /// Ends our half in a way that the peer can tell from a failure, and waits for its half.
    pub(super) async fn finish(&mut self) {
        if self.send.send_data(Bytes::new(), true).is_err() {
            return;
        }
        let rest = async { while let Ok(Some(_)) = self.hear().await {} };
        // Dropped without, the stream would be reset; that is all that is lost.
        let _ = timeout(FAREWELL_TIME_MAX, rest).await;
    }

    /// What we say is small and seldom, so it never waits for capacity; h2 keeps it meanwhile.
    fn say(&mut self, message: &Message) -> Result<(), ControlError> {
        self.send.send_data(message.encode(), false).map_err(|error| ControlError::Broken(error.to_string()))
    }
}

fn request(authority: &str) -> Result<RequestHeader, ControlError> {
    let mut request = RequestHeader::build("POST", CONTROL_PATH.as_bytes(), None).map_err(broken)?;
    request.insert_header(http::header::HOST, authority).map_err(broken)?;
    request.insert_header(http::header::CONTENT_TYPE, "application/x-ndjson").map_err(broken)?;
    Ok(request)
}

fn broken(error: Box<pingora_error::Error>) -> ControlError {
    ControlError::Broken(error.to_string())
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("unanswered", &self.unanswered.len()).finish_non_exhaustive()
    }
}

const FAREWELL_TIME_MAX: Duration = Duration::from_secs(1);
const HELLO_TIME_MAX: Duration = Duration::from_secs(5);
/// Half a minute of probes; a link that is silent for so long is cut anyway.
const UNANSWERED_MAX: usize = 60;
