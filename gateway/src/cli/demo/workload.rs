//! A workload with an SVID of its own, as `isthmus svid issue` leaves it on a machine.

use std::fs;
use std::path::Path;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use trust_bundle::{Bundle, ExpectedPeer, SpiffeId, SvidHandle, SvidKey, TrustStore, X509Svid};

use super::cluster::Cluster;
use super::probe::{self, Answer};
use crate::clock;

/// Has an SVID issued by the command, and calls a service over mutual TLS with it.
pub(super) async fn call(cluster: &Cluster, path: &str, host: &str) -> anyhow::Result<Answer> {
    let directory = cluster.directory().join("workload");
    cluster.isthmus(&["svid", "issue", path, "--out", &directory.display().to_string()], "").await?;
    let (svid, trust) = read(&directory)?;
    let gateway = SpiffeId::try_from(cluster.gateway_id().as_str())?;
    let config = trust_bundle::client_config(&trust, &svid, ExpectedPeer::Exact(gateway), &[b"http/1.1"]);
    let tcp = TcpStream::connect(cluster.mesh).await?;
    let name = ServerName::try_from(format!("gateway.{}.isthmus.internal", cluster.name))?;
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await?;
    probe::http_over(tls, host).await
}

/// Reads svid.pem, svid.key and bundle.json.
fn read(directory: &Path) -> anyhow::Result<(SvidHandle, TrustStore)> {
    let chain = CertificateDer::pem_file_iter(directory.join("svid.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivatePkcs8KeyDer::from_pem_file(directory.join("svid.key"))?;
    let svid = X509Svid::from_parts(chain, SvidKey::from_pkcs8(key.secret_pkcs8_der())?)?;
    let bundle = fs::read(directory.join("bundle.json")).context("no bundle.json")?;
    let bundle = Bundle::parse(svid.id().trust_domain(), &bundle, clock::unix())?.bundle;
    let trust = TrustStore::new();
    trust.put(bundle)?;
    Ok((SvidHandle::new(svid), trust))
}
