//! The node's side: dials with nothing but the token, proves that it has it, keeps what it is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tonic::Code;
use trust_bundle::{
    Bundle, InvalidBundle, InvalidSvid, InvalidToken, JoinToken, X509Svid, exporter, node_client_config,
};

use super::{REQUEST_BYTES_MAX, REQUEST_TIME};
use crate::clock;
use crate::control::disk::{Disk, DiskError, Pending};
use crate::control::message::text;
use crate::control::proto::nodes_client::NodesClient;
use crate::control::proto::{NodeRequest, RedeemRequest, RedeemResponse};
use crate::control::state::State;
use crate::issuer::Role;
use crate::model::{ClusterName, GatewayAddress, Locality, Timestamp};
use crate::peering::dial::{self, DialError};
use crate::snapshot::{LocalCluster, Snapshot};

/// Why there is no SVID.
#[derive(Debug, thiserror::Error)]
pub enum NodeJoinError {
    #[error(transparent)]
    Token(#[from] InvalidToken),
    #[error("the token is for cluster {0}, not for a node; hint: use it with `isthmus peer join`")]
    ForCluster(String),
    #[error("the token expired at {0}; hint: ask for a new one")]
    Expired(Timestamp),
    #[error("no address of the token leads to a federation process: {0}")]
    Unreachable(#[source] DialError),
    #[error("the federation process refused: {0}")]
    Refused(String),
    #[error("the federation process gave no answer: {0}; hint: the same token can be tried again")]
    NoAnswer(String),
    #[error("the answer cannot be used: {0}")]
    Answer(&'static str),
    #[error("the answer's bundle is of no use: {0}")]
    Bundle(#[from] InvalidBundle),
    #[error("the answer's certificate is of no use: {0}")]
    Svid(#[from] InvalidSvid),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a node is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub cluster: ClusterName,
    pub trust_domain: trust_bundle::TrustDomain,
    /// Where it finds federation processes: `control.endpoints` of its configuration.
    pub control: Vec<GatewayAddress>,
    pub expires: Timestamp,
}

/// Redeems a token, and keeps SVID, key and bundle on the disk.
///
/// The key is on the disk before it is shown to anybody, so that the same token can be tried again. Once
/// it has made this node one, nobody is asked any more: a second use would alarm the operator.
pub async fn join(text: &str, disk: &Disk) -> Result<Joined, NodeJoinError> {
    let token = JoinToken::open(text.trim())?;
    if let Some(joined) = already(&token, disk)? {
        return Ok(joined);
    }
    let cluster = check(&token)?;
    let pending = disk.pending()?;
    let said = ask_any(&token, &cluster, &pending).await?;
    let (joined, svid, bundle) = read(&token, cluster, said, pending)?;
    keep(disk, &joined, &svid, bundle)?;
    disk.redeemed(token.id())?;
    Ok(joined)
}

/// What this node is by this very token, for as long as its SVID is good.
fn already(token: &JoinToken, disk: &Disk) -> Result<Option<Joined>, NodeJoinError> {
    if !disk.has_redeemed(token.id())? {
        return Ok(None);
    }
    let trust_domain = token.trust_domain().clone();
    let id = Role::Gateway.id(&trust_domain);
    let good = |svid: &X509Svid| *svid.id() == id && svid.not_after() > clock::unix_now();
    let (Some(svid), Ok(cluster)) =
        (disk.load_svid()?.filter(good), ClusterName::try_from(token.acceptor_cluster()))
    else {
        return Ok(None);
    };
    let control = token.endpoints().iter().filter_map(|address| address.parse().ok()).collect();
    let expires = clock::timestamp(svid.not_after());
    Ok(Some(Joined { cluster, trust_domain, control, expires }))
}

/// What can be known without asking; the other side's clock decides about the end of a token (J2).
fn check(token: &JoinToken) -> Result<ClusterName, NodeJoinError> {
    if let Some(joiner) = token.joiner() {
        return Err(NodeJoinError::ForCluster(joiner.to_owned()));
    }
    let grace = 300; // a clock that is five minutes off is common (J14)
    if token.expires().as_secs() + grace < clock::unix_now().as_secs() {
        return Err(NodeJoinError::Expired(clock::timestamp(token.expires())));
    }
    let cluster = ClusterName::try_from(token.acceptor_cluster());
    cluster.map_err(|_invalid| NodeJoinError::Answer("the token names no cluster"))
}

/// Tries the token's addresses until one answers; what a leader says is final.
async fn ask_any(
    token: &JoinToken,
    cluster: &ClusterName,
    pending: &Pending,
) -> Result<RedeemResponse, NodeJoinError> {
    let mut last = NodeJoinError::Answer("the token names no address");
    for address in token.endpoints() {
        let Ok(address) = address.parse::<GatewayAddress>() else { continue };
        match ask(token, cluster, pending, &address).await {
            Err(error @ (NodeJoinError::Unreachable(_) | NodeJoinError::NoAnswer(_))) => {
                tracing::info!(%address, %error, "trying the next address of the token");
                last = error;
            }
            other => return other,
        }
    }
    Err(last)
}

async fn ask(
    token: &JoinToken,
    cluster: &ClusterName,
    pending: &Pending,
    address: &GatewayAddress,
) -> Result<RedeemResponse, NodeJoinError> {
    let name = dial::server_name("node", cluster);
    // The operator vouches for the addresses of a token, so no kind of address is refused.
    let dialled = dial::dial(address, None, node_client_config(token), name.clone()).await;
    let dialled = dialled.map_err(NodeJoinError::Unreachable)?;
    let request = NodeRequest { token_id: token.id().as_bytes().to_vec(), csr: pending.csr.clone() };
    let request = request.encode_to_vec();
    let proof = token.prove(&exporter(dialled.tls.get_ref().1), &request).to_vec();
    let lost = NodeJoinError::NoAnswer;
    let channel = dial::channel(&name, dialled.tls).await.map_err(|error| lost(error.to_string()))?;
    let mut client = NodesClient::new(channel).max_decoding_message_size(REQUEST_BYTES_MAX * 16);
    let answer = timeout(REQUEST_TIME, client.redeem(RedeemRequest { request, proof })).await;
    let answer = answer.map_err(|_elapsed| lost("it took too long".to_owned()))?;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        let words = text(status.message());
        match status.code() {
            Code::PermissionDenied | Code::FailedPrecondition | Code::ResourceExhausted => {
                NodeJoinError::Refused(words)
            }
            _ => lost(words),
        }
    })
}

fn read(
    token: &JoinToken,
    cluster: ClusterName,
    said: RedeemResponse,
    pending: Pending,
) -> Result<(Joined, X509Svid, Bundle), NodeJoinError> {
    if said.cluster != cluster.as_str() || said.trust_domain != token.trust_domain().as_str() {
        return Err(NodeJoinError::Answer("it is of another cluster than the token's"));
    }
    let trust_domain = token.trust_domain().clone();
    let bundle = Bundle::parse(trust_domain.clone(), &said.bundle, clock::unix_now())?.bundle;
    if !token.pins().iter().any(|pin| bundle.knows(pin)) {
        return Err(NodeJoinError::Answer("its bundle has none of the token's authorities"));
    }
    let chain = said.chain.into_iter().map(CertificateDer::from).collect();
    let svid = X509Svid::from_parts(chain, pending.key)?;
    if *svid.id() != Role::Gateway.id(&trust_domain) {
        return Err(NodeJoinError::Answer("its certificate is not of the gateway role"));
    }
    let control: Result<Vec<_>, _> = said.control.iter().map(|address| address.parse()).collect();
    let control = control.map_err(|_invalid| NodeJoinError::Answer("its addresses cannot be read"))?;
    let expires = clock::timestamp(svid.not_after());
    Ok((Joined { cluster, trust_domain, control, expires }, svid, bundle))
}

/// A node that was one before keeps what it serves, if it is of the same cluster.
fn keep(disk: &Disk, joined: &Joined, svid: &X509Svid, bundle: Bundle) -> Result<(), NodeJoinError> {
    let before = disk.load(clock::unix_now())?.filter(|state| {
        let here = &state.snapshot.cluster;
        here.name == joined.cluster && here.trust_domain == joined.trust_domain
    });
    let mut state = before.unwrap_or_else(|| {
        let cluster = LocalCluster {
            name: joined.cluster.clone(),
            trust_domain: joined.trust_domain.clone(),
            locality: Locality::default(),
            gateways: None,
        };
        State { snapshot: Arc::new(Snapshot::empty(Arc::new(cluster))), bundles: BTreeMap::new() }
    });
    state.bundles.insert(joined.trust_domain.clone(), Arc::new(bundle));
    disk.save(&state)?;
    disk.save_svid(svid)?;
    Ok(())
}
