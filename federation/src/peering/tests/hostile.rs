//! A peer that has joined and now says what no honest one says (notes/trust 4.3).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use trust_bundle::{BuiltinCa, Bundle, ExpectedPeer, SvidHandle, TrustDomain, TrustStore, client_config};

use super::fixture::{PATIENCE, Site, TestCluster, eventually, name};
use crate::clock;
use crate::issuer::Role;
use crate::peering::dial;
use crate::peering::proto::message::Body;
use crate::peering::proto::peering_client::PeeringClient;
use crate::peering::proto::{self, Message};
use crate::peering::wire;

/// A joined cluster whose process is ours to speak for.
struct Villain {
    site: Site,
    trust: TrustStore,
    svid: SvidHandle,
}

/// Its stream, after both have said hello.
struct Talk {
    say: mpsc::Sender<Message>,
    hear: Streaming<Message>,
    _client: PeeringClient<tonic::transport::Channel>,
}

impl Villain {
    /// Joins as an honest cluster does, and then takes over its keys.
    async fn joined_to(acceptor: &TestCluster) -> Self {
        let honest = TestCluster::new("cloud").await;
        honest.join(acceptor).await;
        let (trust, svid) = (honest.trust.clone(), honest.federation_svid.clone());
        let site = honest.stop().await;
        eventually("its own stream is gone", async || acceptor.peering.peers()[0].stream.is_none()).await;
        Self { site, trust, svid }
    }

    async fn dial(&self, acceptor: &TestCluster) -> Result<Talk, Status> {
        self.dial_saying(acceptor, self.hello()).await
    }

    async fn dial_saying(&self, acceptor: &TestCluster, hello: proto::Hello) -> Result<Talk, Status> {
        let expected = ExpectedPeer::Exact(Role::Federation.id(&acceptor.site.domain));
        let config = client_config(&self.trust, &self.svid, expected, &[b"h2"]);
        let sni = dial::server_name("federation", &acceptor.site.cluster);
        let unavailable = |reason: String| Status::unavailable(reason);
        let address = acceptor.site.address().into();
        let dialled =
            dial::dial(&address, None, config, sni.clone()).await.map_err(|e| unavailable(e.to_string()))?;
        let channel = dial::channel(&sni, dialled.tls).await.map_err(|e| unavailable(e.to_string()))?;
        let mut client = PeeringClient::new(channel);
        let (say, mut said) = mpsc::channel(64);
        say.send(wire::message(Body::Hello(hello))).await.unwrap();
        let answer = client.federate(futures::stream::poll_fn(move |cx| said.poll_recv(cx))).await?;
        Ok(Talk { say, hear: answer.into_inner(), _client: client })
    }

    fn hello(&self) -> proto::Hello {
        proto::Hello {
            protocol: 1,
            cluster: self.site.cluster.to_string(),
            epoch: 1,
            held: None,
            bundle: None,
        }
    }

    /// A bundle of its own trust domain with this number and these roots.
    fn bundle(&self, sequence: u64, roots: &[&Arc<BuiltinCa>]) -> Bundle {
        let root = |ca: &&Arc<BuiltinCa>| ca.bundle().authorities()[0].certificate().clone();
        let roots: Vec<_> = roots.iter().map(root).collect();
        let hint = Duration::from_secs(300);
        Bundle::publish(self.site.domain.clone(), &roots, sequence, hint, clock::unix_now()).unwrap()
    }
}

impl Talk {
    async fn say(&self, body: Body) {
        self.say.send(wire::message(body)).await.unwrap();
    }

    async fn say_bundle(&self, domain: &TrustDomain, bundle: &Bundle) {
        self.say(Body::Bundle(proto::Bundle {
            trust_domain: domain.to_string(),
            sequence: bundle.sequence(),
            jwks: bundle.to_json(),
            sha256: bundle.digest().to_vec(),
        }))
        .await;
    }

    async fn say_everything(&self, revision: u64, services: &[proto::Service]) {
        self.say(Body::FullBegin(proto::FullBegin {})).await;
        for service in services {
            self.say(Body::Service(service.clone())).await;
        }
        self.say(Body::FullEnd(proto::FullEnd { revision })).await;
    }

    /// What the other side refuses next.
    async fn refusal(&mut self) -> String {
        let heard = async {
            loop {
                if let Some(Body::Nack(nack)) = self.hear.message().await.unwrap().and_then(|said| said.body)
                {
                    return nack.reason;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("nothing was refused")
    }

    async fn acknowledgement_of(&mut self, holds: impl Fn(&proto::Ack) -> bool) {
        let heard = async {
            loop {
                match self.hear.message().await.unwrap().and_then(|said| said.body) {
                    Some(Body::Ack(ack)) if holds(&ack) => return,
                    Some(Body::Nack(nack)) => panic!("refused: {}", nack.reason),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("nothing was acknowledged");
    }

    /// The other side ends the stream.
    async fn ends(mut self) {
        let ended = async { while let Some(Ok(_)) = self.hear.next().await {} };
        assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "the stream goes on");
    }
}

fn offer(revision: u64, name: &str) -> proto::Service {
    proto::Service {
        revision,
        namespace: "shop".into(),
        name: name.into(),
        kind: proto::ServiceKind::ClusterSetIp.into(),
        ports: vec![proto::Port { name: String::new(), port: 80, transport: 1, protocol: "http".into() }],
        groups: vec![proto::Group { ready: 2, weight: 2, ..Default::default() }],
        ..Default::default()
    }
}

fn sequence(cluster: &TestCluster, domain: &TrustDomain) -> Option<u64> {
    cluster.trust.load().bundle(domain).and_then(|bundle| bundle.sequence())
}

#[tokio::test]
async fn t2_a_bundle_of_another_trust_domain_ends_the_stream() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let third = TestCluster::new("third").await;
    third.join(&onprem).await;
    let before = onprem.trust.load();
    for domain in [&onprem.site.domain, &third.site.domain, &TrustDomain::try_from("new.example").unwrap()] {
        let talk = villain.dial(&onprem).await.unwrap();
        talk.say_bundle(domain, &villain.bundle(99, &[&villain.site.ca])).await;
        talk.ends().await;
    }
    let after = onprem.trust.load();
    assert_eq!(after.generation(), before.generation(), "nothing is believed that was not before");
}

#[tokio::test]
async fn t4_an_older_bundle_is_refused_and_the_held_one_stays() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let domain = villain.site.domain.clone();
    let mut talk = villain.dial(&onprem).await.unwrap();
    let newer = villain.bundle(7, &[&villain.site.ca]);
    talk.say_bundle(&domain, &newer).await;
    talk.acknowledgement_of(|ack| ack.bundle_sha256 == newer.digest()).await;
    talk.say_bundle(&domain, &villain.bundle(6, &[&villain.site.ca])).await;
    let refusal = talk.refusal().await;
    assert!(refusal.contains("older"), "{refusal}");
    let other = Site::with("x", "x", Duration::from_secs(60)).await;
    talk.say_bundle(&domain, &villain.bundle(7, &[&villain.site.ca, &other.ca])).await;
    let refusal = talk.refusal().await;
    assert!(refusal.contains("two different bundles"), "{refusal}");
    assert_eq!(sequence(&onprem, &domain), Some(7));
    let onprem = onprem.stop().await.start().await;
    assert_eq!(sequence(&onprem, &domain), Some(7), "and over a restart");
}

#[tokio::test]
async fn t3_an_authority_of_another_trust_domain_is_refused() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let domain = villain.site.domain.clone();
    let before = sequence(&onprem, &domain);
    let mut talk = villain.dial(&onprem).await.unwrap();
    talk.say_bundle(&domain, &villain.bundle(50, &[&villain.site.ca, &onprem.site.ca])).await;
    let refusal = talk.refusal().await;
    assert!(refusal.contains("known as one of"), "{refusal}");
    assert_eq!(sequence(&onprem, &domain), before);
}

#[tokio::test]
async fn broken_bundles_are_refused() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let domain = villain.site.domain.clone();
    let mut talk = villain.dial(&onprem).await.unwrap();
    let good = villain.bundle(50, &[&villain.site.ca]);
    let said = |jwks: Vec<u8>, sha256: Vec<u8>| {
        Body::Bundle(proto::Bundle { trust_domain: domain.to_string(), sequence: Some(50), jwks, sha256 })
    };
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec();
    talk.say(said(good.to_json(), vec![0; 32])).await;
    assert!(talk.refusal().await.contains("digest"));
    let nonsense = b"{\"keys\":7}".to_vec();
    talk.say(said(nonsense.clone(), digest(&nonsense))).await;
    assert!(talk.refusal().await.contains("keys"));
    let empty = villain.bundle(51, &[]).to_json();
    talk.say(said(empty.clone(), digest(&empty))).await;
    assert!(talk.refusal().await.contains("no usable authority"));
    let large = vec![b' '; trust_bundle::BUNDLE_BYTES_MAX + 1];
    talk.say(said(large.clone(), digest(&large))).await;
    assert!(talk.refusal().await.contains("bytes"));
    talk.say_everything(1, &[offer(1, "cart")]).await;
    talk.acknowledgement_of(|ack| ack.revision == 1).await;
}

#[tokio::test]
async fn only_the_federation_role_may_speak() {
    let onprem = TestCluster::new("onprem").await;
    let mut villain = Villain::joined_to(&onprem).await;
    for role in [Role::Gateway, Role::Join] {
        villain.svid = SvidHandle::new(villain.site.svid(role));
        let refused = villain.dial(&onprem).await.err().expect("another role may speak");
        assert_eq!(refused.code(), Code::PermissionDenied, "{role:?}");
    }
}

#[tokio::test]
async fn a_peer_that_was_removed_is_a_stranger() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let talk = villain.dial(&onprem).await.unwrap();
    let said = talk.say.clone();
    // It never reads that it was removed, and keeps its end open.
    onprem.peering.remove(&name("cloud"), "admin").await.unwrap();
    talk.ends().await;
    drop(said);
    eventually("its connection was cut", async || onprem.connections() == 0).await;
    assert!(villain.dial(&onprem).await.is_err());
    assert!(onprem.catalog.lock().imports.is_empty());
}

#[tokio::test]
async fn a_peer_cannot_pass_for_another_cluster() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let hello = proto::Hello { cluster: "third".into(), ..villain.hello() };
    let refused = villain.dial_saying(&onprem, hello).await.err().expect("it passes for another");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn what_cannot_be_a_service_is_refused_and_the_rest_is_taken() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let mut talk = villain.dial(&onprem).await.unwrap();
    let broken = proto::Service { namespace: "../kube-system".into(), ..offer(2, "api") };
    talk.say_everything(2, &[offer(1, "cart"), broken]).await;
    assert!(talk.refusal().await.contains("DNS label"));
    talk.acknowledgement_of(|ack| ack.revision == 2).await;
    let imports =
        || onprem.catalog.lock().imports[&name("cloud")].keys().map(ToString::to_string).collect::<Vec<_>>();
    eventually("the good one is there", async || imports() == ["cart.shop"]).await;
    talk.say(Body::Service(proto::Service { kind: 9, ..offer(3, "cart") })).await;
    assert!(talk.refusal().await.contains("kind"));
    talk.say(Body::Service(offer(4, "mail"))).await;
    talk.acknowledgement_of(|ack| ack.revision == 4).await;
    eventually("what was held stays", async || imports() == ["cart.shop", "mail.shop"]).await;
}

#[tokio::test]
async fn breaking_the_protocol_ends_the_stream_and_takes_nothing_away() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let mut talk = villain.dial(&onprem).await.unwrap();
    talk.say_everything(5, &[offer(1, "cart")]).await;
    talk.acknowledgement_of(|ack| ack.revision == 5).await;
    drop(talk);
    let removal = |revision| {
        let (namespace, name) = ("shop".to_owned(), "cart".to_owned());
        Body::ServiceRemoved(proto::ServiceRemoved { revision, namespace, name })
    };
    let again = villain.hello();
    for broken in [
        removal(5),
        Body::Service(offer(4, "cart")),
        Body::FullEnd(proto::FullEnd { revision: 9 }),
        Body::Hello(again),
    ] {
        let talk = villain.dial(&onprem).await.unwrap();
        talk.say(broken).await;
        talk.ends().await;
    }
    assert_eq!(onprem.catalog.lock().imports[&name("cloud")].len(), 1);
}

#[tokio::test]
async fn t23_unknown_kinds_are_ignored_unless_they_are_critical() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let mut talk = villain.dial(&onprem).await.unwrap();
    talk.say.send(Message { critical: false, body: None }).await.unwrap();
    talk.say_everything(1, &[offer(1, "cart")]).await;
    talk.acknowledgement_of(|ack| ack.revision == 1).await;
    talk.say.send(Message { critical: true, body: None }).await.unwrap();
    talk.ends().await;
}

#[tokio::test]
async fn t6_near_addresses_of_gateways_are_not_taken() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let talk = villain.dial(&onprem).await.unwrap();
    let addresses = ["169.254.169.254:80", "[fe80::1]:443", "0.0.0.0:1", "nonsense", "192.0.2.7:15443"];
    talk.say(Body::Gateways(proto::Gateways { addresses: addresses.map(str::to_owned).to_vec() })).await;
    let said: Vec<_> = ["192.0.2.7:15443"].iter().map(|text| text.parse().unwrap()).collect();
    eventually("one is left", async || onprem.peering.peers()[0].peer.gateways == said).await;
}

#[tokio::test]
async fn a_peer_that_reads_nothing_costs_nothing() {
    let onprem = TestCluster::new("onprem").await;
    let villain = Villain::joined_to(&onprem).await;
    let talk = villain.dial(&onprem).await.unwrap();
    // Each is refused, and the refusals are not waited for.
    for revision in 0..500 {
        let broken = proto::Service { kind: 9, ..offer(revision, "cart") };
        talk.say_everything(revision, &[broken]).await;
    }
    eventually("all of it was taken", async || onprem.peering.peers()[0].imports.revision.0 == 499).await;
}
