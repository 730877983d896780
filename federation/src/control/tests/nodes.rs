//! How a new gateway gets its first SVID, and how nobody else does.

use std::time::Duration;

use trust_bundle::{JoinToken, TokenParts};

use super::fixture::{Federation, Site};
use crate::clock;
use crate::control::disk::Disk;
use crate::control::nodes::{NodeJoinError, NodeTokenState, join};
use crate::issuer::Role;
use crate::snapshot::Generation;

const TTL: Duration = Duration::from_secs(900);

fn disk(site: &Site, name: &str) -> Disk {
    Disk::open(&site.directory.path().join(name)).unwrap()
}

async fn token(federation: &Federation) -> String {
    federation.nodes.invite(TTL, "test").await.unwrap().text().to_string()
}

#[tokio::test]
async fn a_token_makes_a_node_a_gateway() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let (token, disk) = (token(&federation).await, disk(&site, "node"));
    let joined = join(&token, &disk).await.unwrap();
    assert_eq!(
        (joined.cluster.clone(), joined.control),
        (site.cluster.clone(), vec![federation.address.clone()])
    );
    let svid = disk.load_svid().unwrap().unwrap();
    assert_eq!(*svid.id(), Role::Gateway.id(&site.domain));
    let state = disk.load(clock::unix_now()).unwrap().unwrap();
    assert_eq!(state.generation(), Generation(0));
    assert_eq!(state.bundles[&site.domain].digest(), site.ca.bundle().digest());
    let known = federation.nodes.tokens().await.unwrap();
    assert!(matches!(known[0].state, NodeTokenState::Used { .. }));
    // With that it can attach.
    let snapshot = federation.publish(site.snapshot(1, 2, 2));
    let gateway = site.gateway_from("node", &[&federation], Some(state));
    gateway.holds(&snapshot).await;
}

#[tokio::test]
async fn the_same_node_may_ask_again_and_another_is_refused() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let (token, first, second) = (token(&federation).await, disk(&site, "first"), disk(&site, "second"));
    // As if the answer had been lost: the key is there, the SVID is not.
    let pending = first.pending().unwrap();
    join(&token, &first).await.unwrap();
    let once = first.load_svid().unwrap().unwrap();
    assert_eq!(*once.key().to_pem(), *pending.key.to_pem());
    restore(&site, "first", &pending);
    join(&token, &first).await.unwrap();
    assert_eq!(*first.load_svid().unwrap().unwrap().key().to_pem(), *pending.key.to_pem());
    // Whoever runs the same command once more alarms nobody.
    join(&token, &first).await.unwrap();
    assert_eq!(*first.load_svid().unwrap().unwrap().key().to_pem(), *pending.key.to_pem());
    let refused = join(&token, &second).await.unwrap_err().to_string();
    assert!(refused.contains("used already by another node"), "{refused}");
    assert!(second.load_svid().unwrap().is_none());
}

/// Puts the key of a former attempt back, as a crash before the answer leaves it.
fn restore(site: &Site, name: &str, pending: &crate::control::disk::Pending) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = site.directory.path().join(name).join("pending");
    let request = trust_bundle::pem::encode("CERTIFICATE REQUEST", &pending.csr);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    std::io::Write::write_all(&mut file, format!("{}{request}", *pending.key.to_pem()).as_bytes()).unwrap();
}

#[tokio::test]
async fn useless_tokens_open_nothing() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let disk = disk(&site, "node");
    // Never made here, although everything in it is right.
    let parts = |joiner| TokenParts {
        acceptor_cluster: "cloud".into(),
        trust_domain: site.domain.clone(),
        join_id: Role::Join.id(&site.domain),
        endpoints: vec![federation.address.to_string()],
        pins: site.ca.bundle().authorities().iter().map(|authority| authority.id()).collect(),
        expires: rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            clock::unix_now().as_secs() + 900,
        )),
        joiner,
    };
    let unknown = JoinToken::seal(parts(None)).0.text().to_string();
    let refused = join(&unknown, &disk).await.unwrap_err().to_string();
    assert!(refused.contains("opens nothing here"), "{refused}");
    let of_cluster = JoinToken::seal(parts(Some("onprem".into()))).0.text().to_string();
    assert!(matches!(join(&of_cluster, &disk).await, Err(NodeJoinError::ForCluster(_))));
    let revoked = federation.nodes.invite(TTL, "test").await.unwrap();
    federation.nodes.revoke(revoked.id(), "test").await.unwrap();
    let refused = join(&revoked.text(), &disk).await.unwrap_err().to_string();
    assert!(refused.contains("revoked"), "{refused}");
    assert!(disk.load_svid().unwrap().is_none());
}

#[tokio::test]
async fn a_listener_of_another_authority_is_not_believed() {
    let (site, imposter) = (Site::new("cloud"), Site::new("cloud"));
    let (federation, other) = (site.federation().await, imposter.federation().await);
    let parts = TokenParts {
        acceptor_cluster: "cloud".into(),
        trust_domain: site.domain.clone(),
        join_id: Role::Join.id(&site.domain),
        endpoints: vec![other.address.to_string()],
        pins: site.ca.bundle().authorities().iter().map(|authority| authority.id()).collect(),
        expires: rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            clock::unix_now().as_secs() + 900,
        )),
        joiner: None,
    };
    let token = JoinToken::seal(parts).0.text().to_string();
    assert!(matches!(join(&token, &disk(&site, "node")).await, Err(NodeJoinError::Unreachable(_))));
    drop(federation);
}

#[tokio::test]
async fn guesses_of_one_network_are_slowed_down() {
    let site = Site::new("cloud");
    let federation = site.federation().await;
    let (good, disk) = (token(&federation).await, disk(&site, "node"));
    let unknown = {
        let other = federation.nodes.invite(TTL, "test").await.unwrap();
        federation.nodes.revoke(other.id(), "test").await.unwrap();
        other.text().to_string()
    };
    let mut refusals = Vec::new();
    for _ in 0..7 {
        refusals.push(join(&unknown, &disk).await.unwrap_err().to_string());
    }
    assert!(refusals.iter().any(|refused| refused.contains("too many attempts")), "{refusals:?}");
    assert!(federation.nodes.tokens().await.unwrap().len() == 2);
    drop(good);
}
