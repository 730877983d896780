use std::time::Duration;

use super::*;
use crate::source::SvidHandle;
use crate::svid::{SvidKey, X509Svid};
use crate::testing::{handshake, id, now, td};
use crate::verify::{
    ClientAuth, ExpectedPeer, PeerSide, TrustStore, authenticate, client_config, server_config,
};

fn issue(ca: &BuiltinCa, path: &str) -> SvidHandle {
    let key = SvidKey::generate();
    let id = id(&format!("spiffe://{}{path}", ca.trust_domain()));
    let chain = ca.issue(&key.csr(), &id, Duration::from_secs(20), now()).unwrap();
    SvidHandle::new(X509Svid::from_parts(chain, key).unwrap())
}

#[test]
fn svids_of_two_clusters_meet() {
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        BuiltinCa::open(&directory.path().join(name), td(name), CaSettings::default(), now()).unwrap()
    };
    let (onprem, cloud) = (open("onprem"), open("cloud"));
    let trust = TrustStore::new();
    trust.put(onprem.bundle()).unwrap();
    trust.put(cloud.bundle()).unwrap();
    let server_id = id("spiffe://cloud/isthmus/gateway");
    let server = server_config(&trust, &issue(&cloud, "/isthmus/gateway"), ClientAuth::Required, &[b"h2"]);
    let expected = ExpectedPeer::Exact(server_id.clone());
    let client = client_config(&trust, &issue(&onprem, "/isthmus/gateway"), expected, &[b"h2"]);
    let (client, server) = handshake(&client, &server).unwrap();
    let peer = authenticate(&trust, &server, PeerSide::Client, now()).unwrap();
    assert_eq!(peer.id().as_str(), "spiffe://onprem/isthmus/gateway");
    assert_eq!(peer.authority(), onprem.authority());
    assert_eq!(authenticate(&trust, &client, PeerSide::Server, now()).unwrap().id(), &server_id);
}
