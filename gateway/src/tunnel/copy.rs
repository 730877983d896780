//! Bytes both ways, with half-close and back-pressure, until both sides are done or one fails.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use super::open::FarEnd;
use crate::connection::{ConnectionIo, Transport};

/// Held by each direction of each connection while it has bytes under way.
const BUFFER: usize = 16 * 1024;

/// Bytes from and to the client of a stream that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Copied {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Copies until both directions have ended; a failure of one side is passed on as a reset.
///
/// What was carried until then is said in either case.
pub(super) async fn copy<S: Transport>(io: ConnectionIo<S>, far: FarEnd) -> (Copied, io::Result<()>) {
    let mut near = Counted { io, copied: Copied::default() };
    let ended = match far {
        FarEnd::Endpoint(mut stream) => {
            let ended = copy_bidirectional_with_sizes(&mut near, &mut stream, BUFFER, BUFFER).await;
            if ended.is_err() {
                reset(&stream);
            }
            ended
        }
        // Dropped without an end, it is reset.
        FarEnd::Link(mut stream) => {
            copy_bidirectional_with_sizes(&mut near, &mut stream, BUFFER, BUFFER).await
        }
    };
    if ended.is_err() {
        reset(near.io.get_ref());
    }
    (near.copied, ended.map(|_both| ()))
}

/// The client's side, and what has passed on it.
struct Counted<S> {
    io: ConnectionIo<S>,
    copied: Copied,
}

impl<S: Transport> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.copied.received += (buf.filled().len() - before) as u64;
        Poll::Ready(read)
    }
}

impl<S: Transport> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, data));
        self.copied.sent += written.as_ref().map_or(0, |n| *n as u64);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Lets a TCP stream end with RST when dropped: a FIN would tell the reader that it has everything.
///
/// TLS and HTTP/2 streams need no such thing: theirs say themselves whether they were complete.
pub(super) fn reset(stream: &dyn Any) {
    if let Some(stream) = stream.downcast_ref::<TcpStream>() {
        // A stream that is gone already cannot be told anything.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
}
