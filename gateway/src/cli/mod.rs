//! The `isthmus` command: runs a cluster's processes, and talks to a running one.
//!
//! Everything but `run`, `demo`, `expose`, `store` and `config` is a request to the admin API of a process,
//! which `--admin` chooses. What is printed for people is a table; `-o json` prints the API's own
//! answer. Secrets are read from standard input or files, never from arguments.

mod client;
mod command;
mod config;
mod demo;
mod doctor;
mod documents;
mod expose;
mod help;
mod node;
mod output;
mod peer;
mod run;
mod status;
mod store;
mod svid;

pub use command::{Cli, main};
pub use help::help;
pub use output::Format;
