//! The rim: takes over the sockets that the environment names (sd_listen_fds(3)).

use std::io;

use federation::model::Transport;
use listenfd::ListenFd;
use socket2::{Socket, Type};
use tracing::warn;

use super::matching::Offer;
use super::sockets::{Inherited, Origin};

/// The sockets that this process was started with.
///
/// Must be called before any thread is started: the variables are taken out of the environment.
pub fn inherited() -> Vec<Inherited> {
    let names = names();
    let mut listening = ListenFd::from_env();
    let sockets = (0..listening.len()).filter_map(|at| {
        let name = names.get(at).map_or("unknown", String::as_str);
        match take(&mut listening, at).and_then(|socket| Inherited::new(name, socket)) {
            Ok(inherited) => Some(inherited),
            Err(error) => {
                warn!(name, %error, hint = "only sockets of ListenStream and ListenDatagram with an IP address are used", "an inherited descriptor is passed over");
                None
            }
        }
    });
    sockets.collect()
}

#[expect(clippy::disallowed_methods, reason = "a protocol with the service manager, and no setting of ours")]
fn names() -> Vec<String> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    names.split(':').map(str::to_owned).collect()
}

fn take(listening: &mut ListenFd, at: usize) -> io::Result<Socket> {
    if let Ok(Some(socket)) = listening.take_tcp_listener(at) {
        return Ok(socket.into());
    }
    listening.take_udp_socket(at)?.map(Socket::from).ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Inherited {
    /// Looks at a socket that somebody opened; fails if it is none that we could use.
    pub fn new(name: &str, socket: impl Into<Socket>) -> io::Result<Self> {
        let unusable = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let socket = socket.into();
        let transport = match socket.r#type()? {
            Type::STREAM if socket.is_listener()? => Transport::Tcp,
            Type::STREAM => return Err(unusable("is a connection; write Accept=no into its unit")),
            Type::DGRAM => Transport::Udp,
            _ => return Err(unusable("is neither TCP nor UDP")),
        };
        let address = socket.local_addr()?.as_socket().ok_or_else(|| unusable("has no IP address"))?;
        let dual_stack = address.is_ipv6() && !socket.only_v6()?;
        socket.set_nonblocking(true)?;
        let offer = Offer { name: name.to_owned(), transport, address, dual_stack };
        Ok(Self { offer, socket, origin: Origin::of(name) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_says_itself_what_it_is() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, udp) = (tcp.local_addr().unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        let connection = TcpStream::connect(address).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(directory.path().join("socket")).unwrap();
        let tcp = Inherited::new("mesh", tcp).unwrap();
        assert_eq!(
            (tcp.offer.transport, tcp.offer.address, tcp.origin),
            (Transport::Tcp, address, Origin::Unit)
        );
        assert_eq!(Inherited::new("kept-udp", udp).unwrap().offer.transport, Transport::Udp);
        assert!(Inherited::new("mesh", connection).unwrap_err().to_string().contains("Accept=no"));
        assert!(Inherited::new("admin", unix).is_err());
    }
}
