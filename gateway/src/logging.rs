//! Diagnostics on standard error, one line an event; the access log is apart (`telemetry`).

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;
use tracing_subscriber::util::TryInitError;

/// What libraries say at these levels is either ours to say or noise (notes/pingora 9.8): a client
/// that goes away is no error of the gateway.
const QUIET: &[&str] = &[
    "pingora_proxy=off",
    "pingora_core=off",
    "pingora_pool=off",
    "h2=warn",
    "hyper=warn",
    "rustls=error",
    "tonic=warn",
    "tower=warn",
    "hickory_server=warn",
    "hickory_proto=warn",
];

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("--log {filter:?} is no filter: {cause}; for example info, or gateway=debug,federation=info")]
    Filter { filter: String, cause: ParseError },
    #[error(transparent)]
    Taken(#[from] TryInitError),
}

/// Starts logging for the process; what the filter names itself wins over our list of quiet ones.
pub fn start(filter: &str) -> Result<(), LoggingError> {
    let named: Vec<&str> = filter.split(',').filter_map(|part| part.split('=').next()).collect();
    let mut directives: Vec<&str> = QUIET
        .iter()
        .copied()
        .filter(|quiet| quiet.split('=').next().is_none_or(|name| !named.contains(&name)))
        .collect();
    directives.push(filter);
    let filter = EnvFilter::try_new(directives.join(","))
        .map_err(|cause| LoggingError::Filter { filter: filter.to_owned(), cause })?;
    tracing_subscriber::registry()
        .with(
            fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                .with_filter(filter),
        )
        .try_init()?;
    Ok(())
}
