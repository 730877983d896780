//! One HTTP/2 CONNECT stream as a byte stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// At most this much is queued in h2 by one write, so that a fast writer cannot fill the memory.
const WRITE_MAX: usize = 64 * 1024;

/// Either end of a CONNECT stream after its 200.
///
/// End it with `shutdown()`: dropped without, it is reset, and the other side takes that for a failure.
pub struct Tunnel {
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
    unread: Bytes,
    finished: bool,
}

impl Tunnel {
    pub fn new(send: h2::SendStream<Bytes>, receive: h2::RecvStream) -> Self {
        Self { send, receive, unread: Bytes::new(), finished: false }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tunnel({:?})", self.send.stream_id())
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        // The window opens only for what was really consumed: back-pressure ends at the reader.
        self.receive.flow_control().release_capacity(n).map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(data.len().min(WRITE_MAX));
        let n = loop {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(0)) => {} // h2 may wake us before there is anything; 0 would mean WriteZero
                Some(Ok(n)) => break n.min(data.len()),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        self.send.send_data(Bytes::copy_from_slice(&data[..n]), false).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    /// h2 sends by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.finished, true) {
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
