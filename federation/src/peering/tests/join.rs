//! Joining with a token: rules J1 to J10 of notes/trust 4.2.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use tonic::Code;
use trust_bundle::{JoinToken, Rejection, SvidHandle, TokenParts, exporter, join_client_config};

use super::fixture::{Site, TestCluster, eventually, name};
use crate::clock;
use crate::issuer::Role;
use crate::model::Freshness;
use crate::peering::dial::{self, DialError};
use crate::peering::join::JoinError;
use crate::peering::proto::join_client::JoinClient;
use crate::peering::proto::{JoinRequest, RedeemRequest, RedeemResponse};
use crate::peering::records::TokenState;
use crate::store::keys;
use crate::store::{Store, list_all};

const TTL: Duration = Duration::from_secs(900);

/// A joiner that says what the test wants it to say.
struct Stranger {
    site: Site,
    svid: SvidHandle,
}

impl Stranger {
    async fn new(cluster: &str, domain: &str) -> Self {
        let site = Site::with(cluster, domain, Duration::from_secs(3600)).await;
        let svid = SvidHandle::new(site.svid(Role::Federation));
        Self { site, svid }
    }

    fn request(&self, token: &JoinToken) -> JoinRequest {
        JoinRequest {
            token_id: token.id().as_bytes().to_vec(),
            cluster: self.site.cluster.to_string(),
            trust_domain: self.site.domain.to_string(),
            bundle: self.site.ca.bundle().to_json(),
            gateways: vec!["127.0.0.1:15443".to_owned()],
            nonce: vec![7; 16],
            gateway_id: Role::Gateway.id(&self.site.domain).to_string(),
            federation_id: Role::Federation.id(&self.site.domain).to_string(),
        }
    }

    async fn redeem(
        &self,
        acceptor: &TestCluster,
        token: &JoinToken,
    ) -> Result<RedeemResponse, tonic::Status> {
        self.say(acceptor, token, self.request(token).encode_to_vec(), |proof| proof).await
    }

    async fn say(
        &self,
        acceptor: &TestCluster,
        token: &JoinToken,
        request: Vec<u8>,
        change: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> Result<RedeemResponse, tonic::Status> {
        let sni = dial::server_name("join", &acceptor.site.cluster);
        let config = join_client_config(token, &self.svid);
        let dialled = dial::dial(&acceptor.site.address().into(), None, config, sni.clone()).await.unwrap();
        let proof = change(token.prove(&exporter(dialled.tls.get_ref().1), &request).to_vec());
        let channel = dial::channel(&sni, dialled.tls).await.unwrap();
        let answer = JoinClient::new(channel).redeem(RedeemRequest { request, proof }).await;
        answer.map(tonic::Response::into_inner)
    }
}

async fn invite(acceptor: &TestCluster, joiner: &str) -> JoinToken {
    acceptor.peering.invite(&name(joiner), TTL, "test").await.unwrap()
}

/// A token that the acceptor has never made, although it looks like it.
fn forged(acceptor: &TestCluster, joiner: &str) -> JoinToken {
    let parts = TokenParts {
        acceptor_cluster: acceptor.site.cluster.to_string(),
        trust_domain: acceptor.site.domain.clone(),
        join_id: Role::Join.id(&acceptor.site.domain),
        endpoints: vec![acceptor.site.address().to_string()],
        pins: vec![acceptor.site.ca.authority()],
        expires: rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            clock::unix_now().as_secs() + 900,
        )),
        joiner: Some(joiner.to_owned()),
    };
    JoinToken::seal(parts).0
}

#[tokio::test]
async fn one_token_makes_one_relationship_on_both_sides() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let token = invite(&onprem, "cloud").await;
    let peer = cloud.peering.join(&token.text()).await.unwrap();
    assert_eq!((peer.name, peer.trust_domain), (name("onprem"), onprem.site.domain.clone()));
    // Both hold it at the moment at which the command returns.
    let (theirs, ours) = (onprem.peer(&cloud).unwrap().peer, cloud.peer(&onprem).unwrap().peer);
    assert_eq!(theirs.federation_id.to_string(), "spiffe://cloud.example/isthmus/federation");
    assert_eq!(ours.gateway_id.to_string(), "spiffe://onprem.example/isthmus/gateway");
    assert_eq!(ours.gateways, [onprem.site.address().into()]);
    assert_eq!(theirs.gateways, [cloud.site.address().into()], "loopback, because the join ran over it");
    for (cluster, other) in [(&onprem, &cloud), (&cloud, &onprem)] {
        assert!(cluster.trust.load().bundle(&other.site.domain).is_some());
        assert_eq!(list_all(&*cluster.store, &keys::peers()).await.unwrap().entries.len(), 1);
        assert_eq!(list_all(&*cluster.store, &keys::bundles()).await.unwrap().entries.len(), 1);
    }
    let used = onprem.peering.tokens().await.unwrap().remove(0);
    assert!(matches!(used.state, TokenState::Used(_)), "{used:?}");
    assert_eq!(used.joiner, name("cloud"));
}

#[tokio::test]
async fn j1_parallel_redemptions_make_exactly_one_relationship() {
    let onprem = TestCluster::new("onprem").await;
    let token = invite(&onprem, "cloud").await;
    let rivals = [Stranger::new("cloud", "cloud").await, Stranger::new("cloud", "thief").await];
    let tries = (0..6).map(|n| rivals[n % 2].redeem(&onprem, &token));
    let answers = futures::future::join_all(tries).await;
    let relationships: BTreeSet<_> =
        answers.iter().flatten().map(|answer| answer.relationship.clone()).collect();
    assert_eq!(relationships.len(), 1);
    assert_eq!(onprem.peering.peers().len(), 1);
    let winner = onprem.peering.peers().remove(0).peer.trust_domain;
    for (n, answer) in answers.iter().enumerate() {
        // Five attempts of one network are within its rate; the sixth is told to wait.
        let limited = answer.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted);
        assert!(limited || answer.is_ok() == (rivals[n % 2].site.domain == winner), "{n}: {answer:?}");
    }
}

#[tokio::test]
async fn j3_what_is_stored_lets_nobody_in() {
    let onprem = TestCluster::new("onprem").await;
    let token = invite(&onprem, "cloud").await;
    let secret = token.text();
    let stored = onprem.everything_stored().await;
    let holds = |part: &[u8]| stored.windows(part.len()).any(|window| window == part);
    assert!(holds(token.id().to_string().as_bytes()), "the record is there");
    assert!(!holds(&secret.as_bytes()[20..60]), "the secret is not");
    // A thief of the store knows the token's id, and signs with a key of his own.
    let thief = Stranger::new("cloud", "cloud").await;
    let own = forged(&onprem, "cloud");
    let request = thief.request(&token).encode_to_vec();
    let refused = thief.say(&onprem, &own, request, |proof| proof).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(onprem.peering.peers().is_empty());
}

#[tokio::test]
async fn j5_without_a_proof_every_answer_is_the_same() {
    let onprem = TestCluster::new("onprem").await;
    let token = invite(&onprem, "cloud").await;
    let cloud = Stranger::new("cloud", "cloud").await;
    let (unknown, good) = (forged(&onprem, "cloud"), cloud.request(&token).encode_to_vec());
    let answers = [
        cloud.redeem(&onprem, &unknown).await,
        cloud.say(&onprem, &token, good.clone(), |_proof| vec![0; 64]).await,
        cloud.say(&onprem, &token, good, |_proof| Vec::new()).await,
        cloud.say(&onprem, &token, b"\xff\xff nonsense".to_vec(), |proof| proof).await,
        cloud.say(&onprem, &token, Vec::new(), |proof| proof).await,
    ];
    let told: BTreeSet<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap_err())
        .map(|status| {
            (format!("{:?}", status.code()), status.message().to_owned(), status.details().to_vec())
        })
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(onprem.peering.peers().is_empty());
    assert!(matches!(onprem.peering.tokens().await.unwrap()[0].state, TokenState::Unused));
}

#[tokio::test]
async fn whoever_has_the_token_is_told_what_is_wrong() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let refused = async |token: &JoinToken| cloud.peering.join(&token.text()).await.unwrap_err().to_string();

    let revoked = invite(&onprem, "cloud").await;
    onprem.peering.revoke(revoked.id(), "test").await.unwrap();
    let told = refused(&revoked).await;
    assert!(told.contains("revoked"), "{told}");

    let other = invite(&onprem, "elsewhere").await;
    let told = refused(&other).await;
    assert!(told.contains("elsewhere"), "{told}");
    let lying = Stranger::new("cloud", "cloud").await;
    let told = lying.redeem(&onprem, &other).await.unwrap_err();
    assert_eq!(told.code(), Code::FailedPrecondition);
    assert!(told.message().contains("elsewhere"), "{told:?}");

    let short = onprem.peering.invite(&name("cloud"), Duration::from_secs(1), "test").await.unwrap();
    // Another one keeps the door open.
    invite(&onprem, "cloud").await;
    eventually("the token expires", async || clock::unix_now() > short.expires()).await;
    let told = lying.redeem(&onprem, &short).await.unwrap_err();
    assert!(told.message().contains("expired"), "{told:?}");
    assert!(onprem.peering.peers().is_empty() && cloud.peering.peers().is_empty());
}

#[tokio::test]
async fn a_lost_answer_is_given_again() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let token = invite(&onprem, "cloud").await;
    // The same cluster, of which the answer is lost.
    let svid = cloud.federation_svid.clone();
    let lost = Stranger { site: Site { ca: cloud.site.ca.clone(), ..Site::new("cloud").await }, svid };
    let first = lost.redeem(&onprem, &token).await.unwrap();
    let peer = cloud.peering.join(&token.text()).await.unwrap();
    assert_eq!(peer.name, name("onprem"));
    assert_eq!(cloud.peering.join(&token.text()).await.unwrap(), peer, "once more harms nobody");
    let again = lost.redeem(&onprem, &token).await.unwrap();
    assert_eq!(again.relationship, first.relationship);
    assert_eq!(onprem.peering.peers().len(), 1);
    cloud.has_a_stream_to(&onprem).await;
}

#[tokio::test]
async fn who_joins_anew_is_fresh_again() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let fresh = |of: &TestCluster, other: &TestCluster| {
        of.peer(other).is_some_and(|peer| peer.freshness == Freshness::Fresh)
    };
    for _ in 0..2 {
        cloud.join(&onprem).await;
        eventually("both sides believe each other", async || {
            fresh(&onprem, &cloud) && fresh(&cloud, &onprem)
        })
        .await;
    }
}

#[tokio::test]
async fn a_second_joiner_with_the_same_token_is_refused() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let token = invite(&onprem, "cloud").await;
    cloud.peering.join(&token.text()).await.unwrap();
    let thief = Stranger::new("cloud", "thief").await;
    let refused = thief.redeem(&onprem, &token).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("used already"), "{refused:?}");
    assert_eq!(onprem.peer(&cloud).unwrap().peer.trust_domain, cloud.site.domain);
    assert!(onprem.trust.load().bundle(&thief.site.domain).is_none());
}

#[tokio::test]
async fn a_man_in_the_middle_with_another_root_is_refused() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let impostor = TestCluster::new("onprem").await;
    invite(&impostor, "cloud").await;
    let token = invite(&onprem, "cloud").await;
    let caught = JoinToken::seal(TokenParts {
        acceptor_cluster: "onprem".to_owned(),
        trust_domain: onprem.site.domain.clone(),
        join_id: token.join_id().clone(),
        endpoints: vec![impostor.site.address().to_string()],
        pins: token.pins().to_vec(),
        expires: token.expires(),
        joiner: Some("cloud".to_owned()),
    });
    let refused = cloud.peering.join(&caught.0.text()).await.unwrap_err();
    let JoinError::Unreachable(DialError::NotThePeer { rejection, .. }) = &refused else {
        panic!("{refused}")
    };
    assert_eq!(*rejection, Rejection::NotPinned);
    assert!(cloud.peering.peers().is_empty());
}

#[tokio::test]
async fn j7_names_and_trust_domains_that_are_taken_are_refused() {
    let onprem = TestCluster::new("onprem").await;
    let told = async |cluster: &str, domain: &str| {
        let stranger = Stranger::new(cluster, domain).await;
        let token = invite(&onprem, cluster).await;
        stranger.redeem(&onprem, &token).await.unwrap_err().message().to_owned()
    };
    assert!(told("cloud", "onprem").await.contains("acceptor's own"));
    let cloud = TestCluster::new("cloud").await;
    cloud.join(&onprem).await;
    assert!(told("other", "cloud").await.contains("belongs to another peer"));
    let same_name = told("cloud", "elsewhere").await;
    assert!(same_name.contains("already"), "{same_name}");
    assert_eq!(onprem.peering.peers().len(), 1);
    let ourselves = onprem.peering.invite(&name("onprem"), TTL, "test").await;
    assert!(ourselves.is_err());
}

#[tokio::test]
async fn j8_an_authority_of_another_trust_domain_is_refused() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    cloud.join(&onprem).await;
    let thief = Stranger::new("b2", "b2").await;
    for stolen in [&cloud.site.ca, &onprem.site.ca] {
        let token = invite(&onprem, "b2").await;
        let roots = [thief.site.ca.bundle(), stolen.bundle()]
            .map(|bundle| bundle.authorities()[0].certificate().clone());
        let now = clock::unix_now();
        let bundle = trust_bundle::Bundle::publish(thief.site.domain.clone(), &roots, 1, TTL, now).unwrap();
        let request = JoinRequest { bundle: bundle.to_json(), ..thief.request(&token) };
        let refused = thief.say(&onprem, &token, request.encode_to_vec(), |proof| proof).await.unwrap_err();
        assert!(refused.message().contains("known as one of"), "{refused:?}");
    }
    assert!(onprem.trust.load().bundle(&thief.site.domain).is_none());
}

#[tokio::test]
async fn the_certificate_must_be_the_federation_role_of_the_offered_bundle() {
    let onprem = TestCluster::new("onprem").await;
    let token = invite(&onprem, "cloud").await;
    let mut cloud = Stranger::new("cloud", "cloud").await;
    let elsewhere = Stranger::new("elsewhere", "elsewhere").await;
    let foreign_bundle = JoinRequest {
        bundle: elsewhere.site.ca.bundle().to_json(),
        trust_domain: elsewhere.site.domain.to_string(),
        federation_id: Role::Federation.id(&elsewhere.site.domain).to_string(),
        gateway_id: Role::Gateway.id(&elsewhere.site.domain).to_string(),
        ..cloud.request(&token)
    };
    let refused =
        cloud.say(&onprem, &token, foreign_bundle.encode_to_vec(), |proof| proof).await.unwrap_err();
    assert!(refused.message().contains("certificate"), "{refused:?}");
    let foreign_role = JoinRequest {
        federation_id: Role::Federation.id(&elsewhere.site.domain).to_string(),
        ..cloud.request(&token)
    };
    let refused = cloud.say(&onprem, &token, foreign_role.encode_to_vec(), |proof| proof).await.unwrap_err();
    assert!(refused.message().contains("role"), "{refused:?}");
    cloud.svid = SvidHandle::new(cloud.site.svid(Role::Gateway));
    let refused = cloud.redeem(&onprem, &token).await.unwrap_err();
    assert!(refused.message().contains("role"), "{refused:?}");
    assert!(onprem.peering.peers().is_empty());
}

#[tokio::test]
async fn a_proof_is_of_no_use_on_another_connection() {
    let onprem = TestCluster::new("onprem").await;
    let token = invite(&onprem, "cloud").await;
    let cloud = Stranger::new("cloud", "cloud").await;
    let request = cloud.request(&token).encode_to_vec();
    let seen = Mutex::new(Vec::new());
    let broken = |proof: Vec<u8>| {
        seen.lock().clone_from(&proof);
        vec![0; 64]
    };
    cloud.say(&onprem, &token, request.clone(), broken).await.unwrap_err();
    let captured = seen.lock().clone();
    let replayed = cloud.say(&onprem, &token, request, |_proof| captured).await.unwrap_err();
    assert_eq!(replayed.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn without_a_waiting_token_strangers_do_not_even_get_a_handshake() {
    let onprem = TestCluster::new("onprem").await;
    let cloud = TestCluster::new("cloud").await;
    let refused = cloud.peering.join(&forged(&onprem, "cloud").text()).await.unwrap_err();
    assert!(matches!(refused, JoinError::Unreachable(_)), "{refused}");
}

#[tokio::test]
async fn a_token_survives_a_restart_of_its_maker() {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    let token = invite(&onprem, "cloud").await;
    let onprem = onprem.stop().await.start().await;
    cloud.peering.join(&token.text()).await.unwrap();
    onprem.has_a_stream_to(&cloud).await;
}

#[tokio::test]
async fn records_of_tokens_go_a_day_after_their_end() {
    let onprem = TestCluster::new("onprem").await;
    invite(&onprem, "cloud").await;
    let later = |seconds| {
        rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            clock::unix_now().as_secs() + seconds,
        ))
    };
    onprem.store.expire(later(900 + 86_000)).await.unwrap();
    assert_eq!(onprem.peering.tokens().await.unwrap().len(), 1);
    onprem.store.expire(later(900 + 86_500)).await.unwrap();
    assert!(onprem.peering.tokens().await.unwrap().is_empty());
}
