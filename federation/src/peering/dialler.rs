//! Keeps a stream to one peer: dials when there is none, and again before certificates end.
//!
//! There is no stream ─► dial, with growing pauses and full jitter. There is one that the peer dialled
//! ─► nothing to do. There is one that we dialled ─► dial the next in time: it takes the place of the
//! former and goes on where that one was, so that the peer never becomes suspect for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rustls::pki_types::UnixTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use trust_bundle::{ExpectedPeer, Origin, PeerIdentity, PeerSide, Rejection, authenticate, client_config};

use super::dial::{self, DialError};
use super::io::Terminated;
use super::peers::{PeerState, Seat};
use super::proto::peering_client::PeeringClient;
use super::relationships::LoadError;
use super::seat::{Claim, Dialled, wants_dial};
use super::stream::{self, HELLO_TIME, Line, MESSAGE_BYTES_MAX, OUTBOUND_MAX, Session, StreamEnd};
use super::us::{Us, instant};
use crate::clock;
use crate::model::GatewayAddress;

/// The owner of peering's connections in the registry.
pub(super) const OWNER: &str = "peering";
/// A new stream is dialled after this part of the time that the shorter certificate leaves; it varies
/// by the second number, so that peers do not all come at once.
const REDIAL_AT: (f64, f64) = (0.6, 0.15);

#[derive(Debug, thiserror::Error)]
enum NoStream {
    #[error("the peer advertises no address that may be dialled")]
    NoAddress,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the peer is not believed: {0}")]
    NotBelieved(#[from] Rejection),
    #[error("no HTTP/2 with the peer: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("the peer refused the stream: {0}")]
    Refused(String),
    #[error("there is a stream already")]
    Taken,
    #[error("the relationship cannot be read: {0}")]
    Unread(#[from] LoadError),
    #[error("the relationship is over, or has begun anew")]
    Over,
    #[error("the peer did not answer in time")]
    Slow,
    #[error(transparent)]
    Ended(#[from] StreamEnd),
}

/// An open stream: when the next is due, and what is resolved when this one ends.
struct Open {
    redial_at: Instant,
    ended: oneshot::Receiver<()>,
}

/// Works until the relationship is over.
pub(super) async fn keep_stream(us: Arc<Us>, peer: Arc<PeerState>) {
    let over = peer.over.clone();
    tokio::select! {
        () = over.cancelled() => {}
        () = keep(&us, &peer) => {}
    }
}

async fn keep(us: &Arc<Us>, peer: &Arc<PeerState>) {
    let mut failures = 0;
    loop {
        wait_until_wanted(peer).await;
        match open(us, peer).await {
            Ok(stream) => {
                failures = 0;
                let begun = instant();
                tokio::select! {
                    _ = stream.ended => {}
                    () = tokio::time::sleep_until(stream.redial_at.into()) => continue,
                }
                // One that ended as soon as it began is no success.
                if instant().saturating_duration_since(begun) < HELLO_TIME {
                    failures = 1;
                }
            }
            Err(NoStream::Taken) => {}
            Err(reason) => {
                failures += 1;
                tracing::info!(peer = %peer.name, failures, %reason, "no stream to the peer");
            }
        }
        if failures > 0 {
            tokio::time::sleep(us.deps.settings.redial.after(failures, rand::random())).await;
        }
    }
}

/// Returns when nobody has a stream and the relationship is one; our own may be replaced any time.
async fn wait_until_wanted(peer: &PeerState) {
    let (mut seats, mut records) = (peer.seats(), peer.records());
    loop {
        let there = seats.borrow_and_update().as_ref().map(Seat::dialled);
        if wants_dial(&records.borrow_and_update().record.peer, there) {
            return;
        }
        tokio::select! {
            changed = seats.changed() => if changed.is_err() { return },
            changed = records.changed() => if changed.is_err() { return },
        }
    }
}

/// Tries the peer's addresses in random order, and starts a stream on the first that answers.
async fn open(us: &Arc<Us>, peer: &Arc<PeerState>) -> Result<Open, NoStream> {
    if !us.refresh(peer).await? {
        return Err(NoStream::Over);
    }
    let mut addresses = peer.record().record.peer.gateways;
    addresses.shuffle(&mut rand::rng());
    let mut last = NoStream::NoAddress;
    for address in &addresses {
        match open_at(us, peer, address).await {
            Ok(open) => return Ok(open),
            Err(NoStream::Taken) => return Err(NoStream::Taken),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

async fn open_at(us: &Arc<Us>, peer: &Arc<PeerState>, address: &GatewayAddress) -> Result<Open, NoStream> {
    let record = peer.record().record;
    let svid = &us.deps.federation_svid;
    // What is shown may be renewed during the handshake, then it only lives longer than this.
    let ours_until = svid.current().not_after();
    let expected = ExpectedPeer::Exact(record.peer.federation_id.clone());
    let config = client_config(&us.deps.trust, svid, expected, &[b"h2"]);
    let name = dial::server_name("federation", &peer.name);
    let rules = Some((&us.deps.address_rules, record.near));
    let dialled = dial::dial(address, rules, config, name.clone()).await?;
    let now = clock::unix_now();
    let identity = authenticate(&us.deps.trust, dialled.tls.get_ref().1, PeerSide::Server, now)?;
    if identity.id() != &record.peer.federation_id {
        return Err(Rejection::Unexpected(identity.id().clone()).into());
    }
    let valid_until = if ours_until < identity.not_after() { ours_until } else { identity.not_after() };
    let redial_at = redial_at(us, now, valid_until);
    let connection = us.deps.registry.open(Origin::Dialled, OWNER, Some(identity.clone()));
    still_believed(us, &identity)?;
    let stream = Terminated::new(dialled.tls, (), Some(&connection));
    let channel =
        timeout(HELLO_TIME, dial::channel(&name, stream)).await.map_err(|_elapsed| NoStream::Slow)??;
    let client = PeeringClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let ended = start(us, peer, client, connection, valid_until).await?;
    Ok(Open { redial_at, ended })
}

/// Trust may have been removed between the handshake and our entry in the registry.
pub(super) fn still_believed(us: &Us, identity: &PeerIdentity) -> Result<(), Rejection> {
    let believed = us.deps.trust.load().vouches_for(identity);
    if believed { Ok(()) } else { Err(Rejection::UnknownTrustDomain(identity.trust_domain().clone())) }
}

fn redial_at(us: &Us, now: UnixTime, valid_until: UnixTime) -> Instant {
    let left = Duration::from_secs(valid_until.as_secs().saturating_sub(now.as_secs()));
    let part = REDIAL_AT.0 + REDIAL_AT.1 * rand::random::<f64>();
    instant() + left.min(us.deps.settings.stream_age_max).mul_f64(part)
}

/// Takes the place of the one stream, introduces us, and runs the stream in a task of its own.
async fn start(
    us: &Arc<Us>,
    peer: &Arc<PeerState>,
    mut client: PeeringClient<tonic::transport::Channel>,
    connection: Arc<trust_bundle::Connection>,
    valid_until: UnixTime,
) -> Result<oneshot::Receiver<()>, NoStream> {
    let claim = Claim { dialled: Dialled::ByUs, epoch: None };
    let seated = peer.take_seat(&us.deps.cluster, claim).ok_or(NoStream::Taken)?;
    // The former stream lets go of it at its next message boundary.
    let imports = peer.imports.clone().lock_owned().await;
    let (outbound, mut messages) = mpsc::channel(OUTBOUND_MAX);
    stream::say(us, peer, &imports, &outbound).await?;
    let sending = futures::stream::poll_fn(move |cx| messages.poll_recv(cx));
    let answer = timeout(HELLO_TIME, client.federate(sending)).await.map_err(|_elapsed| NoStream::Slow)?;
    let refused = |status: tonic::Status| NoStream::Refused(super::wire::shown(status.message()));
    let mut inbound = answer.map_err(refused)?.into_inner();
    let theirs = stream::hear(peer, &mut inbound).await?;
    let (done, ended) = oneshot::channel();
    let session = Session::new(us.clone(), seated, theirs, outbound);
    let (line, name) = (Line { inbound, connection, valid_until }, peer.name.clone());
    us.deps.tasks.spawn(async move {
        let end = session.run(imports, line).await;
        tracing::info!(peer = %name, dialled = "by us", %end, "the stream has ended");
        drop((client, done));
    });
    Ok(ended)
}
