//! Listeners that come and go with the snapshot.
//!
//! Each pass compares all sockets that are wanted with all that are open. What is wanted and open is
//! never bound anew, also where it now serves something else; what is no longer wanted stops accepting
//! and its connections finish; what cannot be bound is reported with its remedy and tried again.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use federation::control::Unbound;
use federation::model::Transport;
use federation::snapshot::{Generation, ServiceView, Snapshot};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::accept::accept;
use super::bind::{self, NotBound};
use super::server::{Purpose, Server};
use crate::destination::{DestinationKey, Scope};
use crate::router::ListenerKey;
use crate::snapshot::View;

/// Sockets of one process; a snapshot that wants more is wrong, or hostile.
const SOCKETS_MAX: usize = 20_000;

/// What a socket is for, and how operators and the registry call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) purpose: Purpose,
    pub(crate) owner: Arc<str>,
}

impl Assignment {
    pub(crate) fn new(purpose: Purpose, address: SocketAddr) -> Self {
        let owner = match &purpose {
            Purpose::Mesh => format!("mesh {address}"),
            Purpose::EastWest => format!("east-west {address}"),
            Purpose::Ingress(_) => format!("ingress {address}"),
            Purpose::Virtual(key) => format!("virtual {key} {address}"),
        };
        Self { purpose, owner: owner.into() }
    }
}

/// The open sockets of a process, beside the ones that never change.
pub(crate) struct ListenerSet {
    server: Arc<Server>,
    open: BTreeMap<SocketAddr, Port>,
    unbound: Vec<Unbound>,
    /// What may be had later: a socket that somebody else holds, unlike one that we cannot serve.
    retry: bool,
}

/// A socket and the task that accepts on it.
pub(crate) struct Port {
    address: SocketAddr,
    assignment: Arc<ArcSwap<Assignment>>,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Port {
    pub(crate) fn open(
        server: &Arc<Server>,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<Self, NotBound> {
        let listener = bind::listen(&server.sockets, purpose.socket_name(), address)?;
        let bound = listener.local_addr().map_err(|reason| NotBound {
            address,
            reason,
            remedy: "the socket went away; it is tried again".to_owned(),
        })?;
        let room = match purpose {
            Purpose::EastWest => server.room.links(),
            _ => server.room.clients(),
        };
        let entrance = purpose.entrance();
        let assignment = Arc::new(ArcSwap::from_pointee(Assignment::new(purpose, bound)));
        let stop = CancellationToken::new();
        let (refusing, serving, current) = (server.clone(), server.clone(), assignment.clone());
        let accepting = accept(
            listener,
            room.clone(),
            stop.clone(),
            move |from| refusing.refused(entrance, "no_room", Some(from)),
            move |accepted| {
                let Assignment { purpose, owner } = Assignment::clone(&current.load());
                let refuses = || serving.plane().overload.refuses_connections();
                if let (true, Some(short)) = (purpose != Purpose::EastWest, refuses()) {
                    return serving.refused(purpose.entrance(), short.reason(), Some(accepted.from));
                }
                serving.spawn(purpose, owner, accepted);
            },
        );
        let (views, stopped) = (server.plane().views.subscribe(), stop.clone());
        let accepting = server.tasks.spawn(async move {
            stopped.run_until_cancelled(until_known(views)).await;
            accepting.await;
        });
        Ok(Self { address: bound, assignment, stop, accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the registry calls its connections.
    pub(crate) fn owner(&self) -> Arc<str> {
        self.assignment.load().owner.clone()
    }

    /// Closes the socket; returns when it can be bound again. Its connections live on.
    pub(crate) async fn close(self) -> Arc<Assignment> {
        self.stop.cancel();
        // A task that panicked has dropped its socket too.
        let _ended = self.accepting.await;
        self.assignment.load_full()
    }
}

/// Who comes while a process starts waits in the socket's queue: without a snapshot it would be told that
/// nothing exists.
async fn until_known(mut views: watch::Receiver<Arc<View>>) {
    // An error means that the process ends; then the loop is stopped too.
    let _ended = views.wait_for(|view| view.snapshot.generation > Generation::default()).await;
}

impl ListenerSet {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server, open: BTreeMap::new(), unbound: Vec::new(), retry: false }
    }

    /// The sockets that were wanted by the last pass and could not be had.
    pub(crate) fn unbound(&self) -> &[Unbound] {
        &self.unbound
    }

    /// Is another pass worth its while although nothing has changed.
    pub(crate) fn may_bind_later(&self) -> bool {
        self.retry
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.values().map(Port::address)
    }

    /// Makes what is open what is wanted; says whether the list of unbound sockets changed.
    pub(crate) async fn reconcile(&mut self, Wanted { sockets: wanted, not_carried }: &Wanted) -> bool {
        let plan =
            Plan::new(wanted, |address| self.open.get(address).map(|port| port.assignment.load_full()));
        let unwanted: Vec<_> =
            self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        unwanted.iter().for_each(|address| self.server.sockets.forget(Transport::Tcp, *address));
        self.close(unwanted).await;
        for (address, assignment) in plan.turn {
            if let Some(port) = self.open.get(&address) {
                let before = port.assignment.swap(Arc::new(assignment));
                self.drain(&before);
            }
        }
        let mut unbound: Vec<_> =
            wanted.iter().skip(SOCKETS_MAX).map(|(at, what)| one_too_many(*at, what)).collect();
        for (address, assignment) in plan.open.into_iter().take(SOCKETS_MAX.saturating_sub(self.open.len())) {
            match Port::open(&self.server, address, assignment.purpose.clone()) {
                Ok(port) => drop(self.open.insert(address, port)),
                Err(refused) => unbound.push(Unbound {
                    address,
                    owner: assignment.owner.to_string(),
                    reason: refused.reason.to_string(),
                    remedy: refused.remedy,
                }),
            }
        }
        self.retry = !unbound.is_empty();
        unbound.extend_from_slice(not_carried);
        let changed = unbound != self.unbound;
        self.unbound = unbound;
        changed
    }

    /// Stops accepting everywhere, for good.
    pub(crate) async fn close_all(&mut self) {
        let all = self.open.keys().copied().collect();
        self.close(all).await;
    }

    async fn close(&mut self, addresses: Vec<SocketAddr>) {
        // All are told before any is waited for.
        let closing: Vec<_> = addresses.iter().filter_map(|address| self.open.remove(address)).collect();
        closing.iter().for_each(|port| port.stop.cancel());
        for port in closing {
            let before = port.close().await;
            self.drain(&before);
        }
    }

    fn drain(&self, assignment: &Assignment) {
        self.server.registry.drain(|connection| connection.owner() == &*assignment.owner);
    }
}

fn one_too_many(address: SocketAddr, assignment: &Assignment) -> Unbound {
    Unbound {
        address,
        owner: assignment.owner.to_string(),
        reason: format!("a process listens on at most {SOCKETS_MAX} sockets"),
        remedy: "import fewer services with fewer ports".to_owned(),
    }
}

/// What a pass has to do, beside closing what is no longer wanted.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    open: Vec<(SocketAddr, Assignment)>,
    /// Sockets that stay and serve something else from now on.
    turn: Vec<(SocketAddr, Assignment)>,
}

impl Plan {
    fn new(
        wanted: &BTreeMap<SocketAddr, Assignment>,
        current: impl Fn(&SocketAddr) -> Option<Arc<Assignment>>,
    ) -> Self {
        let mut plan = Self { open: Vec::new(), turn: Vec::new() };
        for (address, assignment) in wanted {
            match current(address) {
                None => plan.open.push((*address, assignment.clone())),
                Some(current) if *current != *assignment => plan.turn.push((*address, assignment.clone())),
                Some(_) => {}
            }
        }
        plan
    }
}

/// All sockets that a snapshot asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    sockets: BTreeMap<SocketAddr, Assignment>,
    /// Those of a kind that this gateway cannot serve.
    not_carried: Vec<Unbound>,
}

/// What `Gateway` listeners ask for, and services' own addresses.
pub(crate) fn wanted(snapshot: &Snapshot, ingress: IpAddr) -> Wanted {
    let listeners = snapshot.listeners.iter().map(|view| {
        let key = ListenerKey::from(&view.listener);
        let address = SocketAddr::new(key.address.unwrap_or(ingress), key.port);
        (address, Assignment::new(Purpose::Ingress(key), address))
    });
    let virtuals = snapshot.services.values().flat_map(virtual_ports);
    // A listener that somebody wrote down wins over an address that was allocated.
    let sockets = virtuals.chain(listeners).collect();
    Wanted { sockets, not_carried: snapshot.services.values().flat_map(datagram_ports).collect() }
}

fn virtual_ports(service: &Arc<ServiceView>) -> Vec<(SocketAddr, Assignment)> {
    ports(service, Transport::Tcp)
        .map(|(address, key)| (address, Assignment::new(Purpose::Virtual(key), address)))
        .collect()
}

/// A client of these would wait for ever; whoever runs the cluster is told at least.
fn datagram_ports(service: &Arc<ServiceView>) -> Vec<Unbound> {
    let unbound = |(address, key): (_, DestinationKey)| Unbound {
        address,
        owner: format!("virtual {key} {address} (UDP)"),
        reason: "UDP is not carried yet".to_owned(),
        remedy: format!("use a TCP port, or reach the endpoints of {} without the gateway", service.name),
    };
    ports(service, Transport::Udp).map(unbound).collect()
}

/// The ports of a service's own addresses.
fn ports(service: &ServiceView, transport: Transport) -> impl Iterator<Item = (SocketAddr, DestinationKey)> {
    let merged = service.merged.iter();
    let ports = merged.flat_map(|merged| merged.ports.iter().map(move |port| (port, &merged.addresses)));
    ports.filter(move |(port, _)| port.transport == transport).flat_map(|(port, addresses)| {
        addresses.iter().map(|ip| {
            let (service, port) = (service.name.clone(), port.port);
            (SocketAddr::new(*ip, port), DestinationKey { service, scope: Scope::Merged, port })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::snapshot;

    const INGRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn owners(wanted: &Wanted) -> Vec<String> {
        wanted.sockets.values().map(|assignment| assignment.owner.to_string()).collect()
    }

    #[test]
    fn every_tcp_port_of_every_address_and_every_listener_has_one_socket() {
        let mut snapshot = snapshot()
            .import("cloud", "db.shop", "5432=tcp 53=dns", &["us/x ready=1"])
            .address("db.shop", "127.80.0.1")
            .address("db.shop", "::1")
            .service("local.shop", "80=http", &["10.0.0.1"])
            .listener(8080, Some("a.example"), vec![])
            .listener(8080, Some("b.example"), vec![])
            .build();
        for service in snapshot.services.values_mut() {
            let merged = Arc::make_mut(service).merged.iter_mut();
            let datagrams = merged.flat_map(|merged| &mut merged.ports).filter(|port| port.port == 53);
            datagrams.for_each(|port| port.transport = Transport::Udp);
        }
        let wanted = wanted(&snapshot, INGRESS);
        let not_carried: Vec<_> = wanted.not_carried.iter().map(|unbound| &*unbound.owner).collect();
        assert_eq!(
            not_carried,
            ["virtual db.shop:53 127.80.0.1:53 (UDP)", "virtual db.shop:53 [::1]:53 (UDP)"]
        );
        assert_eq!(
            owners(&wanted),
            [
                "ingress 127.0.0.1:8080",
                "virtual db.shop:5432 127.80.0.1:5432",
                "virtual db.shop:5432 [::1]:5432",
            ]
        );
    }

    #[test]
    fn an_unchanged_socket_is_left_alone_and_a_changed_one_is_not_bound_again() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let key = |service: &str| DestinationKey {
            service: service.parse().unwrap(),
            scope: Scope::Merged,
            port: 80,
        };
        let assigned = |text: &str, service: &str| Assignment::new(Purpose::Virtual(key(service)), at(text));
        let open = BTreeMap::from([
            (at("127.0.0.1:1"), Arc::new(assigned("127.0.0.1:1", "same.shop"))),
            (at("127.0.0.1:2"), Arc::new(assigned("127.0.0.1:2", "old.shop"))),
        ]);
        let wanted = BTreeMap::from([
            (at("127.0.0.1:1"), assigned("127.0.0.1:1", "same.shop")),
            (at("127.0.0.1:2"), assigned("127.0.0.1:2", "new.shop")),
            (at("127.0.0.1:3"), assigned("127.0.0.1:3", "new.shop")),
        ]);
        let plan = Plan::new(&wanted, |address| open.get(address).cloned());
        assert_eq!(plan.open, [(at("127.0.0.1:3"), wanted[&at("127.0.0.1:3")].clone())]);
        assert_eq!(plan.turn, [(at("127.0.0.1:2"), wanted[&at("127.0.0.1:2")].clone())]);
    }
}
