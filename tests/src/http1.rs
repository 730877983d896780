//! An HTTP/1.1 client that hides nothing: a request is the text that is sent.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::echo::header;

/// One connection.
#[derive(Debug)]
pub struct Http1<S> {
    pub stream: S,
    pub unread: Vec<u8>,
}

/// An answer with a body that is as long as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// A header of the request, as an echoing endpoint saw it.
    pub fn echoed(&self, name: &str) -> Option<&str> {
        header(&self.body, name)
    }

    /// The request line that an echoing endpoint saw.
    pub fn echoed_line(&self) -> &str {
        self.body.lines().next().unwrap_or_default()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends a head, written with `\n`, and reads the answer.
    pub async fn send(&mut self, head: &str) -> io::Result<Answer> {
        let head = format!("{}\r\n\r\n", head.trim_end().replace('\n', "\r\n"));
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.flush().await?;
        self.answer(head.starts_with("CONNECT")).await
    }

    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\nHost: {host}")).await
    }

    /// Reads one answer; after a CONNECT that succeeds there is no body.
    pub async fn answer(&mut self, connect: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread.drain(..end).collect::<Vec<_>>()).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let length = header(&head, "content-length").and_then(|text| text.parse().ok());
        let length = length.filter(|_| !(connect && status == 200)).unwrap_or(0);
        while self.unread.len() < length {
            self.more().await?;
        }
        let body = String::from_utf8_lossy(&self.unread.drain(..length).collect::<Vec<_>>()).into_owned();
        Ok(Answer { status, head, body })
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
