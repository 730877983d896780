//! Sockets that are bound before anything serves them, so that a failure is an answer and not a panic.

use std::io;
use std::net::SocketAddr;

use federation::dns;
use federation::model::Transport;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::host::{SocketName, Sockets};

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

/// Binds and listens, or goes on with what was inherited; must be called within the runtime.
pub fn listen(sockets: &Sockets, name: SocketName, address: SocketAddr) -> Result<TcpListener, NotBound> {
    let listener = open_std(sockets, name, address).and_then(TcpListener::from_std);
    listener.map_err(|reason| NotBound::new(address, reason))
}

/// The same, for a runtime that comes later.
pub fn listen_std(
    sockets: &Sockets,
    name: SocketName,
    address: SocketAddr,
) -> Result<std::net::TcpListener, NotBound> {
    open_std(sockets, name, address).map_err(|reason| NotBound::new(address, reason))
}

/// Both sockets of a DNS server, inherited or bound.
pub async fn listen_dns(
    sockets: &Sockets,
    address: SocketAddr,
) -> Result<(UdpSocket, TcpListener), NotBound> {
    open_dns(sockets, address).await.map_err(|reason| NotBound::new(address, reason))
}

impl NotBound {
    /// Says what to do about a failure to bind.
    pub fn new(address: SocketAddr, reason: io::Error) -> Self {
        Self { address, remedy: remedy(address, reason.kind()), reason }
    }
}

fn open_std(sockets: &Sockets, name: SocketName, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    if let Some(inherited) = sockets.take(name, Transport::Tcp, address)? {
        // A unit may have set a shorter queue.
        inherited.listen(BACKLOG)?;
        return Ok(inherited.into());
    }
    let socket = bound(address, Type::STREAM)?;
    socket.listen(BACKLOG)?;
    if address.port() != 0 {
        sockets.keep(Transport::Tcp, address, || Ok(socket.try_clone()?.into()));
    }
    Ok(socket.into())
}

async fn open_dns(sockets: &Sockets, address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    if address.port() == 0 {
        return dns::bind(address).await;
    }
    let udp = match sockets.take(SocketName::Dns, Transport::Udp, address)? {
        Some(inherited) => inherited,
        None => {
            let socket = bound(address, Type::DGRAM)?;
            sockets.keep(Transport::Udp, address, || Ok(socket.try_clone()?.into()));
            socket
        }
    };
    let tcp = open_std(sockets, SocketName::Dns, address)?;
    Ok((UdpSocket::from_std(udp.into())?, TcpListener::from_std(tcp)?))
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if kind == Type::STREAM {
        // Connections of the process before us may still be in TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        // 0.0.0.0 and [::] are two listeners, so that each means what it says.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
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

    fn mesh(address: SocketAddr) -> Result<TcpListener, NotBound> {
        listen(&Sockets::none(), SocketName::Mesh, address)
    }

    #[tokio::test]
    async fn a_taken_socket_says_what_to_do() {
        let first = mesh("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let refused = mesh(address).unwrap_err();
        assert_eq!(refused.reason.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&format!("sport = :{}", address.port())), "{refused}");
        drop(first);
        mesh(address).unwrap();
    }

    #[tokio::test]
    async fn an_address_of_nobody_says_so() {
        let refused = mesh("192.0.2.1:80".parse().unwrap()).unwrap_err();
        assert!(refused.remedy.contains("no interface") || refused.remedy.contains("CAP_NET"), "{refused}");
    }
}
