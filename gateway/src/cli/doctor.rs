//! `isthmus doctor`: what is missing on this host, with cause and next step.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use federation::config::{Config, Overrides};
use federation::model::Timestamp;
use serde_json::{Value, json};

use super::client::Client;
use super::{Format, output};
use crate::admin::api::Status;
use crate::doctor::facts::{AdminFact, CertificateFact};
use crate::doctor::gather::{Told, gather};
use crate::doctor::{Finding, Verdict, judge};

/// A whole snapshot is asked for one name; a large one is not worth it.
const SERVICES_MAX: usize = 2_000;

#[derive(Debug, Args)]
#[command(
    after_help = "Changes nothing. Run it as root, or as the user of the process, to see who holds a port and \
    how files are protected.\n\n\
    Exit codes: 0 nothing fails (there may be warnings); 1 something does not work, or will not start."
)]
pub(super) struct Doctor {
    /// The configuration file of the process; without it, defaults and overrides
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting, for example --set dns.address=127.0.0.1:53
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
    /// Print what is good too
    #[arg(short, long)]
    verbose: bool,
}

impl Doctor {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        let overrides = Overrides::from_process(&self.settings)?;
        let (config, wrong) = match Config::load(self.config.as_deref(), &overrides) {
            Ok(config) => (config, Vec::new()),
            Err(errors) => {
                let wrong = errors.iter().map(ToString::to_string).collect();
                (Config::load(None, &Overrides::default())?, wrong)
            }
        };
        let told = ask(&config).await;
        let facts = tokio::task::spawn_blocking(move || gather(&config, wrong, told)).await?;
        let findings = judge(&facts);
        let exit_code = findings.iter().map(|finding| finding.exit_code).max().unwrap_or_default();
        match format {
            Format::Json => output::json(&json!({ "findings": findings, "exitCode": exit_code }))?,
            Format::Text => print(&findings, self.verbose),
        }
        Ok(ExitCode::from(exit_code))
    }
}

/// What a running process says of itself.
async fn ask(config: &Config) -> Told {
    let client = Client::new(config.admin.to_string());
    let status: Status = match client.get("/status").await {
        Ok(status) => status,
        Err(error) => return Told { admin: AdminFact::Silent(format!("{error:#}")), ..Told::default() },
    };
    let svids = status.svids.iter().filter_map(|svid| {
        let expires = Timestamp::parse_rfc3339(&svid.expires)?;
        Some(CertificateFact { id: svid.id.clone(), not_after: expires.unix().try_into().ok()? })
    });
    let certificates = svids.collect();
    let name = if status.services <= SERVICES_MAX { known_name(&client).await } else { None };
    let admin = AdminFact::Answers {
        cluster: status.cluster,
        expected: config.cluster.to_string(),
        ready: status.ready,
        problems: status.problems.len(),
    };
    Told { admin, certificates, name }
}

async fn known_name(client: &Client) -> Option<(String, std::net::IpAddr)> {
    let snapshot: Value = client.get("/snapshot").await.ok()?;
    snapshot.get("services")?.as_object()?.iter().find_map(|(name, service)| {
        let address = service.pointer("/merged/addresses/0")?.as_str()?.parse().ok()?;
        Some((format!("{name}.svc.clusterset.local"), address))
    })
}

fn print(findings: &[Finding], verbose: bool) {
    let worth = |finding: &&Finding| verbose || finding.verdict != Verdict::Good;
    for finding in findings.iter().filter(worth) {
        let verdict = match finding.verdict {
            Verdict::Good => "good   ",
            Verdict::Warning => "WARNING",
            Verdict::Failure => "FAILURE",
        };
        output::line(format!("{verdict}  {}: {}", finding.check, finding.cause));
        if let Some(next_step) = &finding.next_step {
            output::line(format!("         next: {next_step}"));
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (good, warnings, failures) = (count(Verdict::Good), count(Verdict::Warning), count(Verdict::Failure));
    output::line(format!("{good} good, {warnings} warnings, {failures} failures"));
}
