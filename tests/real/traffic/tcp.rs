//! TCP clients: short exchanges, and connections that last.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::{Clients, told};
use super::outcome::{Flow, Under};

/// Connections that last, at any time.
const STREAMS: usize = 4;
/// Then a client comes with a new one, as pools do; a drain waits longer.
const QUESTIONS_MAX: u64 = 80;

struct Conversation {
    stream: BufReader<TcpStream>,
    near: Option<IpAddr>,
    far: Option<IpAddr>,
}

pub(super) async fn ask(clients: Arc<Clients>, number: u64) -> (Under, anyhow::Result<()>) {
    let mut under = Under::default();
    let asked = async {
        let mut conversation = Conversation::open(&clients, &mut under).await?;
        conversation.ask(number).await?;
        conversation.end().await
    };
    let answered = asked.await;
    (under, answered)
}

pub(super) fn streams(clients: &Arc<Clients>, stop: &CancellationToken, tasks: &TaskTracker) {
    for _ in 0..STREAMS {
        tasks.spawn(stream(clients.clone(), stop.clone()));
    }
}

async fn stream(clients: Arc<Clients>, stop: CancellationToken) {
    let mut ticks = interval(clients.stream_every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open: Option<Conversation> = None;
    for number in 0.. {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        if number % QUESTIONS_MAX == 0
            && let Some(old) = open.take()
        {
            told(Flow::Stream, last(old)).await;
        }
        let mut conversation = open.take();
        let asking = async {
            let mut under = Under::default();
            let answered = async {
                if conversation.is_none() {
                    conversation = Some(Conversation::open(&clients, &mut under).await?);
                }
                let Some(conversation) = &mut conversation else { bail!("just opened") };
                (under.near, under.far) = (conversation.near, conversation.far);
                conversation.ask(number).await
            };
            let answered = answered.await;
            (under, answered)
        };
        if told(Flow::Stream, asking).await {
            open = conversation;
        }
    }
}

async fn last(conversation: Conversation) -> (Under, anyhow::Result<()>) {
    let under = Under { near: conversation.near, far: conversation.far, ..Under::default() };
    (under, conversation.end().await)
}

impl Conversation {
    async fn open(clients: &Clients, under: &mut Under) -> anyhow::Result<Self> {
        let addresses = clients.resolve().await?;
        let mut stream = BufReader::new(clients.connect(&addresses, under).await?);
        let mut greeting = String::new();
        if stream.read_line(&mut greeting).await.context("no greeting")? == 0 {
            bail!("closed before the greeting");
        }
        under.far = greeting.trim().parse().ok();
        Ok(Self { stream, near: under.near, far: under.far })
    }

    async fn ask(&mut self, number: u64) -> anyhow::Result<()> {
        let (question, mut answer) = (format!("question {number}\n"), String::new());
        self.stream.write_all(question.as_bytes()).await.context("question")?;
        if self.stream.read_line(&mut answer).await.context("answer")? == 0 {
            bail!("closed before the answer");
        }
        if answer != question {
            bail!("answered {answer:?} to {question:?}");
        }
        Ok(())
    }

    /// Says goodbye and waits for that of the other side.
    async fn end(mut self) -> anyhow::Result<()> {
        self.stream.shutdown().await.context("goodbye")?;
        let mut rest = String::new();
        if self.stream.read_line(&mut rest).await.context("end")? > 0 {
            bail!("said {rest:?} at the end");
        }
        Ok(())
    }
}
