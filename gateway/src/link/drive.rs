//! What goes on on a live link until it is closed: probes, signs of life, goodbyes.
//!
//! A driver ends when its link is closed, and only then. A retired link goes on until its last borrowed
//! stream is returned; a link that stays silent for too long is cut, since streams on it would hang.

use std::future::{Future, pending};
use std::time::{Duration, Instant};

use pingora_core::connectors::http::v2::ConnectionRef;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::control::{Control, ControlError};
use super::line::{Condition, HttpLink, Line, TunnelLink};
use super::message::{Hello, Message, ServiceReadiness};
use super::path::{Change, PROBE_INTERVAL, PathState};
use crate::clock;

/// What a driver tells the keeper of its peer.
#[derive(Debug)]
pub(super) enum Told {
    Answered(Duration),
    Silent,
    Leaving,
    Replicas(u32),
    Ready(Vec<ServiceReadiness>),
}

/// Where drivers tell it: which link, and what.
pub(super) type Tell = mpsc::Sender<(u64, Told)>;

/// Drives a link for HTTP requests until it is closed; `closed` says when its HTTP/2 connection is.
pub(super) async fn http(
    link: HttpLink,
    control: Control,
    mut closed: watch::Receiver<bool>,
    hello: watch::Receiver<Hello>,
    tell: Tell,
    round_trip: Duration,
) {
    let HttpLink { line, http2 } = link;
    let mut driver = Driver { line: &line, path: PathState::default(), tell };
    driver.answered(round_trip).await;
    match converse(&mut driver, &http2, control, hello).await {
        Ended::Retired | Ended::Dead => return,
        Ended::ByPeer => driver.leave().await,
    }
    // No more probes: either its streams end, or the connection does.
    tokio::select! {
        _ = closed.wait_for(|closed| *closed) => {}
        () = retired_and_idle(&line) => {}
    }
}

/// Drives a link for tunnels until it is closed. `closed` resolves when its HTTP/2 connection has ended.
pub(super) async fn tunnels(
    link: TunnelLink,
    mut pings: h2::PingPong,
    mut closed: oneshot::Receiver<()>,
    tell: Tell,
) {
    let TunnelLink { line, requests, .. } = link;
    let mut driver = Driver { line: &line, path: PathState::default(), tell };
    driver.path.answered(Duration::ZERO, line.opened);
    let mut tick = ticks();
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = &mut closed => return,
            () = retired_and_idle(&line) => return,
            pong = pong(&mut pings, asked) => {
                let Ok(sent) = pong else { return };
                asked = None;
                driver.answered(clock::now().duration_since(sent)).await;
            }
            _ = tick.tick() => {
                if asked.is_none() && pings.send_ping(h2::Ping::opaque()).is_ok() {
                    asked = Some(clock::now());
                }
                if driver.observe().await == Alive::No {
                    return;
                }
                if refuses_streams(&requests) {
                    driver.leave().await;
                }
            }
        }
    }
}

enum Ended {
    /// Ours to end, and its last stream is gone.
    Retired,
    /// The peer finished the stream, or broke it.
    ByPeer,
    Dead,
}

async fn converse(
    driver: &mut Driver<'_>,
    http2: &ConnectionRef,
    mut control: Control,
    mut hello: watch::Receiver<Hello>,
) -> Ended {
    let mut tick = ticks();
    loop {
        let went_on = tokio::select! {
            heard = control.hear() => match heard {
                Ok(Some(message)) => driver.hear(&mut control, message).await,
                Ok(None) => Err(ControlError::Ended),
                Err(error) => Err(error),
            },
            _ = tick.tick() => {
                if driver.observe().await == Alive::No {
                    return Ended::Dead;
                }
                if says_goodbye(http2).await {
                    driver.leave().await;
                }
                control.probe(clock::now())
            }
            Ok(()) = hello.changed() => {
                let ours = hello.borrow_and_update().clone();
                control.hello(ours)
            }
            () = retired_and_idle(driver.line) => {
                control.finish().await;
                return Ended::Retired;
            }
        };
        if let Err(error) = went_on {
            tracing::debug!(peer = %driver.line.peer, %error, "the control stream of a link ended");
            return Ended::ByPeer;
        }
    }
}

/// The judgement of one link, shared by both protocols.
struct Driver<'a> {
    line: &'a Line,
    path: PathState,
    tell: Tell,
}

#[derive(PartialEq, Eq)]
enum Alive {
    Yes,
    No,
}

impl Driver<'_> {
    async fn hear(&mut self, control: &mut Control, message: Message) -> Result<(), ControlError> {
        match message {
            Message::Answer { number } => {
                if let Some(round_trip) = control.answered(number, clock::now()) {
                    self.answered(round_trip).await;
                }
            }
            Message::Probe { number } => control.answer(number)?,
            Message::Hello(hello) => self.tell(Told::Replicas(hello.replicas)).await,
            Message::Ready { services } => self.tell(Told::Ready(services)).await,
            Message::Drain => self.leave().await,
            Message::Unknown => {}
        }
        Ok(())
    }

    async fn answered(&mut self, round_trip: Duration) {
        self.path.answered(round_trip, clock::now());
        if let Some(smoothed) = self.path.round_trip() {
            self.line.set_round_trip(smoothed);
        }
        if self.line.condition() == Condition::Silent {
            self.line.set_condition(Condition::Serving);
        }
        self.tell(Told::Answered(round_trip)).await;
    }

    async fn observe(&mut self) -> Alive {
        let now = clock::now();
        if self.path.observe(now) == Some(Change::WentDown) {
            if self.line.condition() == Condition::Serving {
                self.line.set_condition(Condition::Silent);
            }
            self.tell(Told::Silent).await;
        }
        if self.path.silent_for(now) < SILENCE_MAX {
            return Alive::Yes;
        }
        tracing::warn!(peer = %self.line.peer, remote = %self.line.remote, "a link is silent, it is cut");
        self.line.connection().cut();
        Alive::No
    }

    async fn leave(&mut self) {
        if self.line.condition() < Condition::Leaving {
            self.line.set_condition(Condition::Leaving);
            self.tell(Told::Leaving).await;
        }
    }

    async fn tell(&self, told: Told) {
        // The keeper is gone only when the link is to end, and then nobody needs to know.
        let _ = self.tell.send((self.line.id(), told)).await;
    }
}

async fn retired_and_idle(line: &Line) {
    line.retired().cancelled().await;
    line.idle().await;
}

async fn pong(pings: &mut h2::PingPong, asked: Option<Instant>) -> Result<Instant, h2::Error> {
    let Some(sent) = asked else { return pending().await };
    std::future::poll_fn(|cx| pings.poll_pong(cx)).await.map(|_pong| sent)
}

/// After a GOAWAY no stream can be opened; one that is not used sends nothing.
async fn says_goodbye(http2: &ConnectionRef) -> bool {
    if http2.free_stream_slots() > 0 {
        // Whatever the outcome, the connection now knows.
        let _ = http2.spawn_stream().await;
    }
    http2.is_shutting_down()
}

fn refuses_streams(requests: &h2::client::SendRequest<bytes::Bytes>) -> bool {
    let mut requests = requests.clone();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let ready = std::pin::pin!(std::future::poll_fn(move |cx| requests.poll_ready(cx)));
    matches!(ready.poll(&mut context), std::task::Poll::Ready(Err(_)))
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Longer than any judgement of the path; a network that comes back before loses no stream.
const SILENCE_MAX: Duration = Duration::from_secs(20);
