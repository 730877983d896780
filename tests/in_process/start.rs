//! A data plane that starts: its sockets are open before it knows what exists.

use std::time::Duration;

use tests::{HttpEcho, Scene, TestGateway, TestTrustDomain, within};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

#[tokio::test]
async fn who_comes_before_the_first_snapshot_is_answered_by_it() {
    let (domain, web) = (TestTrustDomain::new("onprem"), HttpEcho::start().await);
    let gateway = TestGateway::start_knowing_nothing("onprem", &domain).await;
    let mut client = gateway.client().await;
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: web.shop.svc.cluster.local\r\n\r\n").await.unwrap();
    let early = timeout(Duration::from_millis(100), client.answer(false)).await;
    assert!(early.is_err(), "told that nothing exists: {early:?}");
    let mut scene = Scene::new("onprem", &domain);
    gateway.publish(scene.service("web.shop", "80=http", web.address()));
    let answer = within("an answer", client.answer(false)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}
