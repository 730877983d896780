//! The control stream of a link that a peer's gateway opened: answer its probes, say what is ready.
//!
//! The dialler probes, replaces and retires. This end only enforces what the dialler may neglect: a link
//! that is silent is cut, and so is one that outlives the dialler's SVID by more than the grace (V32).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use federation::model::{ClusterName, Readiness, ServiceName};
use federation::snapshot::Snapshot;
use pingora_core::protocols::http::v2::server::HttpSession;
use pingora_http::ResponseHeader;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use trust_bundle::Connection;

use super::age;
use super::message::{Decoder, Hello, InvalidMessage, Message, ServiceReadiness, VERSION_MIN};
use crate::clock;
use crate::connection::until_drained;

/// What this end tells its peers.
#[derive(Debug, Clone)]
pub(super) struct Announced {
    pub(super) hello: watch::Receiver<Hello>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// This process is about to stop: peers shall look for another replica.
    pub(super) leaving: CancellationToken,
}

/// Why the control stream of an accepted link ended otherwise than by the dialler's wish.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Http(#[from] Box<pingora_error::Error>),
    #[error(transparent)]
    Message(#[from] InvalidMessage),
    #[error("the peer did not begin with a hello")]
    NoHello,
    #[error(
        "the peer speaks version {0} of the control stream; hint: {VERSION_MIN} is the oldest understood here"
    )]
    Version(u32),
    #[error("the peer went silent")]
    Silent,
}

/// Serves the control stream until the dialler ends it, the link drains, or something is wrong.
pub(super) async fn serve(
    peer: &ClusterName,
    session: HttpSession,
    connection: &Connection,
    announced: Announced,
) -> Result<(), Ended> {
    let mut stream = Stream { session, decoder: Decoder::default() };
    if stream.session.req_header().method != http::Method::POST {
        stream.refuse(405)?;
        return Ok(());
    }
    stream.accept().await?;
    let ours = announced.hello.borrow().clone();
    stream.say(&Message::Hello(ours)).await?;
    let hello = timeout(HELLO_TIME_MAX, stream.hear()).await.map_err(|_elapsed| Ended::NoHello)??;
    match hello {
        Some(Message::Hello(hello)) if hello.version < VERSION_MIN => {
            return Err(Ended::Version(hello.version));
        }
        Some(Message::Hello(_)) => {}
        _ => return Err(Ended::NoHello),
    }
    converse(peer, &mut stream, connection, announced).await?;
    // An end that the dialler can tell from a failure; its own half may be gone already.
    let _ = stream.session.finish();
    Ok(())
}

/// A link has one control stream; whoever opens more is answered so, and counts for nothing.
pub(super) fn refuse_another(session: HttpSession) {
    // The dialler may be gone already.
    let _ = Stream { session, decoder: Decoder::default() }.refuse(409);
}

async fn converse(
    peer: &ClusterName,
    stream: &mut Stream,
    connection: &Connection,
    mut announced: Announced,
) -> Result<(), Ended> {
    let mut drained = connection.drained();
    let mut said = BTreeMap::new();
    let mut tick = interval(CHANGES_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told_to_leave = false;
    let mut silence = std::pin::pin!(sleep(SILENCE_MAX));
    announced.snapshots.mark_changed();
    loop {
        tokio::select! {
            heard = stream.hear() => {
                silence.set(sleep(SILENCE_MAX));
                match heard? {
                    Some(Message::Probe { number }) => stream.say(&Message::Answer { number }).await?,
                    Some(_) => {}
                    None => return Ok(()),
                }
            }
            _ = tick.tick() => if announced.snapshots.has_changed().unwrap_or(false) {
                let snapshot = announced.snapshots.borrow_and_update().clone();
                for message in changes(&mut said, ready(&snapshot, peer)) {
                    stream.say(&message).await?;
                }
            },
            Ok(()) = announced.hello.changed() => {
                let hello = announced.hello.borrow_and_update().clone();
                stream.say(&Message::Hello(hello)).await?;
            }
            () = announced.leaving.cancelled(), if !told_to_leave => {
                told_to_leave = true;
                stream.say(&Message::Drain).await?;
            }
            () = until_drained(&mut drained) => {
                // HTTP/2 says goodbye by itself; this stream must not be what keeps the link open.
                stream.say(&Message::Drain).await?;
                return Ok(());
            }
            () = silence.as_mut() => return Err(Ended::Silent),
        }
    }
}

/// Cuts a connection that outlives the SVID which authenticated it by more than the grace.
///
/// For every accepted link, next to whatever serves it.
pub async fn cut_when_expired(connection: Arc<Connection>) {
    let Some(identity) = connection.peer() else { return };
    let left = age::ends_after(identity.not_after(), clock::unix());
    let cut = connection.cut_token().clone();
    tokio::select! {
        () = cut.cancelled() => {}
        () = sleep(left) => {
            tracing::warn!(peer = %identity.id(), connection = connection.id(), "outlived its SVID, it is cut");
            connection.cut();
        }
    }
}

struct Stream {
    session: HttpSession,
    decoder: Decoder,
}

impl Stream {
    fn refuse(&mut self, status: u16) -> Result<(), Ended> {
        let header = ResponseHeader::build(status, None)?;
        Ok(self.session.write_response_header(Box::new(header), true)?)
    }

    async fn accept(&mut self) -> Result<(), Ended> {
        self.session.set_write_timeout(Some(SILENCE_MAX));
        let mut header = ResponseHeader::build(200, Some(1))?;
        header.insert_header(http::header::CONTENT_TYPE, "application/x-ndjson")?;
        Ok(self.session.write_response_header(Box::new(header), false)?)
    }

    async fn say(&mut self, message: &Message) -> Result<(), Ended> {
        Ok(self.session.write_body(message.encode(), false).await?)
    }

    /// The next message; none after the last. Nothing is lost when this is dropped while it waits.
    async fn hear(&mut self) -> Result<Option<Message>, Ended> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            let bytes: Option<Bytes> = self.session.read_body_bytes().await?;
            match bytes {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// What is ready of all that the peer may reach, and of nothing else (T7).
fn ready(snapshot: &Snapshot, peer: &ClusterName) -> BTreeMap<ServiceName, (u32, u64)> {
    let Some(view) = snapshot.peers.get(peer) else { return BTreeMap::new() };
    let local = |name| snapshot.service(name).and_then(|service| service.local.as_ref());
    let offered = view.exported_to.iter().filter_map(|name| Some((name, local(name)?)));
    let count = offered.map(|(name, local)| {
        let ready = local.endpoints.iter().filter(|endpoint| endpoint.readiness == Readiness::Ready);
        let (ready, capacity) =
            ready.fold((0u32, 0u64), |(n, sum), endpoint| (n + 1, sum + u64::from(endpoint.weight)));
        (name.clone(), (ready, capacity))
    });
    count.filter(|(_, (ready, _))| *ready > 0).collect()
}

/// Says the difference to what was said before.
fn changes(
    said: &mut BTreeMap<ServiceName, (u32, u64)>,
    now: BTreeMap<ServiceName, (u32, u64)>,
) -> Vec<Message> {
    let gone = said.keys().filter(|name| !now.contains_key(*name)).map(|name| (name, (0, 0)));
    let changed = now.iter().filter(|(name, counts)| said.get(*name) != Some(*counts));
    let services: Vec<_> = gone
        .chain(changed.map(|(name, counts)| (name, *counts)))
        .map(|(name, (ready, capacity))| ServiceReadiness { service: name.clone(), ready, capacity })
        .collect();
    *said = now;
    Message::ready(&services).collect()
}

const HELLO_TIME_MAX: Duration = Duration::from_secs(5);
/// The dialler probes twice a second.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Changes of readiness are gathered for this long.
const CHANGES_INTERVAL: Duration = Duration::from_millis(200);
