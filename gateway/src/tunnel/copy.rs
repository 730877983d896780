//! Bytes both ways, with half-close and back-pressure, until both sides are done or one fails.

use std::any::Any;
use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use super::open::FarEnd;
use crate::connection::{ConnectionIo, Transport};

/// Held by each direction of each connection while it has bytes under way.
const BUFFER: usize = 16 * 1024;

/// Bytes from and to the client of a finished stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Copied {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Copies until both directions have ended; a failure of one side is passed on as a reset.
pub(super) async fn copy<S: Transport>(mut io: ConnectionIo<S>, far: FarEnd) -> io::Result<Copied> {
    let copied = match far {
        FarEnd::Endpoint(mut stream) => {
            let copied = copy_bidirectional_with_sizes(&mut io, &mut stream, BUFFER, BUFFER).await;
            if copied.is_err() {
                reset(&stream);
            }
            copied
        }
        // Dropped without an end, it is reset.
        FarEnd::Link(mut stream) => copy_bidirectional_with_sizes(&mut io, &mut stream, BUFFER, BUFFER).await,
    };
    if copied.is_err() {
        reset(io.get_ref());
    }
    copied.map(|(received, sent)| Copied { received, sent })
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
