//! Keeps the links to one peer: carries out the plan, judges the path, publishes what can be borrowed.
//!
//! One task for each peer, in which dialling and driving run side by side. It only waits and tells; what
//! to do is the [`Plan`]'s business, and whether the peer can be reached the [`PathState`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use federation::control::{Path, Report};
use federation::model::{GatewayAddress, Peer};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant as TokioInstant;
use tokio_util::sync::CancellationToken;

use super::age;
use super::dial::{DialError, Protocol};
use super::drive::{self, Told};
use super::establish::{Establisher, New, NewHttp, NewTunnels};
use super::lender::{Lender, Shelf};
use super::line::{Condition, HttpLink, Lent, TunnelLink};
use super::path::{Change, PathState};
use super::plan::{Attempt, Established, LinkId, Plan, Step, extra_for};
use crate::balancer::LinkState;
use crate::clock;

/// What becomes of a link in time.
enum Event {
    Dialled { protocol: Protocol, attempt: Attempt, result: Result<New, DialError> },
    Closed { protocol: Protocol, link: LinkId },
}

pub(super) struct Keeper {
    peer: Peer,
    establisher: Arc<Establisher>,
    lender: Arc<Lender>,
    reports: mpsc::Sender<Report>,
    http: Side<HttpLink>,
    tunnels: Side<TunnelLink>,
    path: PathState,
    under_way: FuturesUnordered<BoxFuture<'static, Event>>,
    tell: drive::Tell,
    told: mpsc::Receiver<(u64, Told)>,
    /// None until there is something to report.
    report_due: Option<Instant>,
    /// Until then requests wait for the first links; none once it is known whether there are any.
    coming_until: Option<Instant>,
}

/// Links of one protocol: what is planned and what is there.
struct Side<L> {
    plan: Plan,
    live: BTreeMap<LinkId, L>,
}

impl Keeper {
    pub(super) fn new(
        peer: Peer,
        establisher: Arc<Establisher>,
        lender: Arc<Lender>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let (tell, told) = mpsc::channel(TOLD_MAX);
        Self {
            http: Side::new(&peer.gateways),
            tunnels: Side::new(&peer.gateways),
            peer,
            establisher,
            lender,
            reports,
            path: PathState::default(),
            under_way: FuturesUnordered::new(),
            tell,
            told,
            report_due: None,
            coming_until: Some(clock::now() + COMING_TIME_MAX),
        }
    }

    /// Works until `cut`, or until `leave` and the last link is closed.
    pub(super) async fn run(
        mut self,
        mut peers: watch::Receiver<Peer>,
        leave: CancellationToken,
        cut: CancellationToken,
    ) {
        let lender = self.lender.clone();
        loop {
            self.take_steps();
            self.publish();
            if leave.is_cancelled() && self.http.is_done() && self.tunnels.is_done() {
                break;
            }
            let wake = self.wakes();
            tokio::select! {
                () = cut.cancelled() => break,
                () = leave.cancelled(), if !self.http.plan.is_stopped() => self.stop(),
                Ok(()) = peers.changed() => {
                    let peer = peers.borrow_and_update().clone();
                    self.set_peer(peer);
                }
                Some(event) = self.under_way.next(), if !self.under_way.is_empty() => self.happened(event),
                Some((link, told)) = self.told.recv() => self.heard(link, told),
                () = lender.http.short.notified() => self.http.look_again(),
                () = lender.tunnels.short.notified() => self.tunnels.look_again(),
                () = lender.seen.notified() => self.seen(),
                () = sleep_until(wake) => {}
            }
            self.judge();
        }
        self.end();
    }

    fn set_peer(&mut self, peer: Peer) {
        self.http.plan.set_addresses(peer.gateways.clone());
        self.tunnels.plan.set_addresses(peer.gateways.clone());
        self.peer = peer;
    }

    fn seen(&mut self) {
        let now = clock::now();
        self.http.plan.stop_waiting(now);
        self.tunnels.plan.stop_waiting(now);
    }

    fn stop(&mut self) {
        self.http.plan.stop();
        self.tunnels.plan.stop();
    }

    fn end(&mut self) {
        for line in self.http.lines().chain(self.tunnels.lines()) {
            line.connection().cut();
        }
        self.http.live.clear();
        self.tunnels.live.clear();
        self.path.lose();
        self.publish();
    }

    fn take_steps(&mut self) {
        let now = clock::now();
        for attempt in self.http.steps(&self.lender.http, now) {
            self.dial(Protocol::Http, attempt);
        }
        for attempt in self.tunnels.steps(&self.lender.tunnels, now) {
            self.dial(Protocol::Tunnel, attempt);
        }
    }

    fn dial(&mut self, protocol: Protocol, (attempt, address): (Attempt, GatewayAddress)) {
        let (establisher, lender, peer) = (self.establisher.clone(), self.lender.clone(), self.peer.clone());
        self.under_way.push(Box::pin(async move {
            let result = establisher.establish(&peer, address, protocol, &lender).await;
            Event::Dialled { protocol, attempt, result }
        }));
    }

    fn happened(&mut self, event: Event) {
        let (now, rng) = (clock::now(), &mut rand::rng());
        match event {
            Event::Dialled { attempt, result: Ok(New::Http(new)), .. } => self.http_up(attempt, *new, now),
            Event::Dialled { attempt, result: Ok(New::Tunnels(new)), .. } => {
                self.tunnels_up(attempt, *new, now)
            }
            Event::Dialled { protocol, attempt, result: Err(error) } => {
                tracing::info!(peer = %self.peer.name, ?protocol, error = &error as &dyn std::error::Error, "no link");
                match protocol {
                    Protocol::Http => self.http.plan.failed(attempt, now, rng),
                    Protocol::Tunnel => self.tunnels.plan.failed(attempt, now, rng),
                }
            }
            Event::Closed { protocol, link } => {
                tracing::info!(peer = %self.peer.name, ?protocol, link, "link closed");
                match protocol {
                    Protocol::Http => self.http.closed(link, now, rng),
                    Protocol::Tunnel => self.tunnels.closed(link, now, rng),
                }
            }
        }
        // Whether the last link went first or the last address refused us: requests shall not wait for
        // probes to time out.
        if self.http.plan.is_shut_out() {
            self.lost();
        }
    }

    fn http_up(&mut self, attempt: Attempt, new: NewHttp, now: Instant) {
        let NewHttp { link, control, closed, hello, round_trip, life_left } = new;
        self.set_replicas(hello.replicas);
        let due = now + age::replace_after(life_left.0, life_left.1, rand::rng().random());
        let id = link.line.id();
        let established = Established { link: id, replica: Some(hello.replica), due };
        if !self.http.plan.established(attempt, established, now, &mut rand::rng()) {
            return;
        }
        tracing::info!(peer = %self.peer.name, remote = %link.line.remote, link = id, ?round_trip, "link up");
        self.http.live.insert(id, link.clone());
        let ours = self.establisher.hello();
        let driver = drive::http(link, control, closed, ours, self.tell.clone(), round_trip);
        self.drive(Protocol::Http, id, driver);
        self.answered(round_trip);
    }

    fn tunnels_up(&mut self, attempt: Attempt, new: NewTunnels, now: Instant) {
        let NewTunnels { link, pings, closed, life_left } = new;
        let due = now + age::replace_after(life_left.0, life_left.1, rand::rng().random());
        let id = link.line.id();
        let established = Established { link: id, replica: None, due };
        if !self.tunnels.plan.established(attempt, established, now, &mut rand::rng()) {
            return;
        }
        tracing::info!(peer = %self.peer.name, remote = %link.line.remote, link = id, "tunnel link up");
        self.tunnels.live.insert(id, link.clone());
        self.drive(Protocol::Tunnel, id, drive::tunnels(link, pings, closed, self.tell.clone()));
    }

    fn drive(&self, protocol: Protocol, link: LinkId, driver: impl Future<Output = ()> + Send + 'static) {
        self.under_way.push(Box::pin(async move {
            driver.await;
            Event::Closed { protocol, link }
        }));
    }

    fn heard(&mut self, link: LinkId, told: Told) {
        match told {
            Told::Answered(round_trip) => {
                let now = clock::now();
                self.http.plan.answered(link, now);
                self.tunnels.plan.answered(link, now);
                // What the tunnels' links prove, the others prove too; one measure is enough.
                if self.http.live.contains_key(&link) {
                    self.answered(round_trip);
                }
            }
            Told::Silent => {
                self.http.plan.silent(link);
                self.tunnels.plan.silent(link);
            }
            Told::Leaving => {
                let (now, rng) = (clock::now(), &mut rand::rng());
                self.http.plan.leaving(link, now, rng);
                self.tunnels.plan.leaving(link, now, rng);
            }
            Told::Replicas(replicas) => self.set_replicas(replicas),
            Told::Ready(services) => self.lender.note_ready(services),
        }
    }

    fn set_replicas(&mut self, replicas: u32) {
        self.http.plan.set_replicas(replicas);
        self.tunnels.plan.set_replicas(replicas);
    }

    fn answered(&mut self, round_trip: Duration) {
        let change = self.path.answered(round_trip, clock::now());
        self.report(change);
    }

    fn judge(&mut self) {
        let change = self.path.observe(clock::now());
        self.report(change);
    }

    fn lost(&mut self) {
        let first = self.report_due.is_none().then_some(Change::WentDown);
        let change = self.path.lose().or(first);
        self.report(change);
    }

    /// Each change, and the round trip now and then.
    fn report(&mut self, change: Option<Change>) {
        let now = clock::now();
        if let Some(change) = change {
            tracing::info!(peer = %self.peer.name, ?change, "the path to a peer changed");
            if change == Change::WentDown {
                self.lender.forget_ready();
            }
        } else if self.report_due.is_none_or(|due| now < due) {
            return;
        }
        let path = match self.path.round_trip() {
            Some(round_trip) if self.path.is_up() => Path::Up { round_trip },
            _ => Path::Down,
        };
        // What does not fit is said again with the next sign of life.
        let sent = self.reports.try_send(Report::Path { peer: self.peer.name.clone(), path });
        self.report_due = Some(if sent.is_ok() { now + REPORT_INTERVAL } else { now });
    }

    fn publish(&mut self) {
        let now = clock::now();
        let tried = |until| now >= until || self.path.is_up() || self.http.plan.is_shut_out();
        if self.coming_until.is_some_and(tried) {
            self.coming_until = None;
        }
        self.http.publish(&self.lender.http);
        self.tunnels.publish(&self.lender.tunnels);
        let takes_streams = || self.http.lines().any(|line| line.condition() < Condition::Leaving);
        self.lender.set_state(match () {
            () if !self.path.is_up() => LinkState::Down,
            // Between two links is not a goodbye; the path decides how long that may last.
            () if self.http.live.is_empty() || takes_streams() => LinkState::Up,
            () => LinkState::Draining,
        });
        if self.coming_until.is_none() {
            self.lender.has_tried();
        }
    }

    fn wakes(&self) -> Option<Instant> {
        let now = clock::now();
        let plans = [self.http.plan.wakes(now), self.tunnels.plan.wakes(now)];
        let planned = plans.into_iter().chain([self.path.deadline(), self.coming_until]);
        planned.flatten().min()
    }
}

impl<L: Lent + Clone> Side<L> {
    fn new(addresses: &[GatewayAddress]) -> Self {
        Self { plan: Plan::new(addresses.to_vec()), live: BTreeMap::new() }
    }

    fn is_done(&self) -> bool {
        self.live.is_empty()
    }

    fn lines(&self) -> impl Iterator<Item = &Arc<super::line::Line>> {
        self.live.values().map(Lent::line)
    }

    /// Retires what the plan retires; the rest is to be dialled.
    fn steps(&mut self, shelf: &Shelf<L>, now: Instant) -> Vec<(Attempt, GatewayAddress)> {
        self.plan.set_extra(extra_for(shelf.demand(), self.plan.replicas()));
        let mut dials = Vec::new();
        while let Some(step) = self.plan.next_step(now) {
            match step {
                Step::Dial { attempt, address } => dials.push((attempt, address)),
                // The driver has its own hold on the link, and the borrowed streams have theirs.
                Step::Retire(link) => {
                    if let Some(link) = self.live.get(&link) {
                        link.line().retire();
                    }
                }
            }
        }
        dials
    }

    fn closed(&mut self, link: LinkId, now: Instant, rng: &mut impl Rng) {
        self.live.remove(&link);
        self.plan.closed(link, now, rng);
    }

    /// Whoever borrowed ran out of streams, or found a link to be leaving.
    fn look_again(&mut self) {
        for line in self.live.values().map(Lent::line) {
            if line.condition() == Condition::Leaving {
                self.plan.leaving(line.id(), clock::now(), &mut rand::rng());
            }
        }
    }

    fn publish(&self, shelf: &Shelf<L>) {
        let lent = self.live.values().filter(|link| link.line().condition() < Condition::Retired);
        let lent: Vec<L> = lent.cloned().collect();
        let same = {
            let before = shelf.links();
            before.len() == lent.len()
                && before.iter().zip(&lent).all(|(a, b)| Arc::ptr_eq(a.line(), b.line()))
        };
        if !same {
            shelf.publish(lent);
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(TokioInstant::from_std(at)).await,
        None => std::future::pending().await,
    }
}

/// What all drivers of a peer may have told before the keeper listens again.
const TOLD_MAX: usize = 256;
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Requests of the first moments wait so long at most for the answer to whether the peer can be reached.
const COMING_TIME_MAX: Duration = Duration::from_secs(2);
