//! A stolen gateway: with the very identity of a joined cluster's gateway it asks the other cluster
//! for what was not exported (notes/trust T8). The CA's files are copied to make that identity.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use http::{Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use trust_bundle::{
    BuiltinCa, CaSettings, ExpectedPeer, SpiffeId, SvidHandle, SvidKey, TrustDomain, TrustStore, X509Svid,
};

use super::cluster::Cluster;
use crate::clock;

const TUNNEL: &[u8] = b"isthmus-tunnel/1";
const LIFETIME: Duration = Duration::from_secs(600);

/// Holds an identity of `of`, and is connected to nobody yet.
pub(super) struct Intruder {
    svid: SvidHandle,
    trust: TrustStore,
}

/// What the destination answered: status and `isthmus-fault`.
pub(super) type Verdict = (StatusCode, String);

impl Intruder {
    pub(super) fn with_identity_of(of: &Cluster, towards: &Cluster) -> anyhow::Result<Self> {
        let ca = copied_ca(of)?;
        let key = SvidKey::generate();
        let id = SpiffeId::try_from(of.gateway_id().as_str())?;
        let chain = ca.issue(&key.csr(), &id, LIFETIME, clock::unix())?;
        let trust = TrustStore::new();
        trust.put(copied_ca(towards)?.bundle())?;
        Ok(Self { svid: SvidHandle::new(X509Svid::from_parts(chain, key)?), trust })
    }

    /// Opens a tunnel to `<service>.<namespace>:<port>`.
    pub(super) async fn tunnel(&self, cluster: &Cluster, target: &str) -> anyhow::Result<Verdict> {
        let request = Request::connect(target).body(())?;
        self.ask(cluster, TUNNEL, request).await
    }

    /// Sends an HTTP request over the link for `<service>.<namespace>:<port>`.
    pub(super) async fn http(&self, cluster: &Cluster, target: &str) -> anyhow::Result<Verdict> {
        let request = Request::get("https://anything.example/").header("isthmus-to", target).body(())?;
        self.ask(cluster, b"h2", request).await
    }

    async fn ask(&self, cluster: &Cluster, alpn: &[u8], request: Request<()>) -> anyhow::Result<Verdict> {
        let expected = ExpectedPeer::Exact(SpiffeId::try_from(cluster.gateway_id().as_str())?);
        let config = trust_bundle::client_config(&self.trust, &self.svid, expected, &[alpn]);
        let address: SocketAddr = cluster.east_west;
        let name = ServerName::try_from(format!("gateway.{}.isthmus.internal", cluster.name))?;
        let tls = tokio_rustls::TlsConnector::from(config)
            .connect(name, TcpStream::connect(address).await?)
            .await?;
        let (requests, connection) = h2::client::handshake(tls).await?;
        TaskTracker::new().spawn(connection);
        let tunnel = *request.method() == http::Method::CONNECT;
        let (response, _stream) = requests.ready().await?.send_request(request, !tunnel)?;
        let response =
            tokio::time::timeout(Duration::from_secs(10), response).await.context("no answer")??;
        let fault =
            response.headers().get("isthmus-fault").and_then(|value| value.to_str().ok()).unwrap_or("-");
        Ok((response.status(), fault.to_owned()))
    }
}

fn copied_ca(cluster: &Cluster) -> anyhow::Result<BuiltinCa> {
    let (from, to) = (cluster.directory().join("data/ca"), cluster.directory().join("copy-of-ca"));
    fs::create_dir_all(&to)?;
    for file in fs::read_dir(&from).with_context(|| format!("no CA in {}", from.display()))? {
        let file = file?;
        if file.file_type()?.is_file() {
            fs::copy(file.path(), to.join(file.file_name()))?;
        }
    }
    let domain = TrustDomain::try_from(format!("{}.isthmus.internal", cluster.name).as_str())?;
    Ok(BuiltinCa::open(&to, domain, CaSettings::default(), clock::unix())?)
}
