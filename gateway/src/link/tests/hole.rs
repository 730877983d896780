//! A network between two gateways that can stop carrying anything, without telling either.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Forwards to one address, as long as it is open.
pub(super) struct Hole {
    pub(super) address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Hole {
    pub(super) async fn before(target: SocketAddr, tasks: &TaskTracker) -> Self {
        Self::for_only(usize::MAX, target, tasks).await
    }

    /// Hangs up on every connection after the first few.
    pub(super) async fn for_only(most: usize, target: SocketAddr, tasks: &TaskTracker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(true);
        let inner = tasks.clone();
        tasks.spawn(async move {
            let mut taken = 0;
            while let Ok((near, _)) = listener.accept().await {
                taken += 1;
                if taken > most {
                    continue;
                }
                near.set_nodelay(true).unwrap();
                let far = TcpStream::connect(target).await.unwrap();
                far.set_nodelay(true).unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                inner.spawn(carry(near_read, far_write, opened.clone()));
                inner.spawn(carry(far_read, near_write, opened.clone()));
            }
        });
        Self { address, open }
    }

    pub(super) fn swallow(&self) {
        self.open.send_replace(false);
    }

    pub(super) fn carry_again(&self) {
        self.open.send_replace(true);
    }
}

/// What was read while the hole was closed is kept, as a network keeps retransmitting it.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
