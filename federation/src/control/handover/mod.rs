//! Connections of peers that came in at a gateway, carried on to the leading federation process.
//!
//! A gateway that has proven its role opens TLS with its own ALPN, says in a PROXY v2 header where the
//! connection really comes from and for which service it is, then passes raw bytes on. Nobody else can
//! invent source addresses, so limits by source hold as if the peer had come here itself. What follows
//! the header is the peer's own TLS, end to end: a gateway cannot read it.

pub mod header;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::timeout;

use crate::model::ClusterName;
use crate::peering::HandedOver;
use header::{HEADER_BYTES_MAX, Header, InvalidHeader, PREFIX_BYTES};

/// What a gateway negotiates that carries a connection on.
pub(super) const HANDOVER_ALPN: &[u8] = b"isthmus-handover/1";
/// The header must come within this time.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// Why a connection is not taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReceived {
    #[error("the header did not come in time")]
    Slow,
    #[error("the connection is lost: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] InvalidHeader),
}

/// Reads the header; what follows it stays in the stream.
pub(super) async fn receive<S>(mut stream: S, cluster: &ClusterName) -> Result<HandedOver, NotReceived>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let reading = timeout(HEADER_TIME, read(&mut stream, cluster));
    let Header { source, service } = reading.await.map_err(|_elapsed| NotReceived::Slow)??;
    Ok(HandedOver { stream: Box::new(stream), peer_address: source, service })
}

async fn read(stream: &mut (impl AsyncRead + Unpin), cluster: &ClusterName) -> Result<Header, NotReceived> {
    let mut bytes = [0; HEADER_BYTES_MAX];
    stream.read_exact(&mut bytes[..PREFIX_BYTES]).await?;
    let length = header::length(&bytes[..PREFIX_BYTES])?;
    stream.read_exact(&mut bytes[PREFIX_BYTES..length]).await?;
    Ok(header::read(&bytes[..length], cluster)?)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::peering::PeeringService;

    fn cluster() -> ClusterName {
        "cloud".try_into().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_the_header_is_left_in_the_stream() {
        let (mut gateway, leader) = tokio::io::duplex(1024);
        let source = "192.0.2.7:4711".parse().unwrap();
        gateway.write_all(&header::write(source, PeeringService::Join, &cluster())).await.unwrap();
        gateway.write_all(b"the peer's own").await.unwrap();
        drop(gateway);
        let mut received = receive(leader, &cluster()).await.unwrap();
        assert_eq!((received.peer_address, received.service), (source, PeeringService::Join));
        let mut rest = Vec::new();
        received.stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"the peer's own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_is_not_awaited() {
        let (mut gateway, leader) = tokio::io::duplex(1024);
        gateway.write_all(b"\r\n\r\n\0").await.unwrap();
        assert!(matches!(receive(leader, &cluster()).await, Err(NotReceived::Slow)));
    }
}
