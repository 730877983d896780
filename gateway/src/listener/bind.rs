//! Sockets that are bound before anything serves them, so that a failure is an answer and not a panic.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel holds while all our tasks are busy.
const BACKLOG: i32 = 1024;
/// A peer that vanished is noticed after about two minutes, also on connections that carry nothing.
const KEEPALIVE_IDLE: std::time::Duration = std::time::Duration::from_secs(60);
const KEEPALIVE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(15);

/// A socket could not be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}; hint: {remedy}")]
pub struct NotBound {
    pub address: SocketAddr,
    pub reason: io::Error,
    pub remedy: String,
}

/// Binds and listens; must be called within the runtime.
pub fn listen(address: SocketAddr) -> Result<TcpListener, NotBound> {
    open(address).map_err(|reason| NotBound::new(address, reason))
}

impl NotBound {
    /// Says what to do about a failure to bind.
    pub fn new(address: SocketAddr, reason: io::Error) -> Self {
        Self { address, remedy: remedy(address, reason.kind()), reason }
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the process before us may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // 0.0.0.0 and [::] are two listeners, so that each means what it says.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// What every accepted or dialled stream gets: no delay for small frames, and an end to the dead.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn remedy(address: SocketAddr, kind: io::ErrorKind) -> String {
    let (ip, port) = (address.ip(), address.port());
    match kind {
        io::ErrorKind::AddrInUse => {
            format!(
                "something else listens there, `ss -ltnp 'sport = :{port}'` says what; stop it or choose another port"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface of this machine has {ip}; add it, or choose an address that exists")
        }
        io::ErrorKind::PermissionDenied => format!(
            "port {port} needs CAP_NET_BIND_SERVICE, or `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        ),
        _ => "free descriptors or memory; it is tried again".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_socket_says_what_to_do() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let refused = listen(address).unwrap_err();
        assert_eq!(refused.reason.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&format!("sport = :{}", address.port())), "{refused}");
        drop(first);
        listen(address).unwrap();
    }

    #[tokio::test]
    async fn an_address_of_nobody_says_so() {
        let refused = listen("192.0.2.1:80".parse().unwrap()).unwrap_err();
        assert!(refused.remedy.contains("no interface") || refused.remedy.contains("CAP_NET"), "{refused}");
    }
}
