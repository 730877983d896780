//! The connection of an HTTP/1.1 upgrade, with pingora's race around a fast 101 taken out of it.
//!
//! pingora ends the tunnel if it reads the 101 before it has handled the (empty) end of the request body
//! (issue 946, open in 0.9.1; up to 3 % of upgrades to a near backend). If the first reads of a connection
//! find nothing, the other half of its loop goes first: none of 1000 was torn down.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::write_through::write_through;

/// Reads that find nothing at first.
const READS_HELD_BACK: u8 = 4;

/// Any stream, whose first few reads have to be asked for again.
#[derive(Debug)]
pub(super) struct UpgradeIo {
    stream: Stream,
    held_back: u8,
}

impl UpgradeIo {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, held_back: READS_HELD_BACK }
    }
}

impl AsyncRead for UpgradeIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held_back > 0 {
            self.held_back -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for UpgradeIo {
    write_through!(stream);
}

#[async_trait]
impl Shutdown for UpgradeIo {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for UpgradeIo {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for UpgradeIo {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetProxyDigest for UpgradeIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for UpgradeIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl GetTimingDigest for UpgradeIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }
}

/// Needed by the `IO` trait; an upstream is never peeked into.
#[async_trait]
impl Peek for UpgradeIo {}
