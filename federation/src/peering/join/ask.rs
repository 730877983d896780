//! The joiner: dials with nothing but the token, proves that it has it, and stores what it is given.

use std::net::IpAddr;
use std::sync::Arc;

use prost::Message as _;
use rustls::pki_types::UnixTime;
use tokio::time::timeout;
use tonic::Code;
use trust_bundle::{
    Bundle, BundleConflict, InvalidBundle, InvalidToken, JoinToken, TokenId, TrustConflict, TrustDomain,
    exporter, join_client_config,
};

use super::REQUEST_BYTES_MAX;
use super::redeem::{role, sameness, unless_changed};
use crate::clock;
use crate::model::{ClusterName, GatewayAddress, Peer, RelationshipState, Timestamp};
use crate::peering::dial::{self, DialError, HANDSHAKE_TIME};
use crate::peering::proto::join_client::JoinClient;
use crate::peering::proto::{JoinRequest, RedeemRequest, RedeemResponse};
use crate::peering::records::{PeerRecord, RelationshipId};
use crate::peering::relationships::LoadError;
use crate::peering::us::{Us, random};
use crate::peering::wire;
use crate::store::{CommitError, Transaction};

/// Why a cluster was not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Token(#[from] InvalidToken),
    #[error("the token is for cluster {token}, this is {us}")]
    ForAnother { token: String, us: ClusterName },
    #[error("the token expired at {0}; hint: ask for a new one")]
    Expired(Timestamp),
    #[error("the token is of this cluster itself; hint: use it on the other side")]
    Ourselves,
    #[error(
        "{0} is a peer already, with another certificate authority; hint: `isthmus peer remove {0}` first"
    )]
    AlreadyPeer(ClusterName),
    #[error("trust domain {0} belongs to this cluster or to another peer")]
    TakenTrustDomain(TrustDomain),
    #[error("no address of the token leads to the cluster: {0}")]
    Unreachable(#[source] DialError),
    #[error("the other side refused: {0}")]
    Refused(String),
    #[error("the other side gave no answer: {0}; hint: the same token can be tried again")]
    NoAnswer(String),
    #[error("the other side's answer cannot be used: {0}")]
    Answer(&'static str),
    #[error("the other side's bundle is of no use: {0}")]
    Bundle(#[from] InvalidBundle),
    #[error(transparent)]
    Sequence(#[from] BundleConflict),
    #[error(transparent)]
    Collision(#[from] TrustConflict),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Store(#[from] CommitError),
}

/// What the acceptor has answered, and over which address.
struct Answer {
    said: RedeemResponse,
    over: IpAddr,
}

/// Joins the cluster that made the token; both sides hold the relationship when this returns.
pub(in crate::peering) async fn join(us: &Arc<Us>, text: &str) -> Result<Peer, JoinError> {
    let token = JoinToken::open(text)?;
    let acceptor = check(us, &token)?;
    let answer = ask_any(us, &token, &acceptor).await?;
    let _changing = us.changing.lock().await;
    let joined = Joined::read(&token, acceptor, answer.said, clock::unix_now())?;
    accept(us, &token, joined, answer.over).await
}

/// What can be known without asking; the acceptor's clock decides about the end of a token (J2).
fn check(us: &Us, token: &JoinToken) -> Result<ClusterName, JoinError> {
    let acceptor = ClusterName::try_from(token.acceptor_cluster());
    let acceptor = acceptor.map_err(|_invalid| JoinError::Answer("the token names no cluster"))?;
    if acceptor == us.deps.cluster {
        return Err(JoinError::Ourselves);
    }
    if let Some(joiner) = token.joiner().filter(|joiner| *joiner != us.deps.cluster.as_str()) {
        return Err(JoinError::ForAnother { token: joiner.to_owned(), us: us.deps.cluster.clone() });
    }
    let grace = 300; // a clock that is five minutes off is common, and the acceptor decides anyway (J14)
    if token.expires().as_secs() + grace < clock::unix_now().as_secs() {
        return Err(JoinError::Expired(clock::timestamp(token.expires())));
    }
    Ok(acceptor)
}

/// Tries the token's addresses until one answers; what the acceptor itself says is final.
async fn ask_any(us: &Us, token: &JoinToken, acceptor: &ClusterName) -> Result<Answer, JoinError> {
    let mut last = JoinError::Answer("the token names no address");
    for address in token.endpoints() {
        let Ok(address) = address.parse::<GatewayAddress>() else { continue };
        match ask(us, token, acceptor, &address).await {
            Err(error @ (JoinError::Unreachable(_) | JoinError::NoAnswer(_))) => {
                tracing::info!(%address, %error, "trying the next address of the token");
                last = error;
            }
            other => return other,
        }
    }
    Err(last)
}

async fn ask(
    us: &Us,
    token: &JoinToken,
    acceptor: &ClusterName,
    address: &GatewayAddress,
) -> Result<Answer, JoinError> {
    let config = join_client_config(token, &us.deps.federation_svid);
    let name = dial::server_name("join", acceptor);
    // The operator vouches for the addresses of a token, so no kind of address is refused.
    let dialled = dial::dial(address, None, config, name.clone()).await.map_err(JoinError::Unreachable)?;
    let request = request(us, token.id()).encode_to_vec();
    let proof = token.prove(&exporter(dialled.tls.get_ref().1), &request).to_vec();
    let over = dialled.address.ip();
    let lost = |reason: String| JoinError::NoAnswer(reason);
    let channel = dial::channel(&name, dialled.tls).await.map_err(|error| lost(error.to_string()))?;
    let mut client = JoinClient::new(channel).max_decoding_message_size(REQUEST_BYTES_MAX);
    let answer = timeout(HANDSHAKE_TIME, client.redeem(RedeemRequest { request, proof })).await;
    let answer = answer.map_err(|_elapsed| lost("it took too long".to_owned()))?;
    answer.map(|said| Answer { said: said.into_inner(), over }).map_err(|status| {
        let words = wire::shown(status.message());
        match status.code() {
            Code::PermissionDenied | Code::FailedPrecondition | Code::ResourceExhausted => {
                JoinError::Refused(words)
            }
            _ => lost(words),
        }
    })
}

fn request(us: &Us, token: TokenId) -> JoinRequest {
    JoinRequest {
        token_id: token.as_bytes().to_vec(),
        cluster: us.deps.cluster.to_string(),
        trust_domain: us.deps.trust_domain.to_string(),
        bundle: us.bundle().to_json(),
        gateways: wire::gateways_said(&us.deps.advertise),
        nonce: random::<16>().to_vec(),
        gateway_id: us.deps.gateway_id.to_string(),
        federation_id: us.deps.federation_svid.current().id().to_string(),
    }
}

/// The acceptor's answer as valid types.
struct Joined {
    relationship: RelationshipId,
    peer: Peer,
    bundle: Bundle,
}

impl Joined {
    /// Reads an answer, which must be that of the cluster that the token names.
    fn read(
        token: &JoinToken,
        name: ClusterName,
        said: RedeemResponse,
        now: UnixTime,
    ) -> Result<Self, JoinError> {
        if said.cluster != name.as_str() || said.trust_domain != token.trust_domain().as_str() {
            return Err(JoinError::Answer("it is of another cluster than the token's"));
        }
        let trust_domain = token.trust_domain().clone();
        let bundle = Bundle::parse(trust_domain.clone(), &said.bundle, now)?.bundle;
        if bundle.authorities().is_empty() {
            return Err(JoinError::Answer("its bundle has no usable authority"));
        }
        let id = |said: &str| {
            role(said, &trust_domain).map_err(|_refused| JoinError::Answer("it names a foreign role"))
        };
        let relationship = said.relationship.as_slice().try_into();
        let relationship = relationship.map_err(|_length| JoinError::Answer("it names no relationship"))?;
        let peer = Peer {
            name,
            gateway_id: id(&said.gateway_id)?,
            federation_id: id(&said.federation_id)?,
            trust_domain: trust_domain.clone(),
            gateways: wire::gateways(&said.gateways),
            joined: clock::timestamp(now),
            state: RelationshipState::Active,
            sameness: Vec::new(),
        };
        Ok(Self { relationship: RelationshipId::new(relationship), peer, bundle })
    }
}

async fn accept(us: &Arc<Us>, token: &JoinToken, joined: Joined, over: IpAddr) -> Result<Peer, JoinError> {
    let Joined { relationship, mut peer, bundle } = joined;
    check_collisions(us, token, &peer, &bundle)?;
    let former = us.peers.get(&peer.name);
    if let Some(former) = former.as_ref().map(|former| former.record().record)
        && former.relationship == relationship
        && former.peer.state == RelationshipState::Active
    {
        return Ok(former.peer); // asked again, although the answer had arrived
    }
    let near = us.deps.address_rules.near(over);
    peer.gateways = us.deps.address_rules.admit(peer.gateways, near);
    peer.sameness = sameness(former.as_deref());
    let transaction = unless_changed(us, &peer.name, &peer.trust_domain, Transaction::new()).await?;
    us.establish(PeerRecord { peer: peer.clone(), relationship, near }, bundle, transaction).await?;
    tracing::info!(target: "isthmus::audit", peer = %peer.name, trust_domain = %peer.trust_domain, "joined a cluster");
    Ok(peer)
}

fn check_collisions(us: &Us, token: &JoinToken, peer: &Peer, bundle: &Bundle) -> Result<(), JoinError> {
    let taken = us.peers.of_trust_domain(&peer.trust_domain).is_some_and(|other| other.name != peer.name);
    if taken || peer.trust_domain == us.deps.trust_domain {
        return Err(JoinError::TakenTrustDomain(peer.trust_domain.clone()));
    }
    let trusted = us.deps.trust.load();
    trusted.check_collisions(bundle)?;
    // A token alone must not put another's authority in the place of a peer's that is trusted already.
    if us.peers.get(&peer.name).is_some_and(|former| former.is_active()) {
        let held =
            trusted.bundle(&peer.trust_domain).filter(|held| token.pins().iter().any(|pin| held.knows(pin)));
        let held = held.ok_or_else(|| JoinError::AlreadyPeer(peer.name.clone()))?;
        bundle.succeeds(held)?;
    }
    Ok(())
}
