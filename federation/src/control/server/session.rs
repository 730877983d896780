//! One gateway's stream while it lasts: what it says is taken in, what it is owed is sent.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};
use trust_bundle::SpiffeId;

use super::Shared;
use super::accept::{GatewayCaller, der};
use super::outbox::{ANSWERS_MAX, Outbox};
use crate::clock;
use crate::control::message::{GatewaySays, Hello, Violation, addresses_said, text};
use crate::control::proto::from_federation::Body;
use crate::control::proto::{FromFederation, FromGateway, NotLeader, Signed};
use crate::control::state::Position;
use crate::control::term::{Feed, Term};
use crate::control::{Attached, SigningRefused, SigningRequest, Standing};
use crate::model::GatewayAddress;

/// Messages on their way to one gateway; a chunk each at most.
pub(super) const OUTBOUND_MAX: usize = 4;
/// The first message must come within this time.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// How long an SVID may take: it is made durable first.
const SIGNING_TIME: Duration = Duration::from_secs(10);
/// A gateway gives up before: each costs as much as everything.
const RESYNCS_MAX: u32 = 8;
/// A certificate that was renewed meanwhile only lives longer; a clock may be off by so much.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);

type Outbound = mpsc::Sender<Result<FromFederation, Status>>;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the gateway has closed the stream")]
    Closed,
    #[error("the connection is lost: {0}")]
    Lost(String),
    #[error("the connection was cut because trust has changed")]
    Cut,
    #[error("the gateway's certificate has reached its end")]
    Expired,
    #[error("nothing came for too long")]
    Silent,
    #[error("the gateway takes no messages")]
    Stalled,
    #[error("this process does not lead")]
    NotLeader,
    #[error("this process is going down")]
    Stopping,
    #[error("there are too many gateways")]
    TooMany,
    #[error("the gateway broke the protocol: {0}")]
    Violation(#[from] Violation),
}

/// Serves a gateway until its stream ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    caller: GatewayCaller,
    mut inbound: Streaming<FromGateway>,
    outbound: Outbound,
) {
    let mut standing = shared.deps.standing.clone();
    let now = standing.borrow_and_update().clone();
    let term = match now {
        Standing::Leading(term) => term,
        Standing::Following { leaders } => return redirect(&outbound, &leaders).await,
    };
    let end = match hear_hello(&mut inbound).await {
        Ok(hello) => {
            tracing::info!(replica = %hello.replica, from = %caller.address, "a gateway has attached");
            attach(&shared, &term, &caller, hello, inbound, &outbound, &mut standing).await
        }
        Err(end) => end,
    };
    tracing::info!(from = %caller.address, %end, "the stream of a gateway has ended");
    match end {
        End::Violation(violation) => {
            shared.refusals.count("violation", caller.address, &violation);
            // The stream is closed whether or not anybody reads this.
            let _unread = outbound.try_send(Err(Status::invalid_argument(violation.to_string())));
        }
        End::NotLeader => {
            let leaders = match &*shared.deps.standing.borrow() {
                Standing::Following { leaders } => leaders.clone(),
                Standing::Leading(_) => Vec::new(),
            };
            redirect(&outbound, &leaders).await;
        }
        _ => {}
    }
}

async fn redirect(outbound: &Outbound, leaders: &[GatewayAddress]) {
    let body = Body::NotLeader(NotLeader { leaders: addresses_said(leaders) });
    // Whoever does not read it will find out by itself.
    let _told = timeout(HELLO_TIME, outbound.send(Ok(FromFederation { body: Some(body) }))).await;
}

async fn hear_hello(inbound: &mut Streaming<FromGateway>) -> Result<Hello, End> {
    let heard = timeout(HELLO_TIME, inbound.message()).await.map_err(|_elapsed| End::Silent)?;
    match said(heard)? {
        GatewaySays::Hello(hello) => Ok(hello),
        _ => Err(Violation::OutOfOrder("what is no hello").into()),
    }
}

fn said(heard: Result<Option<FromGateway>, Status>) -> Result<GatewaySays, End> {
    let message = heard.map_err(|status| End::Lost(text(status.message())))?.ok_or(End::Closed)?;
    Ok(GatewaySays::try_from(message)?)
}

struct Session<'a> {
    shared: &'a Shared,
    term: &'a Term,
    address: SocketAddr,
    /// The only identity that this gateway is given.
    own_id: &'a SpiffeId,
    attached: Attached,
    outbox: Outbox,
    /// Where the gateway said that it is, until it is sent something.
    stands_at: Option<Position>,
    resyncs: u32,
}

async fn attach(
    shared: &Shared,
    term: &Term,
    caller: &GatewayCaller,
    hello: Hello,
    mut inbound: Streaming<FromGateway>,
    outbound: &Outbound,
    standing: &mut watch::Receiver<Standing>,
) -> End {
    let settings = shared.deps.settings;
    let Hello { replica, held, addresses } = hello;
    let mut feed = term.feed();
    let Some(attached) = term.deps.gateways.attach(replica, addresses, held.unwrap_or_default()) else {
        return End::TooMany;
    };
    let mut session = Session {
        shared,
        term,
        address: caller.address,
        own_id: caller.identity.id(),
        attached,
        stands_at: held,
        resyncs: 0,
        outbox: Outbox::default(),
    };
    let mut signing = FuturesUnordered::new();
    let mut heartbeat = tokio::time::interval(settings.heartbeat);
    let mut expiry = tokio::time::interval(EXPIRY_CHECK);
    // A gateway that takes in a large state may be silent for a moment.
    let silence_max = 2 * settings.silence_max;
    let (mut heard_at, mut sent_at) = (instant(), instant());
    loop {
        session.offer(&mut feed);
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return End::Stopping,
            () = caller.connection.cut_token().cancelled() => return End::Cut,
            _changed = standing.changed() => return End::NotLeader,
            permit = outbound.reserve(), if !session.outbox.is_empty() => {
                let Ok(permit) = permit else { return End::Closed };
                permit.send(Ok(FromFederation { body: session.outbox.next() }));
                sent_at = instant();
            }
            heard = inbound.message() => {
                heard_at = instant();
                match session.take(heard) {
                    Ok(Some(_)) if signing.len() >= ANSWERS_MAX => {
                        return Violation::OutOfOrder("one more signing request").into();
                    }
                    Ok(Some(request)) => signing.push(session.sign(request)),
                    Ok(None) => {}
                    Err(end) => return end,
                }
            }
            Some(answer) = signing.next() => session.outbox.answer(answer),
            Ok(()) = feed.changed() => {}
            _ = heartbeat.tick() => session.outbox.beat(),
            _ = expiry.tick() => if caller.identity.not_after() < clock::unix_now() {
                return End::Expired;
            },
            () = sleep_until(heard_at + silence_max) => return End::Silent,
            () = sleep_until(sent_at + settings.stall_max) => return End::Stalled,
        }
    }
}

/// A request that may be answered.
struct Asked {
    number: u64,
    csr: Vec<u8>,
}

impl Session<'_> {
    fn offer(&mut self, feed: &mut watch::Receiver<Feed>) {
        let feed = feed.borrow_and_update();
        // A gateway may come before a new leader has anything to compare with.
        let Some(newest) = feed.newest() else { return };
        let stands_at = self.stands_at.take();
        if let Some(held) = stands_at
            && let Some(known) = feed.with_digest(&held.digest)
        {
            self.outbox.holds(Arc::clone(known));
        }
        self.outbox.offer(newest, stands_at);
    }

    fn take(&mut self, heard: Result<Option<FromGateway>, Status>) -> Result<Option<Asked>, End> {
        match said(heard)? {
            GatewaySays::Hello(_) => return Err(Violation::OutOfOrder("a second hello").into()),
            GatewaySays::Report(report) => self.attached.report(report),
            GatewaySays::Applied { held, serving } => self.attached.applied(held, serving),
            GatewaySays::Resync { reason } => {
                self.resyncs += 1;
                if self.resyncs > RESYNCS_MAX {
                    return Err(Violation::OutOfOrder("one more request for the full state").into());
                }
                tracing::warn!(replica = %self.attached.replica(), reason, "the gateway needs the full state");
                self.stands_at = None;
                self.outbox.resync();
            }
            GatewaySays::Sign { number, id, csr } => {
                // A gateway gets its own role and nothing else.
                if id != *self.own_id {
                    self.shared.refusals.count("other_id", self.address, &id);
                    let refused = "a gateway is given the gateway role only".to_owned();
                    self.outbox.answer(Signed { number, chain: Vec::new(), refused });
                    return Ok(None);
                }
                return Ok(Some(Asked { number, csr }));
            }
            GatewaySays::Heartbeat | GatewaySays::Unknown => {}
        }
        Ok(None)
    }

    fn sign(&self, asked: Asked) -> impl Future<Output = Signed> + use<> {
        let (signer, id) = (self.term.deps.signer.clone(), self.own_id.clone());
        let Asked { number, csr } = asked;
        async move {
            match issue(&signer, id, csr).await {
                Ok(chain) => Signed { number, chain: der(chain), refused: String::new() },
                Err(SigningRefused { reason }) => {
                    Signed { number, chain: Vec::new(), refused: text(&reason) }
                }
            }
        }
    }
}

/// Asks the leader's CA.
pub(in crate::control) async fn issue(
    signer: &mpsc::Sender<SigningRequest>,
    id: SpiffeId,
    csr: Vec<u8>,
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, SigningRefused> {
    let refused = |reason: &str| SigningRefused { reason: reason.to_owned() };
    let (answer, answered) = oneshot::channel();
    let asked = signer.try_send(SigningRequest { id, csr, answer });
    asked.map_err(|_full| refused("the CA is busy; try again"))?;
    let answered =
        timeout(SIGNING_TIME, answered).await.map_err(|_elapsed| refused("the CA took too long"))?;
    answered.map_err(|_dropped| refused("the CA gave no answer"))?
}

#[expect(clippy::disallowed_methods, reason = "the session is the rim; it measures silence")]
fn instant() -> Instant {
    Instant::now()
}
