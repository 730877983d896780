//! The rim: takes over the sockets that the environment names (sd_listen_fds(3)).

use std::io;

use federation::model::Transport;
use listenfd::ListenFd;
use socket2::Socket;
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
        match take(&mut listening, at).and_then(|(transport, socket)| offer(name, transport, socket)) {
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

fn take(listening: &mut ListenFd, at: usize) -> io::Result<(Transport, Socket)> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    if let Ok(Some(socket)) = listening.take_tcp_listener(at) {
        return Ok((Transport::Tcp, socket.into()));
    }
    listening.take_udp_socket(at)?.map(|socket| (Transport::Udp, socket.into())).ok_or_else(gone)
}

fn offer(name: &str, transport: Transport, socket: Socket) -> io::Result<Inherited> {
    let no_address = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    let address = socket.local_addr()?.as_socket().ok_or_else(no_address)?;
    if transport == Transport::Tcp && !socket.is_listener()? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "is a connection; write Accept=no into its unit",
        ));
    }
    let dual_stack = address.is_ipv6() && !socket.only_v6()?;
    socket.set_nonblocking(true)?;
    let origin = Origin::of(name);
    Ok(Inherited { offer: Offer { name: name.to_owned(), transport, address, dual_stack }, socket, origin })
}
