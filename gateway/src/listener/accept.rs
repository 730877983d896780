//! Our own accept loop: bounded, backs off when descriptors run out, and stops when told.
//!
//! At the bound a newcomer is closed at once and counted: a client that hears "no" can go elsewhere,
//! one that waits in a backlog cannot. Links have room of their own, so that a flood of clients never
//! takes the path to the peers (design.md, section 8, "Overload").

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::bind;

/// Out of descriptors: time for others to return some.
const PAUSE: Duration = Duration::from_millis(100);

/// Room for one connection; given back when dropped.
pub type Slot = OwnedSemaphorePermit;

/// No queue is longer.
const WAITING_MAX: usize = 4_096;

/// A connection that nobody has looked at yet.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub from: SocketAddr,
    pub slot: Slot,
}

/// How many connections a process serves at once.
#[derive(Debug, Clone)]
pub struct Room {
    clients: Arc<Semaphore>,
    clients_max: usize,
    links: Arc<Semaphore>,
    links_max: usize,
}

/// Most of the room, unless the process may hold fewer descriptors.
const CLIENTS_MAX: usize = 65_536;
/// Links and streams for the federation process: few, long-lived, and the last that may be refused.
const LINKS_MAX: usize = 4_096;
/// Of one peer, where there is much room.
const LINKS_PER_PEER_MAX: usize = 256;
/// A proxied connection takes two descriptors, and files, sockets and probes need some too.
const DESCRIPTORS_A_CONNECTION: usize = 3;

impl Room {
    pub fn new(clients: usize, links: usize) -> Self {
        let room = |places| Arc::new(Semaphore::new(places));
        Self { clients: room(clients), clients_max: clients, links: room(links), links_max: links }
    }

    /// As much as this process may hold descriptors for, where the system says how many those are.
    pub fn of_this_process() -> Self {
        Self::within(std::fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(descriptors))
    }

    /// As much as a process with so many descriptors can serve; none means that nobody could say.
    pub fn within(descriptors: Option<usize>) -> Self {
        let all = descriptors.map_or(CLIENTS_MAX, |n| n / DESCRIPTORS_A_CONNECTION);
        let links = LINKS_MAX.min(all / 8).max(1);
        Self::new(CLIENTS_MAX.min(all - all / 8).max(1), links)
    }

    pub fn clients(&self) -> &Arc<Semaphore> {
        &self.clients
    }

    pub fn links(&self) -> &Arc<Semaphore> {
        &self.links
    }

    /// Links that one peer may hold open: it must not take the room of the others (notes/trust 4.4).
    pub fn links_per_peer(&self) -> usize {
        LINKS_PER_PEER_MAX.min(self.links_max / 2).max(1)
    }

    /// Is less than an eighth of the room for clients left.
    pub fn is_nearly_full(&self) -> bool {
        self.clients.available_permits() < self.clients_max.div_ceil(8)
    }
}

/// The soft limit of open files in the text of `/proc/self/limits`.
pub(crate) fn descriptors(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Accepts until told to stop, and then closes the socket; `refused` counts who found no room.
pub async fn accept(
    listener: TcpListener,
    room: Arc<Semaphore>,
    stop: CancellationToken,
    refused: impl Fn(SocketAddr),
    serve: impl Fn(Accepted),
) {
    let welcome = |stream: TcpStream, from| match room.clone().try_acquire_owned() {
        // A stream that cannot be tuned is gone already.
        Ok(slot) if bind::tune(&stream).is_ok() => serve(Accepted { stream, from, slot }),
        Ok(_slot) => {}
        Err(_full) => refused(from),
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => welcome(stream, from),
            Err(error) if is_of_one_connection(error.kind()) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
    // Who has connected already would be reset together with the socket.
    waiting(listener).into_iter().for_each(|(stream, from)| welcome(stream, from));
}

/// The connections in the queue of a socket that is about to be closed: asked of the system itself, since
/// the runtime may not have heard of them yet. A connection that comes later than this is refused.
fn waiting(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let mut found = Vec::new();
    for _ in 0..WAITING_MAX {
        match listener.accept() {
            Ok((stream, from)) if stream.set_nonblocking(true).is_ok() => {
                found.extend(TcpStream::from_std(stream).ok().map(|stream| (stream, from)));
            }
            Ok(_gone) => {}
            Err(error) if is_of_one_connection(error.kind()) => {}
            Err(_none_or_no_descriptors) => break,
        }
    }
    found
}

/// The client left between its handshake and our accept.
fn is_of_one_connection(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::host::{SocketName, Sockets};

    #[test]
    fn room_follows_the_descriptors() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max cpu time              unlimited            unlimited            seconds\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(descriptors(limits), Some(1024));
        assert_eq!(descriptors("Max open files            unlimited  unlimited"), None);
        assert_eq!(descriptors(""), None);
        for (descriptors, clients, links) in
            [(None, 57_344, 4_096), (Some(1024), 299, 42), (Some(10_000_000), 65_536, 4_096), (Some(3), 1, 1)]
        {
            let room = Room::within(descriptors);
            let available = (room.clients.available_permits(), room.links.available_permits());
            assert_eq!(available, (clients, links), "{descriptors:?}");
        }
    }

    #[tokio::test]
    async fn who_has_connected_before_the_stop_is_served() {
        let listener =
            bind::listen(&Sockets::none(), SocketName::Mesh, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, served) = (CancellationToken::new(), AtomicUsize::new(0));
        // The runtime has no chance to hear of them.
        let clients: Vec<_> = (0..8).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        stop.cancel();
        let serve = |_| _ = served.fetch_add(1, Ordering::Relaxed);
        accept(listener, Arc::new(Semaphore::new(8)), stop, |_| panic!("there is room"), serve).await;
        assert_eq!(served.load(Ordering::Relaxed), clients.len());
        assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
    }

    #[tokio::test]
    async fn who_finds_no_room_is_closed_and_counted() {
        let listener =
            bind::listen(&Sockets::none(), SocketName::Mesh, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, held, refused) = (CancellationToken::new(), Mutex::new(Vec::new()), AtomicUsize::new(0));
        let room = Arc::new(Semaphore::new(1));
        let accepting = accept(
            listener,
            room.clone(),
            stop.clone(),
            |_| _ = refused.fetch_add(1, Ordering::Relaxed),
            |accepted| held.lock().push(accepted),
        );
        let clients = async {
            let _first = TcpStream::connect(address).await.unwrap();
            let mut second = TcpStream::connect(address).await.unwrap();
            assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0, "closed");
            held.lock().clear();
            assert_eq!(room.available_permits(), 1);
            stop.cancel();
        };
        tokio::join!(accepting, clients);
        assert_eq!(refused.load(Ordering::Relaxed), 1);
        assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
    }
}
