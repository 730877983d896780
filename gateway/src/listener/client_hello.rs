//! The server name of a TLS connection, read before anybody decides who shall terminate it.
//!
//! Nothing is consumed and nothing is answered: what is not for us is closed without an alert, so that
//! a stranger learns no more than that somebody listens.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::AsyncRead;
use tokio::time::timeout;

use crate::peekable::Peekable;

/// A ClientHello with post-quantum key shares takes 2 KiB; nobody needs more than this.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// A client that means it sends its ClientHello in one go.
pub const CLIENT_HELLO_TIME_MAX: Duration = Duration::from_secs(3);

/// Why no server name could be read.
#[derive(Debug, thiserror::Error)]
pub enum NoServerName {
    #[error("no complete ClientHello within {} s", CLIENT_HELLO_TIME_MAX.as_secs())]
    Slow,
    #[error("more than {CLIENT_HELLO_BYTES_MAX} bytes of ClientHello")]
    Large,
    #[error("the stream ended within the ClientHello")]
    Closed,
    #[error("not a ClientHello")]
    Malformed,
    #[error("a ClientHello without server name")]
    Absent,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl NoServerName {
    /// A bounded word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Slow => "client_hello_slow",
            Self::Large => "client_hello_large",
            Self::Closed | Self::Io(_) => "client_hello_closed",
            Self::Malformed => "client_hello_malformed",
            Self::Absent => "sni_absent",
        }
    }
}

/// Reads the server name, in lower case, and leaves all bytes where they are.
pub async fn server_name<S: AsyncRead + Unpin>(stream: &mut Peekable<S>) -> Result<String, NoServerName> {
    timeout(CLIENT_HELLO_TIME_MAX, peek(stream)).await.unwrap_or(Err(NoServerName::Slow))
}

pub(crate) async fn peek<S: AsyncRead + Unpin>(stream: &mut Peekable<S>) -> Result<String, NoServerName> {
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        let mut unseen = &stream.head()[seen..];
        while !unseen.is_empty() {
            acceptor.read_tls(&mut unseen).map_err(|_unreadable| NoServerName::Malformed)?;
        }
        seen = stream.head().len();
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return name.ok_or(NoServerName::Absent);
            }
            Ok(None) if seen >= CLIENT_HELLO_BYTES_MAX => return Err(NoServerName::Large),
            Ok(None) => {}
            // The alert is dropped on purpose.
            Err((_error, _alert)) => return Err(NoServerName::Malformed),
        }
        if stream.peek_more().await? == 0 {
            return Err(NoServerName::Closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// The first flight of a real rustls client.
    fn hello(name: &str) -> Vec<u8> {
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    async fn judge(bytes: &[u8]) -> Result<String, NoServerName> {
        let (mut ours, theirs) = duplex(64 * 1024);
        ours.write_all(bytes).await.unwrap();
        ours.shutdown().await.unwrap();
        server_name(&mut Peekable::new(theirs)).await
    }

    #[tokio::test]
    async fn the_name_is_read_and_the_bytes_stay() {
        let bytes = hello("Gateway.Cloud.isthmus.internal");
        let (mut ours, theirs) = duplex(16);
        let mut stream = Peekable::new(theirs);
        let writing = async {
            for byte in &bytes {
                ours.write_all(&[*byte]).await.unwrap();
            }
            ours.shutdown().await.unwrap();
        };
        let (name, ()) = tokio::join!(server_name(&mut stream), writing);
        assert_eq!(name.unwrap(), "gateway.cloud.isthmus.internal");
        let mut again = Vec::new();
        stream.read_to_end(&mut again).await.unwrap();
        assert_eq!(again, bytes);
    }

    #[tokio::test]
    async fn strangers_are_told_apart_and_never_panic() {
        let truncated = &hello("a.example")[..40];
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "client_hello_malformed"),
            (b"", "client_hello_closed"),
            (truncated, "client_hello_closed"),
            (&hello("127.0.0.1"), "sni_absent"),
            (&[0x16, 3, 1, 0xff, 0xff, 1, 2, 3], "client_hello_malformed"),
        ] {
            assert_eq!(judge(bytes).await.unwrap_err().reason(), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn an_endless_hello_is_bounded() {
        // One handshake message that claims 60 000 bytes, in records of 1 KiB.
        let mut bytes = Vec::new();
        for record in 0..32 {
            bytes.extend([0x16, 3, 1, 4, 0]);
            let mut fragment = [0; 1024];
            if record == 0 {
                fragment[..4].copy_from_slice(&[1, 0, 0xea, 0x60]);
            }
            bytes.extend(fragment);
        }
        assert_eq!(judge(&bytes).await.unwrap_err().reason(), "client_hello_large");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_dropped() {
        let (_ours, theirs) = duplex(16);
        assert!(matches!(server_name(&mut Peekable::new(theirs)).await, Err(NoServerName::Slow)));
    }
}
