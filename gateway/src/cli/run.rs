//! `isthmus run`: everything of one cluster in this process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use federation::config::{Config, Overrides};

use crate::{app, logging};

#[derive(Debug, Args)]
#[command(after_help = "Every setting can be given in three ways; the later wins:\n  \
    the file, the environment (ISTHMUS_GATEWAY__MESH__ADDRESS=...), --set gateway.mesh.address=...\n\n\
    Signals: TERM and INT finish requests in flight (at most 30s) and end; a second one cuts them off; HUP \
    changes nothing, since documents are watched and the file is read at start.\n\n\
    Exit codes: 0 ended as told; 1 could not start, or a part ended by itself; 2 wrong arguments or \
    configuration; 3 cut off by a second signal.\n\n\
    Under systemd (deploy/systemd): tells READY, STOPPING, WATCHDOG; leaves its listening sockets in the \
    unit's descriptor store; goes on with inherited sockets that have the configured address. Their names \
    (FileDescriptorName=): mesh, east-west, dns (UDP and TCP), admin, control, ingress.")]
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
    pub(super) fn run(self, roles: app::Roles) -> anyhow::Result<ExitCode> {
        let config = Config::load(self.config.as_deref(), &Overrides::from_process(&self.settings)?)?;
        logging::start(&self.log)?;
        app::run(config, roles)?;
        Ok(ExitCode::SUCCESS)
    }
}
