//! Requests that came to a listener of a `Gateway`: host, path and headers decide.
//!
//! The listener is chosen by host name first, and the request stays there: a host that a listener names is
//! never served by the routes of a less specific one. Then all routes of the listener compete.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use federation::model::{Backend, HttpRoute, Listener};
use federation::snapshot::ListenerView;
use http::{HeaderMap, Method};
use rand::Rng;

use super::NoRoute;
use super::authority::Authority;
use super::host_table::HostTable;
use super::path_table::{Entry, PathTable};
use crate::destination::Destination;

/// A socket that listeners of `Gateway` objects share; their host names tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerKey {
    /// None is the address that the static configuration names.
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// What of a request decides its way.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    /// As it came: Host or `:authority`.
    pub host: &'a str,
    /// As it came; a query does not count.
    pub path: &'a str,
    pub headers: &'a HeaderMap,
}

/// A destination, and the rule that led there.
#[derive(Debug, Clone)]
pub struct Routed {
    pub destination: Destination,
    pub route: Arc<HttpRoute>,
    pub rule: usize,
}

/// The listeners of one socket.
#[derive(Debug, Default)]
pub(super) struct Socket {
    listeners: HostTable<HostTable<PathTable>>,
}

pub(super) type Sockets = HashMap<ListenerKey, Socket>;

impl From<&Listener> for ListenerKey {
    fn from(listener: &Listener) -> Self {
        Self { address: listener.address, port: listener.port }
    }
}

/// Of two listeners with one host name on one socket, the first has it.
pub(super) fn compile(listeners: &[Arc<ListenerView>]) -> Sockets {
    let mut sockets = Sockets::new();
    for view in listeners {
        let socket = sockets.entry(ListenerKey::from(&view.listener)).or_default();
        let hostname = view.listener.hostname.as_ref();
        socket.listeners.entry(hostname, || routes(&view.routes));
    }
    sockets
}

/// Only the route's own host names count: the listener's were checked when it was chosen.
fn routes(routes: &[Arc<HttpRoute>]) -> HostTable<PathTable> {
    let mut table = HostTable::<PathTable>::default();
    for route in routes {
        if route.hostnames.is_empty() {
            table.entry(None, PathTable::default).insert(route);
        }
        for hostname in &route.hostnames {
            table.entry(Some(hostname), PathTable::default).insert(route);
        }
    }
    table.values_mut().for_each(PathTable::sort);
    table
}

impl Socket {
    pub(super) fn find(&self, request: &RequestHead<'_>) -> Result<&Entry, NoRoute> {
        let authority = Authority::parse(request.host).ok_or(NoRoute::InvalidHost)?;
        let routes = self.listeners.matches(authority.host()).next().ok_or(NoRoute::UnknownHost)?;
        let path = request.path.split('?').next().unwrap_or_default();
        let mut tables = routes.matches(authority.host());
        tables.find_map(|table| table.find(path, request.headers)).ok_or(NoRoute::NoMatch)
    }
}

/// One of a rule's backends, by weight; invalid ones keep their share.
pub(super) fn draw<'a>(backends: &'a [Backend], rng: &mut impl Rng) -> Result<&'a Backend, NoRoute> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return Err(NoRoute::NoBackend);
    }
    let mut ticket = rng.random_range(0..total);
    let holder = backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let holds = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        holds
    });
    holder.ok_or(NoRoute::NoBackend)
}
