//! The links to one peer, as requests see them: borrow a stream, or wait until one is free.
//!
//! The keeper of the peer publishes the lists; borrowing takes no lock of ours. Who finds every stream in
//! use waits for a moment, and its waiting is what makes the keeper dial another link.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use federation::model::{ClusterName, ServiceName};
use h2::client::SendRequest;
use parking_lot::Mutex;
use pingora_core::protocols::http::v2::client::Http2Session;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::line::{Condition, HttpLink, Lent, Line, Loan, TunnelLink, best};
use super::message::ServiceReadiness;
use crate::balancer::LinkState;

/// An HTTP/2 stream on a link, to be dropped when it is finished with.
pub struct HttpStream {
    // Before the loan: only a stream that is gone is free again.
    pub session: Http2Session,
    pub loan: Loan,
}

impl fmt::Debug for HttpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpStream").field("loan", &self.loan).finish_non_exhaustive()
    }
}

/// Everything that can be borrowed to reach one peer.
#[derive(Debug)]
pub(super) struct Lender {
    pub(super) peer: ClusterName,
    pub(super) http: Shelf<HttpLink>,
    pub(super) tunnels: Shelf<TunnelLink>,
    /// The peer's gateway has come to us: it is there again, whatever dialling said.
    pub(super) seen: Notify,
    state: AtomicU8,
    /// The first links are under way: requests wait for them as for a free stream.
    coming: AtomicBool,
    ready: Mutex<BTreeMap<ServiceName, ServiceReadiness>>,
}

/// The links of one protocol.
#[derive(Debug)]
pub(super) struct Shelf<L> {
    links: ArcSwap<Vec<L>>,
    /// A stream was returned, or the list has changed.
    pub(super) freed: Arc<Notify>,
    /// More streams are wanted than there are.
    pub(super) short: Notify,
    waiting: AtomicUsize,
}

/// Why no stream can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoStream {
    #[error("there is no link to the cluster")]
    NoLink,
    #[error("all links to the cluster stayed in full use")]
    Busy,
}

impl Lender {
    pub(super) fn new(peer: ClusterName) -> Arc<Self> {
        Arc::new(Self {
            peer,
            http: Shelf::new(),
            tunnels: Shelf::new(),
            seen: Notify::new(),
            state: AtomicU8::new(STATE_DOWN),
            coming: AtomicBool::new(true),
            ready: Mutex::new(BTreeMap::new()),
        })
    }

    /// Borrows from the best link for HTTP.
    pub(super) async fn http_stream(&self) -> Result<HttpStream, NoStream> {
        self.http.borrow(self, open_http).await
    }

    /// Borrows from the best link for tunnels.
    pub(super) async fn tunnel_stream(&self) -> Result<(SendRequest<bytes::Bytes>, Loan), NoStream> {
        self.tunnels.borrow(self, open_tunnel).await
    }

    pub(super) fn state(&self) -> LinkState {
        match self.state.load(Ordering::Relaxed) {
            STATE_UP => LinkState::Up,
            STATE_DRAINING => LinkState::Draining,
            _ => LinkState::Down,
        }
    }

    /// Whether it makes sense to send a request: a peer of which nothing is known yet comes last.
    pub(super) fn prospect(&self) -> LinkState {
        match self.state() {
            LinkState::Down if self.coming.load(Ordering::Relaxed) => LinkState::Draining,
            state => state,
        }
    }

    /// It is known whether the peer can be reached.
    pub(super) fn has_tried(&self) {
        if self.coming.swap(false, Ordering::Relaxed) {
            self.http.freed.notify_waiters();
            self.tunnels.freed.notify_waiters();
        }
    }

    pub(super) fn set_state(&self, state: LinkState) {
        let state = match state {
            LinkState::Up => STATE_UP,
            LinkState::Draining => STATE_DRAINING,
            LinkState::Down => STATE_DOWN,
        };
        if self.state.swap(state, Ordering::Relaxed) != state {
            self.http.freed.notify_waiters();
            self.tunnels.freed.notify_waiters();
        }
    }

    /// What the peer says is ready behind its gateways.
    pub(super) fn ready(&self, service: &ServiceName) -> Option<ServiceReadiness> {
        self.ready.lock().get(service).cloned()
    }

    pub(super) fn note_ready(&self, services: Vec<ServiceReadiness>) {
        let mut ready = self.ready.lock();
        for said in services {
            if said.ready == 0 {
                ready.remove(&said.service);
            } else if ready.len() < SERVICES_MAX || ready.contains_key(&said.service) {
                ready.insert(said.service.clone(), said);
            }
        }
    }

    /// Nothing that was said holds once nobody is left who could correct it.
    pub(super) fn forget_ready(&self) {
        self.ready.lock().clear();
    }
}

const STATE_DOWN: u8 = 0;
const STATE_UP: u8 = 1;
const STATE_DRAINING: u8 = 2;

impl<L: Lent> Shelf<L> {
    fn new() -> Self {
        Self {
            links: ArcSwap::default(),
            freed: Arc::new(Notify::new()),
            short: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn links(&self) -> Arc<Vec<L>> {
        self.links.load_full()
    }

    pub(super) fn publish(&self, links: Vec<L>) {
        self.links.store(Arc::new(links));
        self.freed.notify_waiters();
    }

    /// Streams in use or waited for.
    pub(super) fn demand(&self) -> usize {
        let used: usize = self.links.load().iter().map(|link| link.line().streams()).sum();
        used + self.waiting.load(Ordering::Relaxed)
    }

    async fn borrow<T>(&self, lender: &Lender, open: impl AsyncFn(&L) -> Opened<T>) -> Result<T, NoStream> {
        if let Some(stream) = self.try_borrow(&open).await {
            return Ok(stream);
        }
        let _place = Place::take(&self.waiting).ok_or(NoStream::Busy)?;
        let waited = timeout(STREAM_TIME_MAX, self.wait(lender, &open)).await;
        waited.unwrap_or(Err(NoStream::Busy))
    }

    async fn wait<T>(&self, lender: &Lender, open: &impl AsyncFn(&L) -> Opened<T>) -> Result<T, NoStream> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Registered before looking, so that nothing that happens in between is missed.
            freed.as_mut().enable();
            if let Some(stream) = self.try_borrow(open).await {
                return Ok(stream);
            }
            if lender.prospect() == LinkState::Down {
                return Err(NoStream::NoLink);
            }
            self.short.notify_one();
            freed.await;
        }
    }

    async fn try_borrow<T>(&self, open: &impl AsyncFn(&L) -> Opened<T>) -> Option<T> {
        let links = self.links();
        let mut tried = 0;
        while let Some((at, link)) = best(&links, tried) {
            tried |= 1 << at;
            match open(link).await {
                Opened::Stream(stream) => {
                    if link.free_streams() < STREAMS_IN_RESERVE {
                        self.short.notify_one();
                    }
                    return Some(stream);
                }
                Opened::Full => {}
                Opened::Goodbye => {
                    link.line().set_condition(Condition::Leaving);
                    self.short.notify_one();
                }
            }
        }
        None
    }
}

/// What became of an attempt to open a stream.
enum Opened<T> {
    Stream(T),
    Full,
    /// The peer takes no more streams on this link.
    Goodbye,
}

async fn open_http(link: &HttpLink) -> Opened<HttpStream> {
    match link.http2.spawn_stream().await {
        Ok(Some(session)) => Opened::Stream(HttpStream { session, loan: Loan::new(&link.line) }),
        Ok(None) if !link.http2.is_shutting_down() => Opened::Full,
        Ok(None) => Opened::Goodbye,
        Err(_broken) => {
            link.http2.mark_shutdown();
            Opened::Goodbye
        }
    }
}

async fn open_tunnel(link: &TunnelLink) -> Opened<(SendRequest<bytes::Bytes>, Loan)> {
    let Some(loan) = borrow_within(&link.line, link.streams_max) else { return Opened::Full };
    match link.requests.clone().ready().await {
        Ok(requests) => Opened::Stream((requests, loan)),
        Err(_gone) => Opened::Goodbye,
    }
}

/// h2 would queue a stream beyond the peer's limit; it shall go to another link.
fn borrow_within(line: &Arc<Line>, streams_max: usize) -> Option<Loan> {
    let loan = Loan::new(line);
    (line.streams() <= streams_max).then_some(loan)
}

/// One of those who wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that finds no free stream waits this long (U18); a new link takes two round trips.
const STREAM_TIME_MAX: Duration = Duration::from_secs(5);
/// Requests that wait for a stream to one peer; beyond that it is overloaded.
const WAITING_MAX: usize = 1024;
/// With fewer free streams than this the keeper is asked for another link.
const STREAMS_IN_RESERVE: usize = 25;
/// As many services as a peer may offer (notes/trust 4.4).
const SERVICES_MAX: usize = 5_000;
