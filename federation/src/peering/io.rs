//! The byte streams that peering speaks on: handed over by a gateway, or dialled; and cut when told to.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use trust_bundle::{Connection, PeerIdentity};

/// What a connection needs to be; a TCP stream, also one that replays what was peeked of it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection that a gateway accepted for us and has only looked at: it begins with a ClientHello.
pub struct HandedOver {
    pub stream: Box<dyn Io>,
    pub peer_address: SocketAddr,
    pub service: PeeringService,
}

/// What the SNI asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeeringService {
    /// `federation.<cluster>.isthmus.internal`
    Federation,
    /// `join.<cluster>.isthmus.internal`
    Join,
}

impl fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedOver")
            .field("peer_address", &self.peer_address)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// A stream after its handshake, with what the services on it may know of the other end.
pub(crate) struct Terminated<S, C> {
    stream: S,
    caller: C,
    /// Ends the stream from outside; everything on it fails at once.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// The peer on a federation connection.
#[derive(Debug, Clone)]
pub(super) struct FederationCaller {
    pub(super) identity: PeerIdentity,
    pub(super) connection: Arc<Connection>,
}

/// The stranger on a join connection.
#[derive(Debug, Clone)]
pub(super) struct JoinCaller {
    pub(super) address: SocketAddr,
    /// Names this TLS connection; a proof holds on no other.
    pub(super) exporter: [u8; 32],
    /// Proven to be its own, and not yet judged.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// Strangers may only have so many connections at a time.
    pub(super) _room: Arc<OwnedSemaphorePermit>,
}

impl<S, C> Terminated<S, C> {
    pub(crate) fn new(stream: S, caller: C, connection: Option<&Connection>) -> Self {
        let cut = connection.map(|connection| Box::pin(connection.cut_token().clone().cancelled_owned()));
        Self { stream, caller, cut }
    }

    /// Fails from the moment on at which the connection was cut.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let cut = self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready());
        if cut {
            // Once ready, it must not be polled again.
            self.cut = Some(Box::pin(already_cut()));
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut because trust has changed"));
        }
        Ok(())
    }
}

fn already_cut() -> WaitForCancellationFutureOwned {
    let token = tokio_util::sync::CancellationToken::new();
    token.cancel();
    token.cancelled_owned()
}

impl<S: Unpin, C: Clone + Send + Sync + 'static> Connected for Terminated<S, C> {
    type ConnectInfo = C;

    fn connect_info(&self) -> C {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin, C: Unpin> AsyncRead for Terminated<S, C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, C: Unpin> AsyncWrite for Terminated<S, C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
