//! `isthmus apply`, `delete` and `get`: configuration objects in the store of the cluster.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::client::Client;
use super::{Format, output};
use crate::admin::api::{Applied, ObjectStatus, Outcome};

/// As much as the process takes.
const DOCUMENTS_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// A YAML file, or - for standard input; may be given more than once
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// A YAML file with the documents to remove, or - for standard input
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// A kind, for example service, httproute or serviceexport; all kinds if absent
    kind: Option<String>,
}

impl Apply {
    pub(super) async fn run(self, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
        send(client, format, "/apply", &self.filename).await
    }
}

impl Delete {
    pub(super) async fn run(self, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
        send(client, format, "/delete", &self.filename).await
    }
}

/// Fails if any document was refused; the others have taken effect.
async fn send(client: &Client, format: Format, path: &str, files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut results = Vec::new();
    for file in files {
        results.extend(client.send_yaml::<Vec<Applied>>(path, read(file)?).await?);
    }
    if results.is_empty() {
        bail!("no document was found (hint: `isthmus expose` prints some)");
    }
    if format == Format::Json {
        output::json(&results)?;
    } else {
        results.iter().for_each(print_applied);
    }
    let refused = results.iter().any(|result| result.outcome == Outcome::Refused);
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_applied(result: &Applied) {
    let outcome = format!("{:?}", result.outcome).to_lowercase();
    match &result.reason {
        Some(reason) => output::line(format!("{} {outcome}: {reason}", result.object)),
        None => output::line(format!("{} {outcome}", result.object)),
    }
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(DOCUMENTS_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(DOCUMENTS_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

impl Get {
    pub(super) async fn run(self, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
        let path = match &self.kind {
            Some(kind) => format!("/objects/{}", kind.to_ascii_lowercase()),
            None => "/objects".to_owned(),
        };
        let objects: Vec<ObjectStatus> = client.get(&path).await?;
        if format == Format::Json {
            output::json(&objects)?;
        } else {
            let headings = ["KIND", "NAMESPACE", "NAME", "SOURCE", "CREATED", "CONDITIONS"];
            output::table(headings, &objects.iter().map(row).collect::<Vec<_>>());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(object: &ObjectStatus) -> [String; 6] {
    let condition = |c: &crate::admin::api::Condition| match (c.status, c.reason.as_str()) {
        (status, "") => format!("{}={status}", c.kind),
        (status, reason) => format!("{}={status}/{reason}", c.kind),
    };
    [
        object.kind.clone(),
        object.namespace.clone(),
        object.name.clone(),
        object.source.clone(),
        object.created.clone(),
        object.conditions.iter().map(condition).collect::<Vec<_>>().join(","),
    ]
}
