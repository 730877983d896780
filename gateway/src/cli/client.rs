//! A client of the admin API.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::api::{About, Failure};
use crate::admin::cookie;

/// A dump of 100 000 endpoints stays below this.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// A join waits for the other side; everything else answers at once.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Talks to the process at one admin address.
#[derive(Debug)]
pub(super) struct Client {
    address: String,
    http: HttpClient<HttpConnector, Full<Bytes>>,
}

impl Client {
    pub(super) fn new(address: String) -> Self {
        Self { address, http: HttpClient::builder(TokioExecutor::new()).build_http() }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask(Method::GET, path, None, Bytes::new()).await
    }

    /// Sends a change as JSON, with the cookie of the process.
    pub(super) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let cookie = self.cookie().await?;
        self.ask(method, path, Some(("application/json", cookie)), serde_json::to_vec(body)?.into()).await
    }

    /// Sends documents as they were written.
    pub(super) async fn send_yaml<T: DeserializeOwned>(&self, path: &str, yaml: String) -> anyhow::Result<T> {
        let cookie = self.cookie().await?;
        self.ask(Method::POST, path, Some(("application/yaml", cookie)), yaml.into()).await
    }

    async fn cookie(&self) -> anyhow::Result<String> {
        let about: About = self.get("/").await?;
        cookie::read(Path::new(&about.cookie_file)).with_context(|| {
            format!(
                "changing cluster {} needs its cookie, which this user cannot read \
                 (hint: run this on the machine and as the user of the process)",
                about.cluster
            )
        })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        change: Option<(&str, String)>,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if let Some((content_type, cookie)) = change {
            request = request.header(header::CONTENT_TYPE, content_type).header(cookie::HEADER, cookie);
        }
        let request = request.body(Full::new(body)).context("this is not an address: see --admin")?;
        let answered = tokio::time::timeout(ANSWER_TIME_MAX, self.exchange(request)).await;
        let (status, body) =
            answered.map_err(|_elapsed| anyhow!("no answer from {} in time", self.address))??;
        if !status.is_success() {
            bail!(failure(status, &body));
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("{} answered {path} in a way that was not expected", self.address))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.http.request(request).await.map_err(|error| {
            anyhow!(error).context(format!(
                "cannot reach the admin API at {} (hint: is `isthmus run` running here? --admin chooses another address)",
                self.address
            ))
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!("the answer could not be read: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

fn failure(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Failure>(body) {
        Ok(Failure { error, hint: Some(hint) }) => format!("{error} (hint: {hint})"),
        Ok(Failure { error, hint: None }) => error,
        Err(_) => format!("the admin API answered {status}"),
    }
}
