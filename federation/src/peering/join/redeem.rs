//! The acceptor: judges a redemption, in the order of notes/trust 4.2, and makes the relationship.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message as _;
use rustls::pki_types::UnixTime;
use tonic::{Request, Response, Status};
use trust_bundle::{Bundle, BundleConflict, Hex, InvalidBundle, Rejection, SpiffeId, TokenId, TokenRecord};
use trust_bundle::{TrustConflict, TrustDomain, verify_offered};

use super::limit::Limit;
use crate::clock;
use crate::model::{ClusterName, Peer, RelationshipState, Timestamp};
use crate::peering::io::JoinCaller;
use crate::peering::peers::PeerState;
use crate::peering::proto::join_server::Join;
use crate::peering::proto::{JoinRequest, RedeemRequest, RedeemResponse};
use crate::peering::records::{BundleRecord, JoinRecord, PeerRecord, Redemption, RelationshipId, TokenState};
use crate::peering::relationships::{Held, LoadError};
use crate::peering::us::{Us, instant, random};
use crate::peering::wire;
use crate::store::keys::Place;
use crate::store::{CommitError, Transaction};

/// A rival may win the transaction; then everything is judged again.
const ATTEMPTS_MAX: usize = 3;

/// Why nobody joins.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Unknown token or wrong proof: whoever has no token learns nothing (J5).
    #[error("the token opens nothing here")]
    Uniform,
    #[error("the token was revoked at {0}")]
    Revoked(Timestamp),
    #[error("the token expired at {0}; hint: ask for a new one")]
    Expired(Timestamp),
    #[error("the token is for cluster {0}")]
    OtherCluster(ClusterName),
    #[error("the token was used already by another cluster that called itself {0}; its operator is alarmed")]
    UsedByAnother(ClusterName),
    #[error("the request cannot be read: {0}")]
    Malformed(&'static str),
    #[error("trust domain {0} is the acceptor's own; hint: shared trust domains cannot be joined yet")]
    OurTrustDomain(TrustDomain),
    #[error("trust domain {0} belongs to another peer here")]
    TakenTrustDomain(TrustDomain),
    #[error("{0} is a peer here already, with another certificate authority; hint: remove it here first")]
    TakenName(ClusterName),
    #[error("the bundle is of no use: {0}")]
    Bundle(#[from] InvalidBundle),
    #[error("the bundle has no usable authority")]
    NoAuthority,
    #[error(transparent)]
    Sequence(#[from] BundleConflict),
    #[error(transparent)]
    Collision(#[from] TrustConflict),
    #[error("the certificate does not fit the bundle: {0}")]
    Certificate(#[from] Rejection),
    #[error("the certificate is that of {0}, not of the federation role that was named")]
    OtherRole(SpiffeId),
    #[error("the acceptor cannot store the relationship now; hint: try again")]
    Load(#[from] LoadError),
    #[error("the acceptor cannot store the relationship now; hint: try again")]
    Store(#[from] CommitError),
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Uniform => Self::permission_denied(refused.to_string()),
            Refused::Load(_) | Refused::Store(_) => Self::unavailable(refused.to_string()),
            _ => Self::failed_precondition(refused.to_string()),
        }
    }
}

/// Serves strangers who may have a token.
pub(in crate::peering) struct JoinService {
    us: Arc<Us>,
    limit: Mutex<Limit>,
}

impl JoinService {
    pub(in crate::peering) fn new(us: Arc<Us>) -> Self {
        Self { us, limit: Mutex::new(Limit::new(instant())) }
    }
}

impl fmt::Debug for JoinService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinService").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn redeem(&self, request: Request<RedeemRequest>) -> Result<Response<RedeemResponse>, Status> {
        let caller = request.extensions().get::<JoinCaller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("no identity"))?;
        if !self.limit.lock().admits(caller.address.ip(), instant()) {
            return Err(Status::resource_exhausted("too many attempts; hint: wait some seconds"));
        }
        let answer = redeem(&self.us, &caller, &request.into_inner()).await;
        Ok(Response::new(answer.inspect_err(|refused| audit(&caller, refused))?))
    }
}

fn audit(caller: &JoinCaller, refused: &Refused) {
    let (address, alarm) = (caller.address, matches!(refused, Refused::UsedByAnother(_)));
    if alarm {
        tracing::error!(target: "isthmus::audit", %address, %refused, "a join token was used twice: is it leaked?");
    } else {
        tracing::warn!(target: "isthmus::audit", %address, %refused, "join refused");
    }
}

async fn redeem(us: &Arc<Us>, caller: &JoinCaller, said: &RedeemRequest) -> Result<RedeemResponse, Refused> {
    let now = clock::unix_now();
    let _changing = us.changing.lock().await;
    for _attempt in 0..ATTEMPTS_MAX {
        let (request, held) = prove(us, caller, said).await?;
        let place = Place::Join(held.value.token.id());
        match judge(us, caller, &request, held, &place, now).await {
            Err(Refused::Store(CommitError::Conflict { .. })) => {}
            other => return other,
        }
    }
    Err(Refused::Uniform)
}

/// Says whether the caller has the token; takes as long when there is none (J5).
async fn prove(
    us: &Us,
    caller: &JoinCaller,
    said: &RedeemRequest,
) -> Result<(JoinRequest, Held<JoinRecord>), Refused> {
    let request = JoinRequest::decode(said.request.as_slice());
    let id = request.as_ref().ok().and_then(|request| TokenId::try_from(request.token_id.as_slice()).ok());
    let held = match id {
        Some(id) => us.read::<JoinRecord>(&Place::Join(id)).await?,
        None => None,
    };
    let dummy = TokenRecord::dummy();
    let token = held.as_ref().map_or(&dummy, |held| &held.value.token);
    let proven = token.verify(&caller.exporter, &said.request, &said.proof);
    match (request, held) {
        (Ok(request), Some(held)) if proven => Ok((request, held)),
        _ => Err(Refused::Uniform),
    }
}

/// Judges a caller who has proven to have the token.
async fn judge(
    us: &Arc<Us>,
    caller: &JoinCaller,
    request: &JoinRequest,
    held: Held<JoinRecord>,
    place: &Place,
    now: UnixTime,
) -> Result<RedeemResponse, Refused> {
    check_token(&held.value, now)?;
    let offer = Offer::read(request, now)?;
    if offer.cluster != held.value.joiner {
        return Err(Refused::OtherCluster(held.value.joiner));
    }
    if let TokenState::Used(redemption) = &held.value.state {
        return answer_again(us, &offer, redemption);
    }
    check_name_and_domain(us, &offer)?;
    check_bundle(us, caller, &offer, now)?;
    accept(us, caller.address.ip(), offer, &held, place, now).await
}

fn check_token(record: &JoinRecord, now: UnixTime) -> Result<(), Refused> {
    if let TokenState::Revoked { at } = record.state {
        return Err(Refused::Revoked(at));
    }
    // Judged by our clock alone (J2).
    if record.token.expires() < now {
        return Err(Refused::Expired(clock::timestamp(record.token.expires())));
    }
    Ok(())
}

/// What a joiner offers, as valid types.
struct Offer {
    cluster: ClusterName,
    trust_domain: TrustDomain,
    bundle: Bundle,
    gateway_id: SpiffeId,
    federation_id: SpiffeId,
    gateways: Vec<crate::model::GatewayAddress>,
}

impl Offer {
    fn read(request: &JoinRequest, now: UnixTime) -> Result<Self, Refused> {
        let malformed = |what| move |_error| Refused::Malformed(what);
        let cluster = ClusterName::try_from(request.cluster.as_str()).map_err(malformed("cluster"))?;
        let domain = TrustDomain::try_from(request.trust_domain.as_str());
        let trust_domain = domain.map_err(|_error| Refused::Malformed("trust domain"))?;
        let bundle = Bundle::parse(trust_domain.clone(), &request.bundle, now)?.bundle;
        if bundle.authorities().is_empty() {
            return Err(Refused::NoAuthority);
        }
        let gateway_id = role(&request.gateway_id, &trust_domain)?;
        let federation_id = role(&request.federation_id, &trust_domain)?;
        let gateways = wire::gateways(&request.gateways);
        Ok(Self { cluster, trust_domain, bundle, gateway_id, federation_id, gateways })
    }
}

/// An identity that a cluster names must be one of its own trust domain.
pub(super) fn role(said: &str, trust_domain: &TrustDomain) -> Result<SpiffeId, Refused> {
    let id = SpiffeId::try_from(said).map_err(|_invalid| Refused::Malformed("role"))?;
    let own = id.trust_domain() == *trust_domain && !id.path().is_empty();
    if own { Ok(id) } else { Err(Refused::Malformed("role")) }
}

/// The same joiner lost our answer; another one has a stolen token, or it is the thief that came first.
fn answer_again(us: &Us, offer: &Offer, redemption: &Redemption) -> Result<RedeemResponse, Refused> {
    let same = offer.trust_domain == redemption.trust_domain
        && Hex(&offer.bundle.digest()).to_string() == redemption.bundle_sha256;
    let peer = us
        .peers
        .get(&offer.cluster)
        .filter(|peer| peer.record().record.relationship == redemption.relationship);
    match peer {
        Some(_) if same => Ok(answer(us, redemption.relationship)),
        _ => Err(Refused::UsedByAnother(offer.cluster.clone())),
    }
}

fn check_name_and_domain(us: &Us, offer: &Offer) -> Result<(), Refused> {
    if offer.cluster == us.deps.cluster {
        return Err(Refused::TakenName(offer.cluster.clone()));
    }
    if offer.trust_domain == us.deps.trust_domain {
        return Err(Refused::OurTrustDomain(offer.trust_domain.clone()));
    }
    match us.peers.of_trust_domain(&offer.trust_domain) {
        Some(other) if other.name != offer.cluster => {
            Err(Refused::TakenTrustDomain(offer.trust_domain.clone()))
        }
        _ => Ok(()),
    }
}

fn check_bundle(us: &Us, caller: &JoinCaller, offer: &Offer, now: UnixTime) -> Result<(), Refused> {
    let trusted = us.deps.trust.load();
    trusted.check_collisions(&offer.bundle)?;
    let id = verify_offered(&caller.chain, &offer.bundle, now)?;
    if id != offer.federation_id {
        return Err(Refused::OtherRole(id));
    }
    // A peer that is still one here, and wants to begin anew, must be the same one.
    if let Some(peer) = us.peers.get(&offer.cluster).filter(|peer| peer.is_active()) {
        let taken = || Refused::TakenName(offer.cluster.clone());
        let held = trusted.bundle(&peer.record().record.peer.trust_domain).ok_or_else(taken)?;
        verify_offered(&caller.chain, held, now).map_err(|_rejection| taken())?;
        offer.bundle.succeeds(held)?;
    }
    Ok(())
}

async fn accept(
    us: &Arc<Us>,
    from: IpAddr,
    offer: Offer,
    held: &Held<JoinRecord>,
    place: &Place,
    now: UnixTime,
) -> Result<RedeemResponse, Refused> {
    let relationship = RelationshipId::new(random());
    let redemption = Redemption {
        at: clock::timestamp(now),
        relationship,
        trust_domain: offer.trust_domain.clone(),
        bundle_sha256: Hex(&offer.bundle.digest()).to_string(),
    };
    let used = JoinRecord { state: TokenState::Used(redemption), ..held.value.clone() };
    let transaction = held.replaced_by(place, &used);
    let transaction = unless_changed(us, &offer.cluster, &offer.trust_domain, transaction).await?;
    let bundle_sha256 = Hex(&offer.bundle.digest()).to_string();
    let near = us.deps.address_rules.near(from);
    let peer = Peer {
        gateways: us.deps.address_rules.admit(offer.gateways, near),
        name: offer.cluster,
        trust_domain: offer.trust_domain,
        gateway_id: offer.gateway_id,
        federation_id: offer.federation_id,
        joined: clock::timestamp(now),
        state: RelationshipState::Active,
        sameness: sameness(us.peers.get(&held.value.joiner).as_deref()),
    };
    let record = PeerRecord { peer, relationship, near };
    let peer = us.establish(record, offer.bundle, transaction).await?;
    tracing::info!(
        target: "isthmus::audit", peer = %peer.name, address = %from, token = %held.value.token.id(),
        bundle_sha256, "a cluster has joined"
    );
    Ok(answer(us, relationship))
}

/// The transaction that began, only if relationship and bundle are still as they were judged.
pub(super) async fn unless_changed(
    us: &Us,
    cluster: &ClusterName,
    trust_domain: &TrustDomain,
    transaction: Transaction,
) -> Result<Transaction, LoadError> {
    let (peer, bundle) = (Place::Peer(cluster.clone()), Place::Bundle(trust_domain.clone()));
    let held_peer = us.read::<PeerRecord>(&peer).await?.map(|held| held.revision).unwrap_or_default();
    let held_bundle = us.read::<BundleRecord>(&bundle).await?.map(|held| held.revision).unwrap_or_default();
    Ok(transaction.when(peer.key(), held_peer).when(bundle.key(), held_bundle))
}

/// What our operator said of namespaces outlives a new beginning.
pub(super) fn sameness(former: Option<&PeerState>) -> Vec<crate::model::Label> {
    former.map(|former| former.record().record.peer.sameness).unwrap_or_default()
}

fn answer(us: &Us, relationship: RelationshipId) -> RedeemResponse {
    RedeemResponse {
        relationship: relationship.as_bytes().to_vec(),
        cluster: us.deps.cluster.to_string(),
        trust_domain: us.deps.trust_domain.to_string(),
        bundle: us.bundle().to_json(),
        gateways: wire::gateways_said(&us.deps.advertise),
        gateway_id: us.deps.gateway_id.to_string(),
        federation_id: us.deps.federation_svid.current().id().to_string(),
    }
}
