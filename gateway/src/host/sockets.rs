//! The sockets of a process: inherited where there is a fitting one, else bound, and kept for the next.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;

use federation::model::Transport;
use parking_lot::Mutex;
use socket2::Socket;
use tracing::{info, warn};

use super::matching::{self, Offer, Want};

/// Names in the environment of the next process must fit into one variable of 128 KiB.
/// `FileDescriptorStoreMax=` of the units is a little more.
const STORED_MAX: usize = 2_000;
/// How names of sockets begin that a process of ours stored; the rest is unique and read by people only.
const STORED_PREFIX: &str = "kept-";

/// What a socket is for; `FileDescriptorName=` of the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketName {
    Mesh,
    EastWest,
    Ingress,
    Virtual,
    Dns,
    Admin,
    Control,
}

/// Who opened a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A `.socket` unit: it stays open whatever we do.
    Unit,
    /// A process like us, before us: it stays open until we say that nobody wants it.
    Store,
}

/// A socket that this process was started with.
#[derive(Debug)]
pub struct Inherited {
    pub offer: Offer,
    pub socket: Socket,
    pub origin: Origin,
}

/// What the store of the service manager is asked to do.
#[derive(Debug)]
pub enum StoreCommand {
    Keep { name: String, socket: OwnedFd },
    Forget { name: String },
}

/// All sockets that outlive the process.
#[derive(Debug, Clone, Default)]
pub struct Sockets(Arc<Mutex<Pool>>);

#[derive(Debug, Default)]
struct Pool {
    held: Vec<Inherited>,
    /// What the service manager has of ours, and by which name.
    stored: BTreeMap<(Transport, SocketAddr), String>,
    store: Option<mpsc::Sender<StoreCommand>>,
}

impl Sockets {
    /// Of a process that nobody hands anything to: everything is bound anew.
    pub fn none() -> Self {
        Self::default()
    }

    /// With the sockets of the environment, and a store for those that we bind.
    pub fn new(held: Vec<Inherited>, store: Option<mpsc::Sender<StoreCommand>>) -> Self {
        let of_store = held.iter().filter(|inherited| inherited.origin == Origin::Store);
        let stored =
            of_store.map(|inherited| (inherited.offer.key(), inherited.offer.name.clone())).collect();
        Self(Arc::new(Mutex::new(Pool { held, stored, store })))
    }

    /// Do sockets stay open when this process ends.
    pub fn outlive_us(&self) -> bool {
        let pool = self.0.lock();
        pool.store.is_some() || pool.held.iter().any(|inherited| inherited.origin == Origin::Unit)
    }

    /// The inherited socket that is wanted, if there is one.
    pub fn take(
        &self,
        name: SocketName,
        transport: Transport,
        address: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        let want = Want { name: name.as_str(), transport, address };
        let mut pool = self.0.lock();
        let offers = || pool.held.iter().map(|inherited| &inherited.offer);
        let Some(at) = matching::pick(offers(), &want) else {
            if let Some(objection) = matching::objection(offers(), &want) {
                warn!(%name, %address, "{objection}");
            }
            return Ok(None);
        };
        info!(%name, address = %pool.held[at].offer.address, "goes on with an inherited socket");
        match pool.held[at].origin {
            // Asked for again after it was closed, it must still be here.
            Origin::Unit => pool.held[at].socket.try_clone().map(Some),
            Origin::Store => Ok(Some(pool.held.swap_remove(at).socket)),
        }
    }

    /// Leaves a socket that we bound with the service manager, for the process after us.
    pub fn keep(
        &self,
        transport: Transport,
        address: SocketAddr,
        socket: impl FnOnce() -> io::Result<OwnedFd>,
    ) {
        let mut pool = self.0.lock();
        let (key, Some(store)) = ((transport, address), pool.store.clone()) else { return };
        if pool.stored.len() >= STORED_MAX || pool.stored.contains_key(&key) {
            return;
        }
        let name = stored_name(transport, address);
        match socket() {
            Ok(socket) => {
                // An error means that the process ends.
                let _ended = store.send(StoreCommand::Keep { name: name.clone(), socket });
                pool.stored.insert(key, name);
            }
            Err(error) => warn!(%address, %error, "cannot be kept for the next process"),
        }
    }

    /// Says that a socket is no longer wanted, so that its address is free once we close it.
    pub fn forget(&self, transport: Transport, address: SocketAddr) {
        let mut pool = self.0.lock();
        let Some(name) = pool.stored.remove(&(transport, address)) else { return };
        pool.held.retain(|inherited| inherited.offer.name != name);
        if let Some(store) = &pool.store {
            let _ended = store.send(StoreCommand::Forget { name });
        }
    }

    /// Gives up what the process before us had and this one does not want, once all is known that is wanted.
    pub fn forget_unclaimed(&self) {
        let unclaimed: Vec<_> = {
            let pool = self.0.lock();
            let of_store = pool.held.iter().filter(|inherited| inherited.origin == Origin::Store);
            of_store.map(|inherited| (inherited.offer.transport, inherited.offer.address)).collect()
        };
        for (transport, address) in unclaimed {
            info!(%address, "an inherited socket is no longer wanted");
            self.forget(transport, address);
        }
    }
}

impl Offer {
    fn key(&self) -> (Transport, SocketAddr) {
        (self.transport, self.address)
    }
}

impl Origin {
    /// By the name of a descriptor.
    pub fn of(name: &str) -> Self {
        if name.starts_with(STORED_PREFIX) { Self::Store } else { Self::Unit }
    }
}

impl SocketName {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::EastWest => "east-west",
            Self::Ingress => "ingress",
            Self::Virtual => "virtual",
            Self::Dns => "dns",
            Self::Admin => "admin",
            Self::Control => "control",
        }
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name as systemd takes it: printable, no colon.
fn stored_name(transport: Transport, address: SocketAddr) -> String {
    let kind = if transport == Transport::Udp { "udp" } else { "tcp" };
    format!("{STORED_PREFIX}{kind}-{}", address.to_string().replace(':', "_"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn inherited(name: &str, listener: TcpListener) -> Inherited {
        let address = listener.local_addr().unwrap();
        let offer = Offer { name: name.to_owned(), transport: Transport::Tcp, address, dual_stack: false };
        Inherited { offer, socket: listener.into(), origin: Origin::of(name) }
    }

    #[test]
    fn the_socket_of_a_unit_can_be_had_again_and_is_never_stored() {
        let (listener, address) = listener();
        let (store, commands) = mpsc::channel();
        let sockets = Sockets::new(vec![inherited("mesh", listener)], Some(store));
        for _ in 0..2 {
            let taken = sockets.take(SocketName::Mesh, Transport::Tcp, address).unwrap().unwrap();
            assert_eq!(taken.local_addr().unwrap().as_socket(), Some(address));
        }
        sockets.forget(Transport::Tcp, address);
        sockets.forget_unclaimed();
        assert!(commands.try_recv().is_err());
        assert!(sockets.take(SocketName::Mesh, Transport::Tcp, address).unwrap().is_some());
    }

    #[test]
    fn a_stored_socket_is_taken_once_and_forgotten_when_nobody_wants_it() {
        let ((wanted, wanted_at), (unwanted, unwanted_at)) = (listener(), listener());
        let (store, commands) = mpsc::channel();
        let held = vec![inherited("kept-tcp-a", wanted), inherited("kept-tcp-b", unwanted)];
        let sockets = Sockets::new(held, Some(store));
        let taken = sockets.take(SocketName::Virtual, Transport::Tcp, wanted_at).unwrap();
        // It is with the service manager already.
        sockets.keep(Transport::Tcp, wanted_at, || panic!("stored twice"));
        sockets.forget_unclaimed();
        assert!(matches!(commands.try_recv(), Ok(StoreCommand::Forget { name }) if name == "kept-tcp-b"));
        TcpListener::bind(unwanted_at).unwrap();
        drop(taken);
        sockets.forget(Transport::Tcp, wanted_at);
        assert!(matches!(commands.try_recv(), Ok(StoreCommand::Forget { name }) if name == "kept-tcp-a"));
        assert!(commands.try_recv().is_err());
    }

    #[test]
    fn what_is_bound_is_stored_under_a_name_that_systemd_takes() {
        let (listener, address) = listener();
        let (store, commands) = mpsc::channel();
        let sockets = Sockets::new(Vec::new(), Some(store));
        assert!(sockets.take(SocketName::Mesh, Transport::Tcp, address).unwrap().is_none());
        sockets.keep(Transport::Tcp, address, || Ok(listener.into()));
        let Ok(StoreCommand::Keep { name, .. }) = commands.try_recv() else { panic!("not stored") };
        assert_eq!(name, format!("kept-tcp-127.0.0.1_{}", address.port()));
        assert_eq!(Origin::of(&name), Origin::Store);
        let v6 = stored_name(Transport::Udp, "[fd00::1]:53".parse().unwrap());
        assert!(!v6.contains(':') && v6.len() < 60, "{v6}");
    }
}
