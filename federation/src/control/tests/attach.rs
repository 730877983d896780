//! States down, reports up, and what happens when processes die.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use trust_bundle::{Origin, SvidKey, TrustStore};

use super::fixture::{Site, eventually, local, service};
use crate::clock;
use crate::control::state::State;
use crate::control::{ControlStatus, Path, Report, SigningRequest};
use crate::issuer::Role;
use crate::snapshot::{Generation, ServiceView, Snapshot};

/// The snapshot after it, with one more endpoint in one service.
fn grown(before: &Snapshot, number: usize, endpoints: usize) -> Snapshot {
    let mut after = before.clone();
    after.generation = Generation(before.generation.0 + 1);
    let view = ServiceView::clone(&after.services[&service(number)]);
    let view = ServiceView { local: Some(local(number, endpoints)), ..view };
    after.services.insert(service(number), Arc::new(view));
    after
}

#[tokio::test]
async fn a_gateway_gets_everything_once_and_then_what_changes() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let gateway = site.gateway("g1", &[&federation]);
    gateway.is_led_by(&federation).await;
    assert_eq!(
        gateway.snapshot().generation,
        Generation(0),
        "nothing is sent before the sources have spoken"
    );
    let mut snapshot = federation.publish(site.snapshot(1, 20, 10));
    gateway.holds(&snapshot).await;
    for endpoints in 11..15 {
        let before = gateway.snapshot();
        snapshot = federation.publish(grown(&snapshot, 7, endpoints));
        gateway.holds(&snapshot).await;
        let after = gateway.snapshot();
        let same =
            |number| Arc::ptr_eq(&before.services[&service(number)], &after.services[&service(number)]);
        assert!(same(3) && !same(7), "what did not change was not sent again");
    }
}

#[tokio::test]
async fn federation_sees_what_its_gateways_use() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    federation.publish(site.snapshot(5, 1, 1));
    let gateway = site.gateway("g1", &[&federation]);
    let status = async || federation.gateways.list().into_iter().next();
    eventually("the state is held", async || {
        status().await.is_some_and(|g| g.held.generation == Generation(5))
    })
    .await;
    assert!(status().await.unwrap().behind, "the data plane has not said that it uses it");
    gateway.control.reports.send(Report::Applied { generation: Generation(5) }).await.unwrap();
    eventually("not behind", async || status().await.is_some_and(|gateway| !gateway.behind)).await;
    let seen = status().await.unwrap();
    assert_eq!((seen.replica.as_str(), seen.serving), ("g1", Generation(5)));
    assert!(seen.connected_since.is_some());
    drop(gateway);
    eventually("gone", async || status().await.is_none_or(|gateway| gateway.connected_since.is_none())).await;
}

#[tokio::test]
async fn paths_are_told_to_whoever_leads() {
    let site = Site::new("cloud");
    let (first, second) = (site.federation().await, site.follower(&[]).await);
    first.publish(site.snapshot(5, 1, 1));
    let gateway = site.gateway("g1", &[&first, &second]);
    let path = Path::Up { round_trip: Duration::from_millis(3) };
    let peer = "quay".try_into().unwrap();
    gateway.control.reports.send(Report::Path { peer, path }).await.unwrap();
    let knows = |gateways: crate::control::Gateways| async move {
        eventually("the path is known", async || gateways.paths().values().any(|known| *known == path)).await;
    };
    knows(first.gateways.clone()).await;
    first.kill();
    second.lead();
    second.publish(site.snapshot(6, 1, 1));
    knows(second.gateways.clone()).await;
}

#[tokio::test]
async fn a_killed_leader_takes_nothing_with_it() {
    let site = Site::new("cloud");
    let (first, second) = (site.federation().await, site.federation().await);
    second.follow(&[&first]);
    let snapshot = first.publish(site.snapshot(1, 5, 5));
    let gateway = site.gateway("g1", &[&first, &second]);
    gateway.holds(&snapshot).await;
    first.kill();
    eventually("apart", async || matches!(&*gateway.status.borrow(), ControlStatus::Apart { .. })).await;
    assert!(*gateway.snapshot() == *snapshot);
    // The next leader has the same content in a generation of its own.
    second.lead();
    let next =
        second.publish(Snapshot { generation: Generation(1_000_000_001), ..Snapshot::clone(&snapshot) });
    gateway.is_led_by(&second).await;
    gateway.holds(&next).await;
    assert!(Arc::ptr_eq(
        &gateway.snapshot().services[&service(3)],
        &gateway.snapshot().services[&service(3)]
    ));
}

#[tokio::test]
async fn a_follower_names_the_leader() {
    let site = Site::new("cloud");
    let leader = site.federation().await;
    let follower = site.follower(&[&leader]).await;
    let snapshot = leader.publish(site.snapshot(1, 1, 1));
    // The gateway knows only the follower.
    let gateway = site.gateway("g1", &[&follower]);
    gateway.is_led_by(&leader).await;
    gateway.holds(&snapshot).await;
}

#[tokio::test]
async fn a_deposed_leader_sends_its_gateways_on() {
    let site = Site::new("cloud");
    let (first, second) = (site.federation().await, site.federation().await);
    let snapshot = first.publish(site.snapshot(1, 1, 1));
    let gateway = site.gateway("g1", &[&first]);
    gateway.holds(&snapshot).await;
    second.publish(Snapshot { generation: Generation(2), ..Snapshot::clone(&snapshot) });
    first.follow(&[&second]);
    gateway.is_led_by(&second).await;
}

#[tokio::test]
async fn a_leader_with_older_states_is_not_followed() {
    let site = Site::new("cloud");
    let (newer, older) = (site.federation().await, site.federation().await);
    let snapshot = newer.publish(site.snapshot(9, 1, 1));
    older.publish(site.snapshot(3, 2, 2));
    let state = State::new(snapshot.clone(), &site.trust());
    let gateway = site.gateway_from("g1", &[&older], Some(state));
    eventually("it says so", async || {
        matches!(&*gateway.status.borrow(), ControlStatus::Apart { reason, .. } if reason.contains("older than ours"))
    })
    .await;
    assert!(*gateway.snapshot() == *snapshot);
    assert_eq!(older.gateways.seen(), Generation(9), "whoever leads can learn how far the gateways are");
}

#[tokio::test]
async fn a_gateway_starts_from_its_disk_with_nobody_there() {
    let site = Site::new("cloud");
    let other = Site::new("quay");
    let trust = site.trust();
    trust.put(other.ca.bundle()).unwrap();
    let snapshot = Arc::new(site.snapshot(7, 3, 3));
    let gateway = site.gateway_from("g1", &[], Some(State::new(snapshot.clone(), &trust)));
    assert!(*gateway.snapshot() == *snapshot, "at once");
    assert!(gateway.trust.load().bundle(&other.domain).is_some());
}

#[tokio::test]
async fn who_comes_back_with_the_same_state_is_sent_nothing() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let snapshot = federation.publish(site.snapshot(7, 3, 3));
    let gateway = site.gateway_from("g1", &[&federation], Some(State::new(snapshot.clone(), &site.trust())));
    let held = gateway.snapshot();
    gateway.control.reports.send(Report::Applied { generation: Generation(7) }).await.unwrap();
    let attached = async || federation.gateways.list().first().is_some_and(|gateway| !gateway.behind);
    eventually("its state is known", attached).await;
    let next = federation.publish(grown(&snapshot, 2, 9));
    gateway.holds(&next).await;
    let same = |number| {
        Arc::ptr_eq(&held.services[&service(number)], &gateway.snapshot().services[&service(number)])
    };
    assert!(same(1), "a full state would have made all of it anew");
}

#[tokio::test]
async fn svids_are_issued_through_the_stream_and_only_for_gateways() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let gateway = site.gateway("g1", &[&federation]);
    gateway.is_led_by(&federation).await;
    let ask = async |role: Role| {
        let key = SvidKey::generate();
        let (answer, answered) = oneshot::channel();
        let request = SigningRequest { id: role.id(&site.domain), csr: key.csr(), answer };
        gateway.control.signer.send(request).await.unwrap();
        answered.await.unwrap()
    };
    assert!(!ask(Role::Gateway).await.unwrap().is_empty());
    let refused = ask(Role::Federation).await.unwrap_err();
    assert!(refused.reason.contains("gateway role only"), "{refused}");
    federation.refused("other_id").await;
}

#[tokio::test]
async fn trust_follows_the_leader_and_lost_trust_cuts_connections() {
    let site = Site::new("cloud");
    let quay = Site::new("quay");
    let federation = site.federation().await;
    let snapshot = federation.publish(site.snapshot(1, 1, 1));
    let gateway = site.gateway("g1", &[&federation]);
    gateway.holds(&snapshot).await;
    federation.trust.put(quay.ca.bundle()).unwrap();
    eventually("trusted", async || gateway.trust.load().bundle(&quay.domain).is_some()).await;
    let open = gateway.registry.open(Origin::Accepted, "link", Some(identity(&quay, &gateway.trust).await));
    federation.trust.remove(&quay.domain);
    eventually("no longer trusted", async || gateway.trust.load().bundle(&quay.domain).is_none()).await;
    eventually("cut", async || open.is_cut()).await;
    assert!(gateway.trust.load().bundle(&site.domain).is_some());
}

#[tokio::test]
async fn a_peer_that_begins_anew_with_another_authority_is_believed() {
    let site = Site::new("cloud");
    let (before, after) = (Site::new("quay"), Site::new("quay"));
    let federation = site.federation().await;
    let snapshot = federation.publish(site.snapshot(1, 1, 1));
    federation.trust.put(before.ca.bundle()).unwrap();
    let gateway = site.gateway("g1", &[&federation]);
    gateway.holds(&snapshot).await;
    federation.trust.remove(&before.domain);
    federation.trust.put(after.ca.bundle()).unwrap();
    eventually("the new authority", async || {
        let trusted = gateway.trust.load();
        trusted.bundle(&after.domain).is_some_and(|held| held.digest() == after.ca.bundle().digest())
    })
    .await;
}

/// The identity of a gateway of another cluster, as a handshake finds it.
async fn identity(of: &Site, trust: &TrustStore) -> trust_bundle::PeerIdentity {
    use tokio_rustls::{TlsAcceptor, TlsConnector};
    use trust_bundle::{
        ClientAuth, ExpectedPeer, PeerSide, SvidHandle, authenticate, client_config, server_config,
    };
    let svid = SvidHandle::new(of.svid("/isthmus/gateway"));
    let expected = ExpectedPeer::Exact(svid.current().id().clone());
    let server = TlsAcceptor::from(server_config(trust, &svid, ClientAuth::Required, &[]));
    let client = TlsConnector::from(client_config(trust, &svid, expected, &[]));
    let (a, b) = tokio::io::duplex(16 * 1024);
    let (_client, server) =
        tokio::try_join!(client.connect("quay".try_into().unwrap(), a), server.accept(b)).unwrap();
    authenticate(trust, server.get_ref().1, PeerSide::Client, clock::unix_now()).unwrap()
}
