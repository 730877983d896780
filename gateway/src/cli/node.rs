//! `isthmus node`: one token, and a gateway of another machine belongs to this cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use federation::config::{Config, Overrides};
use federation::control::{disk::Disk, nodes};
use http::Method;
use serde_json::json;

use super::client::Client;
use super::{Format, output, peer};
use crate::admin::api::{InviteAnswer, InviteNodeRequest, TokenStatus};
use crate::app::GATEWAY_DIRECTORY;

#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Print a token with which one new gateway can join; ask the leading federation process
    Invite {
        /// How long the token can be used (at most 24h)
        #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Make this machine's gateway part of the cluster that made the token read from standard input
    ///
    /// Writes SVID, key and bundle below the data directory of the configuration; then start
    /// `isthmus gateway`. The same token can be tried again here, and nowhere else.
    Join(Join),
    /// List tokens of nodes and what became of them
    List,
    /// Make a token useless
    Revoke {
        /// What `isthmus node list` shows under TOKEN
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// The configuration file of the gateway
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting, for example --set data=/var/lib/isthmus
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

impl Node {
    pub(super) async fn run(self, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
        match self {
            Self::Invite { ttl } => invite(client, format, ttl).await?,
            Self::Join(join) => join.run(format).await?,
            Self::List => list(client, format).await?,
            Self::Revoke { id } => revoke(client, format, &id).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn invite(client: &Client, format: Format, ttl: Duration) -> anyhow::Result<()> {
    let request = InviteNodeRequest { ttl_seconds: ttl.as_secs() };
    let answer: InviteAnswer = client.change(Method::POST, "/nodes/invite", &request).await?;
    if format == Format::Json {
        return output::json(&answer);
    }
    output::line(&answer.token);
    output::note(format!(
        "Give this token to one new gateway of {}, once, before {}: isthmus node join < token",
        answer.cluster, answer.expires
    ));
    Ok(())
}

impl Join {
    async fn run(self, format: Format) -> anyhow::Result<()> {
        let config = Config::load(self.config.as_deref(), &Overrides::from_process(&self.settings)?)?;
        let token = peer::read_token("isthmus node join")?;
        let disk = Disk::open(&config.data.join(GATEWAY_DIRECTORY))?;
        let joined = nodes::join(&token, &disk).await?;
        let endpoints: Vec<_> = joined.control.iter().map(ToString::to_string).collect();
        if format == Format::Json {
            return output::json(&json!({
                "cluster": joined.cluster.to_string(),
                "trustDomain": joined.trust_domain.to_string(),
                "endpoints": endpoints,
                "expires": joined.expires.to_string(),
            }));
        }
        output::line(format!(
            "This machine is a gateway of {} (trust domain {}); its SVID expires {}",
            joined.cluster, joined.trust_domain, joined.expires
        ));
        for (setting, ours, theirs) in [
            ("cluster", config.cluster.to_string(), joined.cluster.to_string()),
            ("trustDomain", config.trust_domain.to_string(), joined.trust_domain.to_string()),
        ] {
            if ours != theirs {
                output::note(format!("The configuration says {setting}: {ours} (hint: it must be {theirs})"));
            }
        }
        if config.control.endpoints.is_empty() {
            output::note(format!("Set control.endpoints to [{}]", endpoints.join(", ")));
        }
        output::note("Start it: isthmus gateway");
        Ok(())
    }
}

async fn list(client: &Client, format: Format) -> anyhow::Result<()> {
    let tokens: Vec<TokenStatus> = client.get("/nodes/tokens").await?;
    if format == Format::Json {
        return output::json(&tokens);
    }
    let row = |token: &TokenStatus| [token.id.clone(), token.state.clone(), token.expires.clone()];
    output::table(["TOKEN", "STATE", "EXPIRES"], &tokens.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

async fn revoke(client: &Client, format: Format, id: &str) -> anyhow::Result<()> {
    let answer: serde_json::Value =
        client.change(Method::DELETE, &format!("/nodes/tokens/{id}"), &json!({})).await?;
    if format == Format::Json {
        return output::json(&answer);
    }
    output::line(format!("Revoked token {id}"));
    Ok(())
}
