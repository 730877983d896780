//! The gateway's own SVID: the first one, its renewal, what the audit log says of it.

use federation::control::SigningRequest;
use federation::control::disk::Disk;
use federation::issuer::{Issuer, Role};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use trust_bundle::{SpiffeId, SvidHandle, SvidKey, TrustDomain, X509Svid};

use crate::clock;
use crate::telemetry::{AuditLog, Decision};

/// The SVID of the disk, if it is ours; it may have ended.
pub(super) fn kept(disk: &Disk, trust_domain: &TrustDomain) -> Option<X509Svid> {
    let svid = match disk.load_svid() {
        Ok(svid) => svid?,
        Err(error) => {
            warn!(%error, "the SVID on disk cannot be used");
            return None;
        }
    };
    let ours = Role::Gateway.id(trust_domain);
    if *svid.id() != ours {
        warn!(id = %svid.id(), expected = %ours, "the SVID on disk is of somebody else");
        return None;
    }
    Some(svid)
}

/// Where the CA is in this very process: a new one, or that of the disk if none can be had.
pub(super) fn first(
    issuer: &Issuer,
    kept: Option<X509Svid>,
    trust_domain: &TrustDomain,
) -> anyhow::Result<X509Svid> {
    let key = SvidKey::generate();
    match (issuer.sign(&Role::Gateway.id(trust_domain), &key.csr()), kept) {
        (Ok(chain), _) => Ok(X509Svid::from_parts(chain, key)?),
        (Err(refused), Some(kept)) => {
            warn!(%refused, expires = %federation::clock::timestamp(kept.not_after()), "the SVID on disk stays in use");
            Ok(kept)
        }
        (Err(refused), None) => Err(refused.into()),
    }
}

/// Asks the control plane for an SVID with a new key.
pub(super) async fn request(
    signer: &mpsc::Sender<SigningRequest>,
    id: &SpiffeId,
) -> Result<X509Svid, String> {
    let key = SvidKey::generate();
    let (answer, answered) = oneshot::channel();
    let request = SigningRequest { id: id.clone(), csr: key.csr(), answer };
    signer.send(request).await.map_err(|_closed| "the control plane is gone".to_owned())?;
    let chain = answered.await.map_err(|_dropped| "the control plane gave no answer".to_owned())?;
    let chain = chain.map_err(|refused| refused.to_string())?;
    X509Svid::from_parts(chain, key).map_err(|invalid| invalid.to_string())
}

pub(super) async fn audit_renewals(svid: SvidHandle, audit: AuditLog, shutdown: CancellationToken) {
    let mut renewed = svid.subscribe();
    while let Some(Ok(())) = shutdown.run_until_cancelled(renewed.changed()).await {
        let current = svid.current();
        let decision =
            Decision::SvidReplaced { identity: current.id(), not_after: current.not_after().as_secs() };
        audit.write(clock::wall(), None, &decision);
    }
}
