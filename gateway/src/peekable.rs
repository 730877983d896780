//! A byte stream whose beginning can be looked at before anybody reads it.
//!
//! What is spoken on a connection is decided by its first bytes. They stay in a buffer here and come
//! out again on the next read, so that whoever serves the stream sees it whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::write_through::write_through;

/// A usual request head fits into one of these.
const PEEK_STEP: usize = 4 * 1024;

/// A stream behind the bytes that were peeked from it.
#[derive(Debug)]
pub struct Peekable<S> {
    head: BytesMut,
    stream: S,
}

impl<S> Peekable<S> {
    pub fn new(stream: S) -> Self {
        Self { head: BytesMut::new(), stream }
    }

    /// What was peeked and not yet read.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Consumes the first bytes of what was peeked.
    pub fn take_head(&mut self, bytes: usize) -> Bytes {
        self.head.split_to(bytes.min(self.head.len())).freeze()
    }

    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> Peekable<S> {
    /// Reads more into the head without consuming it; 0 means end of stream.
    pub async fn peek_more(&mut self) -> io::Result<usize> {
        self.head.reserve(PEEK_STEP);
        self.stream.read_buf(&mut self.head).await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Peekable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = buf.remaining().min(self.head.len());
        buf.put_slice(&self.head[..n]);
        self.head.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Peekable<S> {
    write_through!(stream);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peeked_bytes_are_read_again() {
        let mut stream = Peekable::new(&b"hello world"[..]);
        assert_eq!(stream.peek_more().await.unwrap(), 11);
        assert_eq!(&stream.take_head(6)[..], b"hello ");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "world");
    }
}
