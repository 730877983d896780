//! `isthmus config`: judges the static configuration without starting anything.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use federation::config;

use super::{Format, output};

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print the JSON schema of the configuration file
    Schema,
    /// Say everything that is wrong with a file, or that it is good
    Check {
        /// The configuration file
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        match self {
            Self::Schema => output::json(&config::schema())?,
            Self::Check { file } => return check(&file, format),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn check(file: &std::path::Path, format: Format) -> anyhow::Result<ExitCode> {
    let judged = config::Config::load(Some(file), &config::Overrides::default());
    let errors: Vec<String> = judged
        .as_ref()
        .err()
        .map(|errors| errors.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    match format {
        Format::Json => output::json(&serde_json::json!({ "file": file, "errors": errors }))?,
        Format::Text if errors.is_empty() => output::line(format!("{} is good", file.display())),
        Format::Text => errors.iter().for_each(|error| output::note(named(file, error))),
    }
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What concerns the whole file names it already.
fn named(file: &std::path::Path, error: &str) -> String {
    let file = file.display().to_string();
    if error.starts_with(&file) { error.to_owned() } else { format!("{file}: {error}") }
}
