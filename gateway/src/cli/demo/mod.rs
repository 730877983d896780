//! `isthmus demo`: two whole clusters on this machine, and a request going across.
//!
//! Nothing is pretended: each cluster is a process of its own (`isthmus run`) with its own store, CA
//! and configuration directory; the steps use the commands that an operator would use; only the small
//! services that answer live in this process. `--check` runs the scenario to its end and judges it.

mod cluster;
mod directory;
mod etcd;
mod intruder;
mod probe;
mod scenario;
mod services;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output;
use cluster::Pair;
use directory::Directory;

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Run the scenario to its end and exit with 0 only if every step held
    #[arg(long)]
    check: bool,
    /// Give each cluster a real etcd as its store, started for the demo
    #[arg(long)]
    etcd: bool,
    /// The etcd to start
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "etcd",
        env = "ISTHMUS_ETCD",
        hide_env_values = true
    )]
    etcd_program: PathBuf,
    /// Keep the files of the two clusters in this directory (default: a temporary one, removed at the end)
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(self.show())
    }

    async fn show(self) -> anyhow::Result<ExitCode> {
        let directory = match &self.directory {
            Some(directory) => Directory::kept(directory)?,
            None => Directory::temporary()?,
        };
        let services = services::Services::start().await?;
        let mut pair =
            Pair::start(directory.path(), &services, self.etcd.then_some(self.etcd_program.as_path()))
                .await?;
        let ended = tokio::select! {
            ended = self.scenario(&mut pair, services) => ended,
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
        };
        pair.stop().await;
        ended
    }

    async fn scenario(&self, pair: &mut Pair, services: services::Services) -> anyhow::Result<ExitCode> {
        if self.check {
            let failed = scenario::check(pair, services).await;
            return Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        scenario::join(pair).await?;
        advise(pair);
        // The services answer until Ctrl-C ends the demo.
        let _services = services;
        std::future::pending().await
    }
}

/// What a person can try now.
fn advise(pair: &Pair) {
    let (onprem, cloud) = (&pair.onprem, &pair.cloud);
    let (dns_host, dns_port) = (onprem.dns.ip(), onprem.dns.port());
    output::line("");
    output::line(
        "Two clusters are running; services: cart (both), echo and ledger (only cloud), vault (not exported).",
    );
    output::line("Try, in another terminal:");
    for command in [
        format!("curl -H 'Host: echo.shop.svc.clusterset.local' http://{}/hello", onprem.mesh),
        format!("http_proxy=http://{} curl http://echo.shop.svc.clusterset.local/hello", onprem.mesh),
        format!("dig @{dns_host} -p {dns_port} +short echo.shop.svc.clusterset.local"),
        format!(
            "curl http://$(dig @{dns_host} -p {dns_port} +short echo.shop.svc.clusterset.local):8080/hello"
        ),
        format!("{} --admin {} peer list", pair.program.display(), onprem.admin),
        format!("{} --admin {} status", pair.program.display(), cloud.admin),
        format!("tail -f {}", cloud.access_log().display()),
    ] {
        output::line(format!("  {command}"));
    }
    output::line("Ctrl-C ends it.");
}
