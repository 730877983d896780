//! The server: UDP and TCP on one address, both bounded.
//!
//! Answers are made in place, since they cost microseconds and wait for nothing. Clients over TCP have a task
//! each, a limit on their number, and little time to be silent. hickory's own server has no such limit,
//! which is why only its codec is used.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::snapshot::{Generation, Snapshot};

use super::wire::{Carrier, respond};

/// Clients over TCP at one time; the next ones wait in the kernel's queue.
pub const TCP_CLIENTS_MAX: usize = 128;
/// How long a client over TCP may take for a query, or for reading an answer.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Largest query; one question and EDNS need a few hundred.
const QUERY_BYTES_MAX: usize = 4096;
/// After an error of a socket, so that a lasting one does not take a whole core.
const ERROR_REST: Duration = Duration::from_millis(50);
/// Ports that are tried where the system chooses: TCP must be free on the one that UDP got.
const BIND_ATTEMPTS: usize = 16;

#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    local_addr: SocketAddr,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Server {
    /// Binds both sockets; with port 0 the system chooses one port for both.
    pub async fn build(address: SocketAddr, snapshots: watch::Receiver<Arc<Snapshot>>) -> io::Result<Self> {
        Self::on(bind(address).await?, snapshots)
    }

    /// Serves on sockets that somebody else opened, both at one address.
    pub fn on(
        (udp, tcp): (UdpSocket, TcpListener),
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> io::Result<Self> {
        let local_addr = udp.local_addr()?;
        Ok(Self { udp, tcp, local_addr, snapshots })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers until `shutdown`; clients over TCP are cut off then, as they may ask again elsewhere.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { udp, tcp, mut snapshots, .. } = self;
        let serving = async {
            // Who asks before the sources have spoken waits: a resolver would keep our NXDOMAIN.
            if snapshots.wait_for(|snapshot| snapshot.generation > Generation::default()).await.is_err() {
                return shutdown.cancelled().await;
            }
            tokio::select! {
                () = serve_udp(udp, snapshots.clone()) => {}
                () = serve_tcp(tcp, snapshots.clone()) => {}
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = serving => {}
        }
    }
}

/// UDP and TCP at one address; with port 0 the system chooses one port for both.
pub async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = if address.port() == 0 { BIND_ATTEMPTS } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).await?;
        attempts -= 1;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(taken) if taken.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

async fn serve_udp(socket: UdpSocket, snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut query = vec![0; QUERY_BYTES_MAX];
    loop {
        match socket.recv_from(&mut query).await {
            Ok((length, client)) => {
                let snapshot = snapshots.borrow().clone();
                if let Some(response) = respond(&snapshot, &query[..length], Carrier::Udp)
                    && let Err(error) = socket.send_to(&response, client).await
                {
                    tracing::debug!(%client, %error, "a DNS response could not be sent");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the DNS socket fails");
                sleep(ERROR_REST).await;
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut clients = JoinSet::new();
    loop {
        while clients.len() >= TCP_CLIENTS_MAX {
            clients.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => _ = clients.spawn(serve_client(stream, snapshots.clone())),
                Err(error) => {
                    tracing::warn!(%error, "the DNS listener fails");
                    sleep(ERROR_REST).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// One query after the other, until the client ends, errs or is silent.
async fn serve_client(mut stream: TcpStream, snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut query = Vec::new();
    while let Ok(Ok(())) = timeout(TCP_IDLE, read_query(&mut stream, &mut query)).await {
        let snapshot = snapshots.borrow().clone();
        let Some(response) = respond(&snapshot, &query, Carrier::Tcp) else { return };
        let Ok(length) = u16::try_from(response.len()) else { return };
        let mut framed = Vec::with_capacity(response.len() + 2);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&response);
        if !matches!(timeout(TCP_IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// A message after its length in two bytes (RFC 1035, section 4.2.2).
async fn read_query(stream: &mut TcpStream, query: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUERY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    query.resize(length, 0);
    stream.read_exact(query).await.map(|_| ())
}
