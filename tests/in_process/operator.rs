//! What an operator sees of whole clusters.

use federation::model::RelationshipState;
use serde_json::json;
use tests::{Exported, HttpEcho, TestCluster, eventually};

async fn cluster(name: &str, echo: &HttpEcho) -> TestCluster {
    let mut cluster =
        TestCluster::new(name).with_service("web.shop", "80=http", &[echo.address()], Exported::Yes);
    cluster.start().await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_good_clusters_show_no_problem() {
    let echo = HttpEcho::start().await;
    let (onprem, cloud) = (cluster("onprem", &echo).await, cluster("cloud", &echo).await);
    cloud.join(&onprem).await;
    onprem.until_answered("web.shop.svc.clusterset.local").await;
    let both_export = || onprem.snapshot().peers.values().any(|view| !view.imports.is_empty());
    eventually("both export the service", both_export).await;
    assert_eq!(onprem.admin("/status").await["problems"], json!([]));
}

#[tokio::test]
async fn the_end_of_the_svid_is_exported() {
    let onprem = cluster("onprem", &HttpEcho::start().await).await;
    let metrics = onprem.admin_text("/metrics").await;
    let line = metrics.lines().find_map(|line| line.strip_prefix("isthmus_svid_expiry_timestamp_seconds "));
    let expiry: f64 = line.unwrap().parse().unwrap();
    assert!(expiry > 1_700_000_000.0, "{expiry}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_who_removed_us_nothing_is_known() {
    let echo = HttpEcho::start().await;
    let (onprem, cloud) = (cluster("onprem", &echo).await, cluster("cloud", &echo).await);
    cloud.join(&onprem).await;
    onprem.operator().remove_peer(&"cloud".try_into().unwrap()).await.unwrap();
    let removed = || {
        let peers = cloud.operator().peers();
        peers.iter().any(|status| matches!(status.peer.state, RelationshipState::RemovedByPeer { .. }))
    };
    eventually("cloud has been told", removed).await;
    assert_eq!(cloud.admin("/peers").await[0]["freshness"], "none");
}
