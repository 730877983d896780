//! A connection that says a byte now and then, and hears it again.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const EVERY: Duration = Duration::from_millis(200);
const ECHO_TIME_MAX: Duration = Duration::from_secs(5);

/// Goes on until it is stopped.
pub(crate) struct Trickle {
    echoed: JoinHandle<u32>,
    stop: CancellationToken,
}

impl Trickle {
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        let stream = TcpStream::connect(address).await.unwrap();
        let echoed = TaskTracker::new().spawn(trickle(stream, stop.clone()));
        Self { echoed, stop }
    }

    /// How many bytes came back; panics if the connection broke.
    pub(crate) async fn stop(self) -> u32 {
        self.stop.cancel();
        self.echoed.await.unwrap()
    }
}

async fn trickle(mut stream: TcpStream, stop: CancellationToken) -> u32 {
    let (mut said, mut ticks) = (0_u32, interval(EVERY));
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        stream.write_u32(said).await.unwrap_or_else(|error| panic!("broke after {said}: {error}"));
        let heard = timeout(ECHO_TIME_MAX, stream.read_u32()).await;
        let heard = heard.unwrap_or_else(|_| panic!("silent after {said}"));
        assert_eq!(heard.unwrap_or_else(|error| panic!("broke after {said}: {error}")), said);
        said += 1;
    }
    said
}
