//! The steps of the demo, each with what must hold.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::StatusCode;

use super::super::output;
use super::cluster::Pair;
use super::intruder::Intruder;
use super::probe::{self, Answer, Conversation};
use super::services::Services;
use super::workload;

const ECHO: &str = "echo.shop.svc.clusterset.local";
const CART: &str = "cart.shop.svc.clusterset.local";
const LEDGER: &str = "ledger.bank.svc.clusterset.local";
const LEDGER_PORT: u16 = 9000;
const VAULT: &str = "vault.bank.svc.clusterset.local";
const CALLER_PATH: &str = "/ns/shop/sa/client";

/// What a change may take to become visible, on a machine that does something else too.
const PATIENCE: Duration = Duration::from_secs(20);

/// Joins the two clusters as two operators would.
pub(super) async fn join(pair: &Pair) -> anyhow::Result<()> {
    let token = pair.onprem.isthmus(&["peer", "invite", "cloud"], "").await?;
    let joined = pair.cloud.isthmus(&["peer", "join"], &token).await?;
    let length = token.trim().len();
    output::line(format!(
        "onprem$ isthmus peer invite cloud      # one token of {length} characters, for 15 minutes"
    ));
    output::line(format!("cloud$  isthmus peer join < token       # {}", joined.trim()));
    probe::until(PATIENCE, async || {
        expect(probe::http(pair.onprem.mesh, ECHO).await?, StatusCode::OK, "cloud")
    })
    .await?;
    Ok(())
}

/// Runs all steps in order; how many did not hold.
pub(super) async fn check(pair: &Pair, mut services: Services) -> usize {
    let mut report = Report::default();
    report.step("two clusters join with one token", join(pair)).await;
    report.step("DNS answers a virtual address for a remote service", dns(pair)).await;
    report.step("HTTP reaches a service that only the other cluster has", remote_http(pair)).await;
    report.step("TCP reaches a remote service by its virtual address", remote_tcp(pair)).await;
    report.step("a service that both clusters have is answered here", shared_stays_local(pair)).await;
    report
        .step("the other cluster's access log holds the caller's own SPIFFE ID", caller_identity(pair))
        .await;
    report.step("a service that is not exported does not exist by Host", unexported_by_host(pair)).await;
    report.step("nor for a stolen gateway, over link and tunnel", unexported_over_links(pair)).await;
    report.step("when the endpoints here die, requests go across", failover(pair, &mut services)).await;
    report.step("a removed cluster is cut off, open connections included", removal(pair)).await;
    report.close(pair)
}

async fn dns(pair: &Pair) -> anyhow::Result<String> {
    let address = probe::dns_a(pair.onprem.dns, ECHO).await?.context("no A record")?;
    ensure!(address.is_loopback(), "{address} is not in the pool");
    let unknown = probe::dns_a(pair.onprem.dns, VAULT).await?;
    ensure!(unknown.is_none(), "{VAULT} has an address: {unknown:?}");
    Ok(format!("{ECHO} is {address}"))
}

async fn remote_http(pair: &Pair) -> anyhow::Result<String> {
    let answer = expect(probe::http(pair.onprem.mesh, ECHO).await?, StatusCode::OK, "cloud")?;
    let names = answer.body["headers"].as_object().context("no headers in the answer")?;
    let leaked: Vec<_> = names.keys().filter(|name| name.starts_with("isthmus-")).collect();
    ensure!(leaked.is_empty(), "internal headers reached the service: {leaked:?}");
    Ok(format!("{} answered from {}", answer.body["service"], answer.body["cluster"]))
}

async fn ledger(pair: &Pair) -> anyhow::Result<Conversation> {
    let address = probe::dns_a(pair.onprem.dns, LEDGER).await?.context("no A record for the ledger")?;
    let address = SocketAddr::new(address, LEDGER_PORT);
    Conversation::open(address).await.with_context(|| format!("cannot connect to {address}"))
}

async fn remote_tcp(pair: &Pair) -> anyhow::Result<String> {
    let mut conversation = probe::until(PATIENCE, async || ledger(pair).await).await?;
    let answers = [conversation.say("debit 5").await?, conversation.say("credit 7").await?];
    ensure!(answers == ["cloud ledger 1: debit 5", "cloud ledger 2: credit 7"], "it answered {answers:?}");
    Ok(format!("it answered {:?}", answers[0]))
}

async fn shared_stays_local(pair: &Pair) -> anyhow::Result<String> {
    for _ in 0..20 {
        expect(probe::http(pair.onprem.mesh, CART).await?, StatusCode::OK, "onprem")?;
        expect(probe::http(pair.cloud.mesh, CART).await?, StatusCode::OK, "cloud")?;
    }
    Ok("20 of 20 in each cluster".to_owned())
}

async fn caller_identity(pair: &Pair) -> anyhow::Result<String> {
    let answer = workload::call(&pair.onprem, CALLER_PATH, ECHO).await?;
    expect(answer, StatusCode::OK, "cloud")?;
    let id = format!("spiffe://onprem.isthmus.internal{CALLER_PATH}");
    probe::until(PATIENCE, async || {
        let log = tokio::fs::read_to_string(pair.cloud.access_log()).await?;
        ensure!(log.lines().any(|line| line.contains(&id)), "no line of cloud's access log holds {id}");
        Ok(())
    })
    .await?;
    Ok(id)
}

async fn unexported_by_host(pair: &Pair) -> anyhow::Result<String> {
    let answer = probe::http(pair.onprem.mesh, VAULT).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND, "answered {}: {}", answer.status, answer.body);
    Ok(format!("{}: {}", answer.status, answer.body))
}

async fn unexported_over_links(pair: &Pair) -> anyhow::Result<String> {
    let intruder = Intruder::with_identity_of(&pair.onprem, &pair.cloud)?;
    let allowed = intruder.tunnel(&pair.cloud, "ledger.bank:9000").await?;
    ensure!(allowed.0 == StatusCode::OK, "the exported service is refused too: {allowed:?}");
    let tunnel = intruder.tunnel(&pair.cloud, "vault.bank:8080").await?;
    let nothing = intruder.tunnel(&pair.cloud, "nothing.bank:8080").await?;
    ensure!(tunnel.0 == StatusCode::NOT_FOUND, "the tunnel was answered {tunnel:?}");
    ensure!(tunnel == nothing, "not exported ({tunnel:?}) differs from not there ({nothing:?})");
    let http = intruder.http(&pair.cloud, "vault.bank:8080").await?;
    ensure!(http == (StatusCode::NOT_FOUND, "not-found".to_owned()), "the request was answered {http:?}");
    Ok(format!("{} for both, as for what does not exist", tunnel.0))
}

async fn failover(pair: &Pair, services: &mut Services) -> anyhow::Result<String> {
    services.cart_onprem = None;
    for _ in 0..20 {
        expect(probe::http(pair.onprem.mesh, CART).await?, StatusCode::OK, "cloud")?;
    }
    Ok("20 of 20 answered by cloud, the first included".to_owned())
}

async fn removal(pair: &Pair) -> anyhow::Result<String> {
    let mut open = ledger(pair).await?;
    open.say("still here").await?;
    pair.cloud.isthmus(&["peer", "remove", "onprem"], "").await?;
    let cut = open.ended(PATIENCE).await.context("the open connection")?;
    probe::until(PATIENCE, async || {
        let answer = probe::http(pair.onprem.mesh, ECHO).await?;
        ensure!(!answer.status.is_success(), "still answered by {}", answer.cluster());
        Ok(())
    })
    .await?;
    probe::until(PATIENCE, async || {
        let peers = pair.onprem.isthmus(&["peer", "list"], "").await?;
        ensure!(peers.contains("removed"), "onprem does not show it: {peers}");
        Ok(())
    })
    .await?;
    Ok(format!("open connection ended after {} ms", cut.as_millis()))
}

fn expect(answer: Answer, status: StatusCode, cluster: &str) -> anyhow::Result<Answer> {
    if answer.status != status || answer.cluster() != cluster {
        bail!(
            "{} from {} instead of {status} from {cluster}: {}",
            answer.status,
            answer.cluster(),
            answer.body
        );
    }
    Ok(answer)
}

/// Counts steps and prints each as it ends.
#[derive(Default)]
struct Report {
    steps: usize,
    failed: usize,
}

impl Report {
    async fn step<T: Outcome>(&mut self, claim: &str, step: impl Future<Output = anyhow::Result<T>>) {
        self.steps += 1;
        match step.await {
            Ok(outcome) => output::line(format!("PASS  {claim}{}", outcome.suffix())),
            Err(error) => {
                self.failed += 1;
                output::line(format!("FAIL  {claim}: {error:#}"));
            }
        }
    }

    fn close(self, pair: &Pair) -> usize {
        output::line(format!("{} of {} steps passed", self.steps - self.failed, self.steps));
        if self.failed > 0 {
            for cluster in [&pair.onprem, &pair.cloud] {
                output::note(format!("-- the end of {}'s log:\n{}", cluster.name, cluster.log_tail()));
            }
        }
        self.failed
    }
}

/// What a step has to tell beside that it held.
trait Outcome {
    fn suffix(&self) -> String;
}

impl Outcome for () {
    fn suffix(&self) -> String {
        String::new()
    }
}

impl Outcome for String {
    fn suffix(&self) -> String {
        format!(": {self}")
    }
}
