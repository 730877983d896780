//! One live link that we dialled, and the streams that are borrowed from it.
//!
//! Whoever opens a stream reads a list of links that is replaced as a whole; nothing here is locked. A
//! link that was retired is no longer in the list, and closes itself once nobody holds a stream of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use federation::model::{ClusterName, GatewayAddress};
use pingora_core::connectors::http::v2::ConnectionRef;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use trust_bundle::Connection;

use super::dial::Protocol;
use super::message::ReplicaId;
use crate::connection::Facts;

/// What is the matter with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    Serving,
    /// Does not answer probes.
    Silent,
    /// The peer asked us to go; used only while there is no other.
    Leaving,
    /// Takes no more streams.
    Retired,
}

impl Condition {
    const ALL: [Self; 4] = [Self::Serving, Self::Silent, Self::Leaving, Self::Retired];
}

/// What links of both protocols have in common.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) peer: ClusterName,
    pub(super) protocol: Protocol,
    pub(super) address: GatewayAddress,
    pub(super) remote: SocketAddr,
    pub(super) facts: Facts,
    pub(super) opened: Instant,
    pub(super) replica: OnceLock<ReplicaId>,
    condition: AtomicU8,
    streams: AtomicUsize,
    round_trip_us: AtomicU64,
    retired: CancellationToken,
    /// Tells those who wait for an answer that none may come.
    fell_silent: Notify,
    /// Tells the link's own task that its last stream is gone.
    idle: Notify,
    /// Tells whoever waits for a stream to this peer that one is free.
    freed: Arc<Notify>,
}

/// A link for HTTP requests.
#[derive(Clone)]
pub(super) struct HttpLink {
    pub(super) line: Arc<Line>,
    pub(super) http2: ConnectionRef,
}

/// A link for CONNECT streams.
#[derive(Debug, Clone)]
pub(super) struct TunnelLink {
    pub(super) line: Arc<Line>,
    pub(super) requests: h2::client::SendRequest<Bytes>,
    /// Streams at once, as our own settings say; the peer's are known to h2.
    pub(super) streams_max: usize,
}

/// A link of either protocol, as far as choosing one is concerned.
pub(super) trait Lent {
    fn line(&self) -> &Arc<Line>;
    fn free_streams(&self) -> usize;
}

impl Lent for HttpLink {
    fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn free_streams(&self) -> usize {
        self.http2.free_stream_slots()
    }
}

impl Lent for TunnelLink {
    fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn free_streams(&self) -> usize {
        let most = self.streams_max.min(self.requests.current_max_send_streams());
        most.saturating_sub(self.line.streams())
    }
}

impl Line {
    pub(super) fn new(
        peer: ClusterName,
        protocol: Protocol,
        address: GatewayAddress,
        remote: SocketAddr,
        facts: Facts,
        opened: Instant,
        freed: Arc<Notify>,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            protocol,
            address,
            remote,
            facts,
            opened,
            replica: OnceLock::new(),
            condition: AtomicU8::new(Condition::Serving as u8),
            streams: AtomicUsize::new(0),
            round_trip_us: AtomicU64::new(0),
            retired: CancellationToken::new(),
            fell_silent: Notify::new(),
            idle: Notify::new(),
            freed,
        })
    }

    pub(super) fn id(&self) -> u64 {
        self.connection().id()
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        self.facts.connection()
    }

    pub(super) fn condition(&self) -> Condition {
        let index = usize::from(self.condition.load(Ordering::Relaxed));
        Condition::ALL.get(index).copied().unwrap_or(Condition::Retired)
    }

    /// A retired link stays retired.
    pub(super) fn set_condition(&self, condition: Condition) {
        if !self.retired.is_cancelled() {
            self.condition.store(condition as u8, Ordering::Relaxed);
        }
        if condition == Condition::Silent {
            self.fell_silent.notify_waiters();
        }
    }

    pub(super) fn retire(&self) {
        self.set_condition(Condition::Retired);
        self.retired.cancel();
    }

    pub(super) fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// Returns once no stream is borrowed.
    pub(super) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.streams() == 0 {
                return;
            }
            idle.await;
        }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        let us = self.round_trip_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    pub(super) fn set_round_trip(&self, round_trip: Duration) {
        let us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX).max(1);
        self.round_trip_us.store(us, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for HttpLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpLink").field("line", &self.line).finish_non_exhaustive()
    }
}

/// Counts a stream as borrowed until dropped.
#[derive(Debug)]
pub struct Loan {
    line: Arc<Line>,
}

impl Loan {
    pub(super) fn new(line: &Arc<Line>) -> Self {
        line.streams.fetch_add(1, Ordering::AcqRel);
        Self { line: line.clone() }
    }

    /// Returns once the link does not answer probes any more.
    pub async fn fell_silent(&self) {
        let fell_silent = self.line.fell_silent.notified();
        if self.line.condition() != Condition::Silent {
            fell_silent.await;
        }
    }

    /// The connection that the stream is on.
    pub fn facts(&self) -> &Facts {
        &self.line.facts
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.line.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.line.idle.notify_one();
        }
        self.line.freed.notify_one();
    }
}

/// The best link that was not tried yet: in the best condition, then with the most free streams.
pub(super) fn best<L: Lent>(links: &[L], tried: u64) -> Option<(usize, &L)> {
    let links = links.iter().enumerate().take(LINKS_CHOSEN_FROM_MAX);
    let untried = links.filter(|(at, _)| tried & (1 << at) == 0);
    // Asked once: h2 takes a lock for it.
    let free = untried.map(|(at, link)| (at, link, link.free_streams())).filter(|(_, _, free)| *free > 0);
    let chosen = free.min_by_key(|(_, link, free)| (link.line().condition(), std::cmp::Reverse(*free)));
    chosen.map(|(at, link, _)| (at, link))
}

/// One for each bit of what was tried; a peer has 16 links and as many that leave.
const LINKS_CHOSEN_FROM_MAX: usize = 64;
