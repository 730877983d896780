//! A stream while it lasts: states come in, what the gateway sees goes out.

use std::future::Future;
use std::pin::Pin;

use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::Shared;
use super::inbox::{Inbox, renew_within};
use super::intake::{Arrived, Arriving, Intake};
use super::link::{Link, NoLink};
use crate::clock;
use crate::control::message::{FederationSays, Violation, text};
use crate::control::proto::{FromFederation, FromGateway};
use crate::control::state::{InvalidState, Position};
use crate::model::GatewayAddress;

/// Full states that are asked for on one stream; who sends bad ones again and again is left.
const RESYNCS_MAX: u32 = 3;

/// How a stream, or the attempt at one, ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("{0}")]
    Unreachable(NoLink),
    #[error("it does not lead")]
    NotLeader { leaders: Vec<GatewayAddress> },
    #[error("our certificate is about to be renewed")]
    Renewing,
    #[error("{reason}")]
    Ended { was_led: bool, reason: String },
}

type Reading = Pin<Box<dyn Future<Output = Result<Arrived, InvalidState>> + Send>>;

struct Session<'a> {
    shared: &'a Shared,
    address: &'a GatewayAddress,
    inbox: &'a mut Inbox,
    intake: &'a mut Intake,
    /// A change that is announced and not yet complete; none while one is skipped.
    arriving: Option<(Arriving, bool)>,
    /// Bytes that are still to come of a change that is of no use.
    skipping: usize,
    reading: Option<Reading>,
    /// Changes are of no use until the full state has come.
    resyncing: bool,
    resyncs: u32,
    was_led: bool,
}

pub(super) async fn run(
    shared: &Shared,
    address: &GatewayAddress,
    link: Link,
    inbox: &mut Inbox,
    intake: &mut Intake,
) -> End {
    let Link { mut inbound, outbound, connection } = link;
    inbox.begin(intake.position());
    let settings = shared.settings;
    let renew_at =
        instant() + renew_within(&shared.svid.current(), clock::unix_now().as_secs(), rand::random());
    let mut heartbeat = tokio::time::interval(settings.heartbeat);
    let (mut heard_at, mut takes) = (instant(), true);
    let mut session = Session {
        shared,
        address,
        inbox,
        intake,
        arriving: None,
        skipping: 0,
        reading: None,
        resyncing: false,
        resyncs: 0,
        was_led: false,
    };
    let ended = loop {
        let reading = session.reading.is_some();
        tokio::select! {
            biased;
            () = connection.cut_token().cancelled() => break "cut, because trust has changed".to_owned(),
            read = async { session.reading.as_mut().expect("checked").await }, if reading => {
                heard_at = instant();
                if let Err(reason) = session.take_in(read) {
                    break reason;
                }
            }
            permit = outbound.reserve(), if takes && !session.inbox.is_empty() => match permit {
                Ok(permit) => if let Some(body) = session.inbox.next() {
                    permit.send(FromGateway { body: Some(body) });
                },
                // What it has said before, for example who leads, is still to be read.
                Err(_closed) => takes = false,
            },
            // While a state is read nothing more is taken, so that memory holds one.
            heard = inbound.message(), if !reading => {
                heard_at = instant();
                match session.hear(heard) {
                    Ok(None) => {}
                    Ok(Some(leaders)) => return End::NotLeader { leaders },
                    Err(reason) => break reason,
                }
            }
            Some(report) = session.inbox.reports.recv() => session.inbox.note(report),
            Some(request) = session.inbox.signing.recv(), if session.inbox.has_room() => session.inbox.ask(request),
            _ = heartbeat.tick() => session.inbox.beat(),
            () = sleep_until(renew_at) => return End::Renewing,
            () = sleep_until(heard_at + settings.silence_max), if !reading => {
                break "nothing came for too long".to_owned();
            }
        }
    };
    End::Ended { was_led: session.was_led, reason: ended }
}

impl Session<'_> {
    /// Takes one message in; some addresses if another process leads.
    fn hear(
        &mut self,
        heard: Result<Option<FromFederation>, Status>,
    ) -> Result<Option<Vec<GatewayAddress>>, String> {
        let message = heard.map_err(|status| text(status.message()))?;
        let message = message.ok_or_else(|| "the stream is closed".to_owned())?;
        let said = FederationSays::try_from(message).map_err(|violation| violation.to_string())?;
        if let FederationSays::NotLeader { leaders } = said {
            return Ok(Some(leaders));
        }
        if !self.was_led {
            self.was_led = true;
            self.shared.connected(self.address);
        }
        match said {
            FederationSays::Update { base, position, length } => self.begin(base, position, length)?,
            FederationSays::Chunk(bytes) => self.chunk(&bytes)?,
            FederationSays::Signed { number, answer } => self.inbox.answered(number, answer),
            FederationSays::NotLeader { .. } | FederationSays::Heartbeat | FederationSays::Unknown => {}
        }
        Ok(None)
    }

    fn begin(&mut self, base: Option<Position>, position: Position, length: usize) -> Result<(), String> {
        (self.arriving, self.skipping) = (None, 0);
        if position.generation < self.intake.generation() {
            let ours = self.intake.generation();
            return Err(format!("it leads with generation {}, older than ours, {ours}", position.generation));
        }
        let held = self.intake.position().map(|held| held.digest);
        let full = base.is_none();
        if !full && self.resyncing {
            self.skipping = length;
        } else if !full && base.map(|base| base.digest) != held {
            self.skipping = length;
            self.resync("it is a change of something else than what we hold".to_owned())?;
        } else {
            self.resyncing = false;
            self.arriving = Some((Arriving::new(position, length), full));
            self.finish();
        }
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), String> {
        if let Some((arriving, _)) = &mut self.arriving {
            if arriving.push(bytes) {
                return Err(Violation::OutOfOrder("more than was announced").to_string());
            }
            self.finish();
            return Ok(());
        }
        let left = self.skipping.checked_sub(bytes.len());
        self.skipping = left.ok_or_else(|| Violation::OutOfOrder("a chunk").to_string())?;
        Ok(())
    }

    /// Reads a change that is complete.
    fn finish(&mut self) {
        if let Some((arriving, full)) = self.arriving.take_if(|(arriving, _)| arriving.is_complete()) {
            self.reading = Some(Box::pin(self.intake.read(arriving, full)));
        }
    }

    fn take_in(&mut self, read: Result<Arrived, InvalidState>) -> Result<(), String> {
        self.reading = None;
        match read {
            Ok(arrived) => {
                self.intake.publish(arrived);
                if let Some(position) = self.intake.position() {
                    self.inbox.applied(position, &self.intake.snapshot());
                }
                Ok(())
            }
            Err(invalid) => self.resync(invalid.to_string()),
        }
    }

    fn resync(&mut self, reason: String) -> Result<(), String> {
        tracing::warn!(
            reason,
            "a change of the state is refused; asking for all of it, serving what is held"
        );
        self.resyncs += 1;
        if self.resyncs > RESYNCS_MAX {
            return Err(format!("its states are of no use: {reason}"));
        }
        self.resyncing = true;
        self.inbox.resync(reason);
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the session is the rim; it measures silence")]
fn instant() -> Instant {
    Instant::now()
}
