//! The members of the etcd: a connection each, and which one is asked.
//!
//! A call goes to the member that answered last; when one does not answer, the next one is asked. What
//! changes something goes on only if it was certainly not sent. A balancing channel would not do: it
//! picks a dead member again and again, and does not say which one failed.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use parking_lot::Mutex;
use tokio::time::timeout;
use tracing::{info, warn};

use super::fault::{Attempt, Failed};
use super::files::{self, FilesError, Stamp};
use crate::config::EtcdConfig;

/// Limits of E10.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A call with all its attempts; who waits for the store has other things to do.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// May a call be sent to a second member?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing, or doing it twice does no harm.
    Always,
    /// Only if it was certainly not sent.
    IfUnsent,
}

pub(super) struct Members {
    config: EtcdConfig,
    connected: Mutex<Connected>,
    /// The member that answered last.
    preferred: AtomicUsize,
}

struct Connected {
    members: Arc<[Member]>,
    stamp: Stamp,
}

pub(super) struct Member {
    pub(super) url: String,
    pub(super) client: Client,
}

/// Why there are not even connections to try.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{url} cannot be used: {cause}")]
    Unusable { url: String, cause: String },
}

impl Members {
    /// Prepares the connections; they are made when they are needed.
    pub(super) async fn build(config: EtcdConfig) -> Result<Self, ConnectError> {
        let stamp = files::stamp(config.tls.as_ref());
        let members = connect(&config).await?;
        Ok(Self {
            config,
            connected: Mutex::new(Connected { members, stamp }),
            preferred: AtomicUsize::new(0),
        })
    }

    /// The members as of now, with certificates as they are in the files.
    pub(super) async fn current(&self) -> Arc<[Member]> {
        let stamp = files::stamp(self.config.tls.as_ref());
        {
            let mut connected = self.connected.lock();
            if connected.stamp == stamp {
                return connected.members.clone();
            }
            // Noted first, so that broken files are tried and told about once.
            connected.stamp = stamp;
        }
        match connect(&self.config).await {
            Ok(members) => {
                info!("the certificates for etcd have changed, new connections use them");
                self.connected.lock().members = members.clone();
                members
            }
            Err(error) => {
                warn!(%error, "the certificates for etcd have changed and cannot be used, the old ones stay");
                self.connected.lock().members.clone()
            }
        }
    }

    /// Asks one member after the other until one answers.
    pub(super) async fn call<T, W>(
        &self,
        repeat: Repeat,
        operation: impl Fn(Client) -> W + Send + Sync,
    ) -> Result<T, Failed>
    where
        W: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let mut silent = Vec::new();
        let answered = timeout(CALL_TIMEOUT, self.ask(repeat, operation, &mut silent)).await;
        match answered {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => Err(Failed::Unreachable(self.unreachable(&silent))),
        }
    }

    /// `None` if no member answered; `silent` says of each why.
    async fn ask<T, W>(
        &self,
        repeat: Repeat,
        operation: impl Fn(Client) -> W + Send + Sync,
        silent: &mut Vec<String>,
    ) -> Option<Result<T, Failed>>
    where
        W: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let members = self.current().await;
        let first = self.preferred.load(Ordering::Relaxed);
        for at in (0..members.len()).map(|turn| (first + turn) % members.len()) {
            let member = &members[at];
            let attempt = match timeout(REQUEST_TIMEOUT, operation(member.client.clone())).await {
                Ok(Ok(answer)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Some(Ok(answer));
                }
                Ok(Err(error)) => Attempt::judge(&error),
                Err(_elapsed) => Attempt::Lost(format!("no answer within {REQUEST_TIMEOUT:?}")),
            };
            let (cause, again) = match attempt {
                Attempt::Refused { code, message } => return Some(Err(Failed::Refused { code, message })),
                Attempt::Unsent(cause) => (cause, true),
                Attempt::Lost(cause) => (cause, repeat == Repeat::Always),
            };
            silent.push(format!("{} ({cause})", member.url));
            // Others begin with the next one; this one has its turn again when all have failed.
            self.preferred.store((at + 1) % members.len(), Ordering::Relaxed);
            if !again {
                return None;
            }
        }
        None
    }

    fn unreachable(&self, silent: &[String]) -> String {
        let unasked: Vec<&str> = self.config.endpoints[..].iter().map(String::as_str).collect();
        match silent {
            [] => format!("etcd does not answer within {CALL_TIMEOUT:?}: {}", unasked.join(", ")),
            silent => format!("etcd does not answer: {}", silent.join(", ")),
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("endpoints", &self.config.endpoints).finish_non_exhaustive()
    }
}

async fn connect(config: &EtcdConfig) -> Result<Arc<[Member]>, ConnectError> {
    let mut options = ConnectOptions::new()
        .with_require_leader(true)
        .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(CONNECT_TIMEOUT);
    if let Some(tls) = &config.tls {
        options = options.with_tls(files::load(tls)?);
    }
    let mut members = Vec::new();
    for url in &config.endpoints {
        let connected = Client::connect([url.trim_end_matches('/')], Some(options.clone())).await;
        let unusable = |error: Error| ConnectError::Unusable { url: url.clone(), cause: describe(&error) };
        members.push(Member { url: url.clone(), client: connected.map_err(unusable)? });
    }
    Ok(members.into())
}

fn describe(error: &Error) -> String {
    match error {
        Error::TransportError(error) => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
        other => other.to_string(),
    }
}
