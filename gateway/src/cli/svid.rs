//! `isthmus svid issue`: an identity for a workload that runs on a machine.
//!
//! The key is made here and never leaves this machine; only a request with its public half does.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use http::Method;
use trust_bundle::SvidKey;

use super::client::Client;
use super::{Format, output};
use crate::admin::api::{SvidAnswer, SvidRequest};
use trust_bundle::pem;

#[derive(Debug, Subcommand)]
pub(super) enum Svid {
    /// Issue an SVID and write svid.pem, svid.key (mode 0600), bundle.pem and bundle.json
    Issue {
        /// Path of the SPIFFE ID below the trust domain, for example /ns/shop/sa/client
        path: String,
        /// Directory to write to; made if it is not there
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
    },
}

impl Svid {
    pub(super) async fn run(self, client: &Client, format: Format) -> anyhow::Result<ExitCode> {
        let Self::Issue { path, out } = self;
        let key = SvidKey::generate();
        let csr = pem::encode("CERTIFICATE REQUEST", &key.csr());
        let answer: SvidAnswer = client.change(Method::POST, "/svid", &SvidRequest { path, csr }).await?;
        std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        write(&out.join("svid.key"), key.to_pem().as_bytes(), 0o600)?;
        write(&out.join("svid.pem"), answer.chain.as_bytes(), 0o644)?;
        write(&out.join("bundle.pem"), answer.authorities.as_bytes(), 0o644)?;
        write(&out.join("bundle.json"), answer.bundle.as_bytes(), 0o644)?;
        if format == Format::Json {
            output::json(&answer)?;
        } else {
            output::line(format!(
                "{} until {}: {}",
                answer.id,
                answer.expires,
                out.join("svid.pem").display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Replaces a file as a whole, so that a reader sees the old one or the new one.
fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
    written
        .and_then(|()| std::fs::rename(&fresh, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
