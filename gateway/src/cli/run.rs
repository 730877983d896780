//! `isthmus run`: everything of one cluster in this process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use federation::config::{Config, Overrides};

use crate::{app, logging};

#[derive(Debug, Args)]
#[command(after_help = "Every setting can be given in three ways; the later wins:\n  \
    the file, the environment (ISTHMUS_GATEWAY__MESH__ADDRESS=...), --set gateway.mesh.address=...")]
pub(super) struct Run {
    /// The configuration file; without it, defaults and overrides must say enough
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting, for example --set trust.svidTtl=1h
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
    /// What to log, for example info or gateway=debug,federation=info
    #[arg(long, default_value = "info", env = "ISTHMUS_LOG", hide_env_values = true)]
    log: String,
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(self.config.as_deref(), &Overrides::from_process(&self.settings)?)?;
        logging::start(&self.log)?;
        app::run(config)?;
        Ok(ExitCode::SUCCESS)
    }
}
