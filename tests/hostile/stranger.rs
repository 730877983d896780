//! One who sends what nobody should, as data, and what he sees.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::frames;

/// What is sent on a connection.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Say(Vec<u8>),
    /// A byte at a time, with a pause.
    Slowly(Vec<u8>, Duration),
    /// The same again and again.
    Flood(Vec<u8>, usize),
    /// A request for each odd number from 1, at once taken back.
    Resets(fn(u32) -> Vec<u8>, u32),
}

/// When the stranger has seen enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The other side ends the connection.
    Ended,
    /// All is sent and the first bytes of an answer are there; it is ended by the stranger.
    Answered,
    /// All is sent; nothing is ever read.
    Sent,
}

/// Everything that came back, and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    bytes: Vec<u8>,
    closed: bool,
    /// It had to be given up.
    late: bool,
}

/// Longer than any deadline of ours.
const PATIENCE: Duration = Duration::from_secs(100);
const RESETS_AT_ONCE: usize = 8 * 1024;
const SEEN_BYTES_MAX: usize = 1 << 20;

pub(crate) async fn visit(address: SocketAddr, acts: &[Act], until: Until) -> Seen {
    let stream = TcpStream::connect(address).await.expect("the door is open");
    stream.set_nodelay(true).expect("a socket");
    over(stream, acts, until).await
}

/// On a stream that is there already.
pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite, acts: &[Act], until: Until) -> Seen {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut seen = Seen::default();
    let writing = async {
        for act in acts {
            if perform(&mut write, act).await.is_err() {
                return;
            }
        }
    };
    let talking = async {
        match until {
            Until::Sent => writing.await,
            Until::Ended => {
                let reading = seen.read(&mut read, usize::MAX);
                tokio::pin!(writing);
                tokio::pin!(reading);
                tokio::select! {
                    () = &mut reading => {}
                    () = &mut writing => reading.await,
                }
            }
            Until::Answered => {
                writing.await;
                seen.read(&mut read, 1).await;
            }
        }
    };
    let late = timeout(PATIENCE, talking).await.is_err();
    Seen { late, ..seen }
}

async fn perform(write: &mut (impl AsyncWrite + Unpin), act: &Act) -> std::io::Result<()> {
    match act {
        Act::Say(bytes) => write.write_all(bytes).await?,
        Act::Slowly(bytes, pause) => {
            for byte in bytes {
                write.write_all(&[*byte]).await?;
                write.flush().await?;
                sleep(*pause).await;
            }
        }
        Act::Flood(bytes, times) => {
            for _ in 0..*times {
                write.write_all(bytes).await?;
            }
        }
        Act::Resets(request, times) => {
            let all: Vec<u8> = (0..*times).flat_map(|number| request(2 * number + 1)).collect();
            // Many arrive at once, whatever the machine does.
            for some in all.chunks(RESETS_AT_ONCE) {
                write.write_all(some).await?;
            }
        }
    }
    write.flush().await
}

impl Seen {
    async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin), bytes_min: usize) {
        let mut buffer = vec![0; 16 * 1024];
        let mut total = 0;
        while total < bytes_min {
            match stream.read(&mut buffer).await {
                Ok(n @ 1..) => {
                    total += n;
                    let room = SEEN_BYTES_MAX.saturating_sub(self.bytes.len());
                    self.bytes.extend_from_slice(&buffer[..n.min(room)]);
                }
                Ok(0) | Err(_) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// In a few words: a status, a goodbye, an alert, and whether it was closed.
    pub(crate) fn told(&self) -> String {
        let said = match self.bytes.as_slice() {
            [] => "nothing".to_owned(),
            [b'H', b'T', b'T', b'P', ..] => {
                String::from_utf8_lossy(&self.bytes).split(' ').nth(1).unwrap_or("?").to_owned()
            }
            [0x15 | 0x16, 3, ..] => "TLS".to_owned(),
            bytes => match (frames::goodbye(bytes), frames::answers(bytes)) {
                (Some(code), _) => format!("GOAWAY {code}"),
                (None, (0, 0)) => "HTTP/2".to_owned(),
                (None, (0, _)) => "RST_STREAM".to_owned(),
                (None, _) => "HTTP/2 answers".to_owned(),
            },
        };
        if self.late {
            return format!("{said}, and no end");
        }
        if self.closed { format!("{said}, closed") } else { said }
    }
}
