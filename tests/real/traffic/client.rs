//! The program of the clients: each kind of request at its own constant rate.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::{Flow, Outcome, Under};
use super::{http, tcp};
use crate::clock;

/// A client that was not answered by then goes away.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// As long as Happy Eyeballs and most libraries give one of several addresses, and more.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// Whom the clients of one cluster ask, and what for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) nameservers: Vec<SocketAddr>,
    pub(crate) http: String,
    /// A service that both clusters have.
    pub(crate) shared: String,
    pub(crate) tcp: String,
    pub(crate) tcp_port: u16,
}

/// What all requests of one kind share.
pub(super) struct Clients {
    pub(super) plan: Plan,
    turn: AtomicUsize,
}

/// Runs until standard input ends, then until everything is answered; one line for each request.
pub(crate) async fn generate(plan: Plan) -> anyhow::Result<()> {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let clients = Arc::new(Clients { plan, turn: AtomicUsize::new(0) });
    let http = Arc::new(http::Connections::new(clients.clone(), tasks.clone()));
    for flow in Flow::ALL {
        match flow {
            Flow::Stream => tcp::streams(&clients, &stop, &tasks),
            Flow::Tcp => {
                let clients = clients.clone();
                let request = move |number| tcp::ask(clients.clone(), number);
                tasks.spawn(at_rate(flow, stop.clone(), tasks.clone(), request));
            }
            _ => {
                let http = http.clone();
                let request = move |number| http::ask(http.clone(), flow, number);
                tasks.spawn(at_rate(flow, stop.clone(), tasks.clone(), request));
            }
        }
    }
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    stop.cancel();
    tasks.close();
    // Connections that nobody uses any more need not end.
    drop(http);
    drop(timeout(2 * ANSWER_TIME_MAX, tasks.wait()).await);
    Ok(())
}

async fn at_rate<F>(
    flow: Flow,
    stop: CancellationToken,
    tasks: TaskTracker,
    request: impl Fn(u64) -> F + Send + 'static,
) where
    F: Future<Output = (Under, anyhow::Result<()>)> + Send + 'static,
{
    let mut ticks = interval(every(flow));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        let asking = request(number);
        tasks.spawn(async move { told(flow, asking).await });
    }
}

/// How often a request of this kind is sent, in each direction.
fn every(flow: Flow) -> Duration {
    Duration::from_millis(match flow {
        Flow::Http1 | Flow::Http2 => 50,
        Flow::Http1New | Flow::Http1Post | Flow::Failover | Flow::Tcp | Flow::Stream => 100,
    })
}

pub(super) async fn told(flow: Flow, asking: impl Future<Output = (Under, anyhow::Result<()>)>) -> bool {
    let began = clock::now();
    let (under, answered) = match timeout(ANSWER_TIME_MAX, asking).await {
        Ok(done) => done,
        Err(_) => (Under::default(), Err(anyhow!("no answer in {ANSWER_TIME_MAX:?}"))),
    };
    let failure = answered.as_ref().err().map(|error| format!("{error:#}"));
    let Under { near, far, retried } = under;
    tell(&Outcome { flow, began, ended: clock::now(), near, far, retried, failure });
    answered.is_ok()
}

/// Nobody is left to be told that nobody listens.
fn tell(outcome: &Outcome) {
    let Ok(mut line) = serde_json::to_vec(outcome) else { return };
    line.push(b'\n');
    let _unheard = std::io::stdout().lock().write_all(&line);
}

impl Clients {
    pub(super) fn stream_every(&self) -> Duration {
        every(Flow::Stream)
    }

    /// Connects to one of some addresses, each time beginning with another one.
    pub(super) async fn connect(
        &self,
        addresses: &[SocketAddr],
        under: &mut Under,
    ) -> anyhow::Result<TcpStream> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut wrong = anyhow!("no address");
        for at in 0..addresses.len() {
            let address = addresses[(turn + at) % addresses.len()];
            under.near = Some(address.ip());
            match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => wrong = anyhow!(error),
                Err(_) => wrong = anyhow!("timed out"),
            }
            wrong = wrong.context(format!("connect to {address}"));
            under.retried.push(format!("{wrong:#}"));
        }
        Err(wrong)
    }

    /// Looks up a service's own addresses.
    pub(super) async fn resolve(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let Plan { nameservers, tcp, tcp_port, .. } = &self.plan;
        let found: Vec<IpAddr> = super::names::addresses(nameservers, tcp).await.context("name")?;
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, *tcp_port)).collect())
    }
}
