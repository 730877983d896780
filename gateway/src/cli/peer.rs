//! `isthmus peer`: two commands, one token, and two clusters know each other.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use http::Method;
use serde_json::json;

use super::Format;
use super::client::Client;
use super::output;
use crate::admin::api::{InviteAnswer, InviteRequest, JoinAnswer, JoinRequest, PeerStatus, TokenStatus};

/// A token has some 700 characters.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Peer {
    /// Print a token with which one named cluster can join; nothing else goes to standard output
    Invite {
        /// The cluster that may join with this token
        cluster: String,
        /// How long the token can be used (at most 24h)
        #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Join the cluster that made the token read from standard input
    Join,
    /// List the clusters that this one knows
    List,
    /// End the relationship with a cluster; its open connections are cut
    Remove {
        /// The cluster that is no longer a peer
        cluster: String,
    },
    /// List or revoke tokens
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// List tokens and what became of them
    List,
    /// Make a token useless
    Revoke {
        /// What `isthmus peer token list` shows under TOKEN
        id: String,
    },
}

impl Peer {
    pub(super) async fn run(self, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
        match self {
            Self::Invite { cluster, ttl } => invite(client, format, cluster, ttl).await?,
            Self::Join => join(client, format).await?,
            Self::List => list(client, format).await?,
            Self::Remove { cluster } => remove(client, format, &cluster).await?,
            Self::Token(Token::List) => list_tokens(client, format).await?,
            Self::Token(Token::Revoke { id }) => revoke(client, format, &id).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn invite(client: &Client, format: Format, cluster: String, ttl: Duration) -> anyhow::Result<()> {
    let request = InviteRequest { cluster, ttl_seconds: ttl.as_secs() };
    let answer: InviteAnswer = client.change(Method::POST, "/peers/invite", &request).await?;
    if format == Format::Json {
        return output::json(&answer);
    }
    output::line(&answer.token);
    output::note(format!(
        "Give this token to cluster {}, once, before {}: isthmus peer join < token",
        answer.cluster, answer.expires
    ));
    Ok(())
}

/// The token on standard input; a terminal is told what to do.
pub(super) fn read_token(command: &str) -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        output::note("Paste the token, then press Enter and Ctrl-D:");
    }
    let mut token = String::new();
    std::io::stdin()
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut token)
        .context("standard input holds no text")?;
    if token.trim().is_empty() {
        bail!("no token on standard input (hint: {command} < token)");
    }
    Ok(token.trim().to_owned())
}

async fn join(client: &Client, format: Format) -> anyhow::Result<()> {
    let request = JoinRequest { token: read_token("isthmus peer join")? };
    let answer: JoinAnswer = client.change(Method::POST, "/peers/join", &request).await?;
    if format == Format::Json {
        return output::json(&answer);
    }
    output::line(format!(
        "Joined {} (trust domain {}, bundle {})",
        answer.cluster, answer.trust_domain, answer.bundle_sha256
    ));
    if !answer.usable {
        output::note(format!(
            "No request can go both ways yet (hint: can {} reach this cluster's east-west address? \
             isthmus peer list shows the path from here)",
            answer.cluster
        ));
    }
    Ok(())
}

async fn list(client: &Client, format: Format) -> anyhow::Result<()> {
    let peers: Vec<PeerStatus> = client.get("/peers").await?;
    if format == Format::Json {
        return output::json(&peers);
    }
    if peers.is_empty() {
        output::note("No peers yet (hint: isthmus peer invite NAME here, isthmus peer join there).");
    }
    print(&peers);
    Ok(())
}

/// Prints peers as a table, also for `isthmus status`.
pub(super) fn print(peers: &[PeerStatus]) {
    let headings =
        ["CLUSTER", "STATE", "KNOWLEDGE", "PATH", "IMPORTS", "EXPORTS", "TRUST DOMAIN", "GATEWAYS"];
    let rows: Vec<_> = peers.iter().map(row).collect();
    output::table(headings, &rows);
}

fn row(peer: &PeerStatus) -> [String; 8] {
    let path = match peer.round_trip_milliseconds {
        Some(milliseconds) => format!("{} ({milliseconds:.1} ms)", peer.path),
        None => peer.path.clone(),
    };
    [
        peer.cluster.clone(),
        peer.state.clone(),
        peer.freshness.clone(),
        path,
        peer.imports.to_string(),
        peer.exports.to_string(),
        peer.trust_domain.clone(),
        peer.gateways.join(","),
    ]
}

async fn remove(client: &Client, format: Format, cluster: &str) -> anyhow::Result<()> {
    let answer: serde_json::Value =
        client.change(Method::DELETE, &format!("/peers/{cluster}"), &json!({})).await?;
    if format == Format::Json {
        return output::json(&answer);
    }
    output::line(format!("Removed {cluster}; it may join again with a new token"));
    Ok(())
}

async fn list_tokens(client: &Client, format: Format) -> anyhow::Result<()> {
    let tokens: Vec<TokenStatus> = client.get("/peers/tokens").await?;
    if format == Format::Json {
        return output::json(&tokens);
    }
    let row = |token: &TokenStatus| {
        [token.id.clone(), token.cluster.clone(), token.state.clone(), token.expires.clone()]
    };
    output::table(["TOKEN", "FOR", "STATE", "EXPIRES"], &tokens.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

async fn revoke(client: &Client, format: Format, id: &str) -> anyhow::Result<()> {
    let answer: serde_json::Value =
        client.change(Method::DELETE, &format!("/peers/tokens/{id}"), &json!({})).await?;
    if format == Format::Json {
        return output::json(&answer);
    }
    output::line(format!("Revoked token {id}"));
    Ok(())
}
