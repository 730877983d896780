//! The peering stream between two honest clusters.

use std::sync::Arc;
use std::time::Duration;

use trust_bundle::Bundle;

use super::fixture::{Site, TestCluster, eventually, name};
use crate::clock;
use crate::model::{Freshness, RelationshipState};
use crate::peering::seat::Dialled;
use crate::store::keys::{self, Place};
use crate::store::{Store, list_all};

/// Two clusters that have joined; the stream is up.
async fn joined() -> (TestCluster, TestCluster) {
    let (onprem, cloud) = (TestCluster::new("onprem").await, TestCluster::new("cloud").await);
    cloud.join(&onprem).await;
    cloud.has_a_stream_to(&onprem).await;
    onprem.has_a_stream_to(&cloud).await;
    (onprem, cloud)
}

#[tokio::test]
async fn exports_of_each_are_imports_of_the_other() {
    let (onprem, cloud) = joined().await;
    onprem.export(&[("cart.shop", 3), ("db.shop", 1)]);
    cloud.export(&[("mail.office", 2)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 3), ("db.shop", 1)]).await;
    onprem.imports_eventually(&cloud, &[("mail.office", 2)]).await;

    onprem.export(&[("cart.shop", 4)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 4)]).await;
    onprem.export(&[]);
    cloud.imports_eventually(&onprem, &[]).await;
    onprem.imports_eventually(&cloud, &[("mail.office", 2)]).await;
}

#[tokio::test]
async fn what_is_held_is_acknowledged() {
    let (onprem, cloud) = joined().await;
    onprem.export(&[("cart.shop", 3), ("db.shop", 1)]);
    eventually("all is acknowledged", async || {
        onprem.peer(&cloud).is_some_and(|status| {
            status.exports.services == 2
                && status.exports.acknowledged == Some(status.exports.revision)
                && status.bundle_acknowledged
        })
    })
    .await;
    let (sent, received) = (onprem.peer(&cloud).unwrap(), cloud.peer(&onprem).unwrap());
    assert_eq!(received.imports.revision, sent.exports.revision);
    assert_eq!(received.imports.services, 2);
    let stored = list_all(&*cloud.store, &keys::imports_of(&name("onprem"))).await.unwrap();
    assert_eq!(stored.entries.len(), 3, "two services and how far they are held");
}

#[tokio::test]
async fn a_peer_with_a_stream_is_fresh() {
    let (onprem, cloud) = joined().await;
    for (cluster, other) in [(&onprem, &cloud), (&cloud, &onprem)] {
        eventually("fresh", async || {
            cluster.peer(other).is_some_and(|peer| peer.freshness == Freshness::Fresh)
        })
        .await;
        eventually("the catalog knows", async || {
            cluster.catalog.lock().freshness.get(&other.site.cluster) == Some(&vec![Freshness::Fresh])
        })
        .await;
    }
}

#[tokio::test]
async fn both_sides_agree_on_one_stream() {
    let (onprem, cloud) = joined().await;
    eventually("one stream, seen from both sides", async || {
        let pair = (cloud.peer(&onprem).and_then(|p| p.stream), onprem.peer(&cloud).and_then(|p| p.stream));
        matches!(
            pair,
            (Some(Dialled::ByUs), Some(Dialled::ByPeer)) | (Some(Dialled::ByPeer), Some(Dialled::ByUs))
        ) && cloud.connections() == 1
            && onprem.connections() == 1
    })
    .await;
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_was() {
    let (onprem, cloud) = joined().await;
    onprem.export(&[("a.shop", 1), ("b.shop", 1)]);
    cloud.imports_eventually(&onprem, &[("a.shop", 1), ("b.shop", 1)]).await;
    let replaced = cloud.catalog.lock().replaced;
    for round in 2..6 {
        assert!(onprem.registry.cut(|_| true) > 0);
        onprem.export(&[("a.shop", round), ("c.shop", 1)]);
        let ready = u32::try_from(round).unwrap();
        cloud.imports_eventually(&onprem, &[("a.shop", ready), ("c.shop", 1)]).await;
        cloud.has_a_stream_to(&onprem).await;
        onprem.has_a_stream_to(&cloud).await;
    }
    assert_eq!(cloud.catalog.lock().replaced, replaced, "nothing was sent anew as a whole");
    let told = cloud.catalog.lock().freshness[&name("onprem")].clone();
    assert_eq!(told, [Freshness::Fresh], "nobody became suspect over it");
}

#[tokio::test]
async fn a_restarted_receiver_knows_its_imports_at_once() {
    let (onprem, cloud) = joined().await;
    onprem.export(&[("cart.shop", 3)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 3)]).await;
    let onprem_site = onprem.stop().await;
    let cloud = cloud.stop().await.start().await;
    eventually("imports are read back", async || {
        cloud.catalog.lock().imports.get(&name("onprem")).is_some_and(|imports| imports.len() == 1)
    })
    .await;
    let status = cloud.peering.peers().remove(0);
    assert_eq!((status.stream, status.freshness), (None, Freshness::Suspect), "nothing vouches for them yet");

    // The peer comes back in another life, with other revisions.
    let onprem = onprem_site.start().await;
    onprem.export(&[("cart.shop", 5), ("db.shop", 1)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 5), ("db.shop", 1)]).await;
}

#[tokio::test]
async fn exports_are_held_back_until_the_sources_have_spoken() {
    let (onprem, cloud) = joined().await;
    onprem.export(&[("cart.shop", 3)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 3)]).await;
    let site = onprem.stop().await;
    let onprem = site.start_silently().await;
    cloud.has_a_stream_to(&onprem).await;
    eventually("its heartbeats make it fresh", async || {
        onprem.peer(&cloud).is_some_and(|status| status.freshness == Freshness::Fresh)
    })
    .await;
    assert_eq!(cloud.imported(&onprem), [("cart.shop".to_owned(), 3)], "an empty start takes nothing away");
    onprem.export(&[("cart.shop", 1)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 1)]).await;
}

#[tokio::test]
async fn a_newer_bundle_is_sent_believed_and_acknowledged() {
    let (onprem, cloud) = joined().await;
    let site = &onprem.site;
    let old = site.ca.bundle();
    let newer = old.sequence().unwrap() + 1;
    let roots: Vec<_> = old.authorities().iter().map(|authority| authority.certificate().clone()).collect();
    let bundle =
        Bundle::publish(site.domain.clone(), &roots, newer, old.refresh_hint(), clock::unix_now()).unwrap();
    onprem.bundle.send_replace(Arc::new(bundle.clone()));
    eventually("acknowledged", async || {
        let believed = cloud.trust.load().bundle(&site.domain).map(|held| held.digest());
        believed == Some(bundle.digest())
            && onprem.peer(&cloud).is_some_and(|status| status.bundle_acknowledged)
    })
    .await;
    let cloud = cloud.stop().await.start().await;
    let held = cloud.trust.load().bundle(&site.domain).unwrap().sequence();
    assert_eq!(held, Some(newer), "a restart remembers it");
}

#[tokio::test]
async fn a_stream_is_dialled_anew_before_certificates_end() {
    let ttl = Duration::from_secs(4);
    let onprem = Site::with("onprem", "onprem", ttl).await.start().await;
    let cloud = Site::with("cloud", "cloud", ttl).await.start().await;
    cloud.join(&onprem).await;
    onprem.export(&[("cart.shop", 3)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 3)]).await;
    let replaced = cloud.catalog.lock().replaced;
    let first_ends = {
        let ours = cloud.federation_svid.current().not_after();
        let theirs = onprem.federation_svid.current().not_after();
        if ours < theirs { ours } else { theirs }
    };
    let ended = async || {
        for cluster in [&onprem, &cloud] {
            cluster.renew_at_half_of_life();
        }
        clock::unix_now() > first_ends
    };
    eventually("the certificates of the first stream have ended", ended).await;
    for (cluster, other) in [(&onprem, &cloud), (&cloud, &onprem)] {
        assert!(cluster.peer(other).is_some_and(|status| status.stream.is_some()), "a stream is there");
        assert_eq!(cluster.catalog.lock().freshness[&other.site.cluster], [Freshness::Fresh]);
    }
    onprem.export(&[("cart.shop", 4)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 4)]).await;
    assert_eq!(cloud.catalog.lock().replaced, replaced, "it went on by revision");
}

#[tokio::test]
async fn a_removed_peer_is_told_and_cut_off() {
    let (onprem, cloud) = joined().await;
    onprem.export(&[("cart.shop", 3)]);
    cloud.export(&[("mail.office", 1)]);
    cloud.imports_eventually(&onprem, &[("cart.shop", 3)]).await;
    onprem.imports_eventually(&cloud, &[("mail.office", 1)]).await;

    let removal = onprem.peering.remove(&name("cloud"), "admin").await.unwrap();
    assert!(removal.told);
    assert!(onprem.peering.peers().is_empty());
    assert!(onprem.trust.load().bundle(&cloud.site.domain).is_none());
    assert!(list_all(&*onprem.store, &keys::imports()).await.unwrap().entries.is_empty());
    assert!(onprem.store.get(&Place::Bundle(cloud.site.domain.clone()).key()).await.unwrap().is_none());
    eventually("the catalog forgets", async || onprem.catalog.lock().peers.is_empty()).await;

    eventually("the other side shows it", async || {
        let state = cloud.peer(&onprem).map(|status| status.peer.state);
        matches!(state, Some(RelationshipState::RemovedByPeer { .. }))
    })
    .await;
    assert!(cloud.trust.load().bundle(&onprem.site.domain).is_none());
    cloud.imports_eventually(&onprem, &[]).await;
    for cluster in [&onprem, &cloud] {
        eventually("all connections are gone", async || cluster.connections() == 0).await;
    }

    // It stays so over a restart, and nobody dials.
    let cloud = cloud.stop().await.start().await;
    assert!(matches!(cloud.peer(&onprem).unwrap().peer.state, RelationshipState::RemovedByPeer { .. }));
    assert!(cloud.trust.load().bundle(&onprem.site.domain).is_none());
}

#[tokio::test]
async fn a_removed_peer_may_join_again() {
    let (onprem, cloud) = joined().await;
    onprem.peering.remove(&name("cloud"), "admin").await.unwrap();
    eventually("the other side has noticed", async || {
        cloud.peer(&onprem).is_some_and(|status| status.peer.state != RelationshipState::Active)
    })
    .await;
    let back = onprem.join(&cloud).await;
    assert_eq!(back.name, name("cloud"));
    onprem.has_a_stream_to(&cloud).await;
    cloud.export(&[("mail.office", 1)]);
    onprem.imports_eventually(&cloud, &[("mail.office", 1)]).await;
}

#[tokio::test]
async fn a_peer_that_is_away_keeps_nobody_from_starting_or_removing() {
    let (onprem, cloud) = joined().await;
    let site = cloud.stop().await;
    eventually("the stream is gone", async || onprem.peering.peers()[0].stream.is_none()).await;
    let onprem = onprem.stop().await.start().await;
    let removal = onprem.peering.remove(&name("cloud"), "admin").await.unwrap();
    assert!(!removal.told, "nobody was there to be told");
    // The other side still believes in it, and can begin anew with a token.
    let cloud = site.start().await;
    assert_eq!(cloud.peer(&onprem).unwrap().peer.state, RelationshipState::Active);
    cloud.join(&onprem).await;
    onprem.has_a_stream_to(&cloud).await;
    cloud.has_a_stream_to(&onprem).await;
}

#[tokio::test]
async fn many_services_arrive_whole() {
    let (onprem, cloud) = joined().await;
    let names: Vec<_> = (0..400).map(|n| format!("s{n:03}.shop")).collect();
    let services: Vec<_> = names.iter().map(|text| (text.as_str(), 2)).collect();
    onprem.export(&services);
    let expected: Vec<_> = names.iter().map(|text| (text.as_str(), 2)).collect();
    cloud.imports_eventually(&onprem, &expected).await;
    let cloud = cloud.stop().await.start().await;
    cloud.imports_eventually(&onprem, &expected).await;
}
