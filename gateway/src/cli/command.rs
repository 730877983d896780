//! The commands and global flags of `isthmus`, and where each leads.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use federation::config::ConfigErrors;

use super::client::Client;
use super::output::Format;
use super::{config, demo, doctor, documents, expose, node, output, peer, run, status, store, svid};
use crate::app::Roles;
use crate::host::CutOff;

/// As for wrong arguments: trying again does not help.
const WRONG_CONFIGURATION: u8 = 2;
/// Told to stop a second time.
const CUT_OFF: u8 = 3;

/// Connects clusters: one name for a service, wherever it runs, over mutual TLS.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Start with `isthmus demo`, or `isthmus run --config isthmus.yaml`.")]
pub struct Cli {
    /// Address of the admin API of the process to talk to
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        default_value = "127.0.0.1:15000",
        env = "ISTHMUS_ADMIN"
    )]
    admin: String,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything of one cluster in this process
    Run(run::Run),
    /// Run a gateway in this process: it serves requests, and federation processes elsewhere lead it
    ///
    /// Needs `control.endpoints`, and once `isthmus node join`. Without a federation process it serves what
    /// it was told last, also after a restart.
    Gateway(run::Run),
    /// Run a federation process: store, CA, catalog and peering, without a data plane
    ///
    /// Gateways reach it at `control.address`. With etcd as store two or three of them may run, of which
    /// one leads; they share the CA (`trust.ca.directory`).
    Federation(run::Run),
    /// Invite gateways of other machines, list and revoke their tokens, join here
    #[command(subcommand)]
    Node(node::Node),
    /// Invite, join, list and remove other clusters
    #[command(subcommand)]
    Peer(peer::Peer),
    /// Show what a process is doing and what is wrong
    Status,
    /// Write documents to the store of the cluster
    Apply(documents::Apply),
    /// Remove documents that `apply` wrote
    Delete(documents::Delete),
    /// List configuration objects with their conditions
    Get(documents::Get),
    /// Print the documents that offer a service of this machine or its network
    Expose(expose::Expose),
    /// Issue an SVID to a workload
    #[command(subcommand)]
    Svid(svid::Svid),
    /// Show, save, restore or accept the store of the cluster
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Judge a static configuration file, or print its schema
    #[command(subcommand)]
    Config(config::Config),
    /// Say what is missing on this host, with cause and next step
    Doctor(doctor::Doctor),
    /// Run two clusters on this machine and show a request going across
    Demo(demo::Demo),
}

/// Runs the command of the process; errors go to standard error with their causes.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            exit_code(&error)
        }
    }
}

/// What a service manager and a script need to tell apart; `isthmus run --help` lists them.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<ConfigErrors>() {
        ExitCode::from(WRONG_CONFIGURATION)
    } else if error.is::<CutOff>() {
        ExitCode::from(CUT_OFF)
    } else {
        ExitCode::FAILURE
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(run) => run.run(Roles::All),
            Command::Gateway(run) => run.run(Roles::Gateway),
            Command::Federation(run) => run.run(Roles::Federation),
            Command::Demo(demo) => demo.run(),
            Command::Config(config) => config.run(self.output),
            Command::Store(store) => store.run(self.output),
            Command::Expose(expose) => expose.run(),
            command => {
                let client = Client::new(self.admin);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(command.ask(&client, self.output))
            }
        }
    }
}

impl Command {
    async fn ask(self, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
        match self {
            Self::Peer(peer) => peer.run(client, format).await,
            Self::Node(node) => node.run(client, format).await,
            Self::Status => status::run(client, format).await,
            Self::Apply(apply) => apply.run(client, format).await,
            Self::Delete(delete) => delete.run(client, format).await,
            Self::Get(get) => get.run(client, format).await,
            Self::Svid(svid) => svid.run(client, format).await,
            Self::Doctor(doctor) => doctor.run(format).await,
            Self::Run(_)
            | Self::Gateway(_)
            | Self::Federation(_)
            | Self::Demo(_)
            | Self::Config(_)
            | Self::Expose(_)
            | Self::Store(_) => Ok(ExitCode::SUCCESS),
        }
    }
}
