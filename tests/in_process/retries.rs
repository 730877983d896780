//! An endpoint that cannot be connected to costs nobody a request, whatever the method.

use tests::{HttpEcho, Scene, TestGateway, TestTrustDomain, eventually, within};
use tokio::io::AsyncWriteExt;

const WEB: &str = "web.shop.svc.clusterset.local";
const BODY: usize = 1000;
/// Until one of two endpoints has been picked that is dead; chance alone needs a few.
const REQUESTS_MAX: usize = 200;

#[tokio::test]
async fn a_post_is_sent_whole_to_another_endpoint_when_one_cannot_be_connected_to() {
    let domain = TestTrustDomain::new("onprem");
    let http = HttpEcho::start().await;
    let dead = "127.0.0.1:1".parse().unwrap();
    let mut scene = Scene::new("onprem", &domain);
    scene.service_at("web.shop", "80=http", &[dead, http.address()]).export("web.shop");
    let gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    let mut retried = false;
    for n in 1..=REQUESTS_MAX {
        let mut client = gateway.client().await;
        let head = format!("POST /length HTTP/1.1\r\nHost: {WEB}\r\nContent-Length: {BODY}\r\n\r\n");
        client.stream.write_all(&[head.as_bytes(), &[7; BODY]].concat()).await.unwrap();
        let answer = within("an answer", client.answer(false)).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "1000"), "request {n}");
        eventually("its line", || gateway.log().len() == n).await;
        retried |= gateway.log()[n - 1]["attempts"] == 2;
        if retried {
            break;
        }
    }
    assert!(retried, "the dead endpoint was never tried");
}

#[tokio::test]
async fn when_nobody_can_be_connected_to_the_answer_says_so() {
    let domain = TestTrustDomain::new("onprem");
    let mut scene = Scene::new("onprem", &domain);
    let dead = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
    scene.service_at("web.shop", "80=http", &dead).export("web.shop");
    let gateway = TestGateway::start("onprem", &domain, &mut scene).await;
    let answer = within("an answer", gateway.client().await.get(WEB, "/")).await.unwrap();
    assert_eq!((answer.status, answer.header("isthmus-fault")), (502, Some("connect")), "{answer:?}");
    assert!(!answer.body.contains("127.0.0.1"), "addresses of endpoints are nobody else's business");
}
