//! `isthmus federation` and `isthmus gateway` apart: what a gateway does with and without somebody above.

use std::time::Duration;

use serde_json::Value;
use tests::{ApartCluster, Exported, Http1, HttpEcho, TestCluster, TestProcess, eventually, within};
use tokio::net::TcpStream;

/// Longer than any test: no lead ends by its lease.
const TTL: &str = "10m";
const TOKEN_TTL: Duration = Duration::from_secs(600);
const WEB: &str = "web.shop.svc.clusterset.local";

/// A federation process that leads, and a gateway that has joined and does not run yet.
async fn joined(cluster: &ApartCluster) -> (TestProcess, TestProcess) {
    let (mut federation, gateway) = (cluster.federation(1, TTL), cluster.gateway(1));
    federation.start().await;
    eventually("it leads", || federation.operator().is_current()).await;
    let invitation = federation.operator().invite_node(TOKEN_TTL).await.unwrap();
    let joined = gateway.join(&invitation.token).await.unwrap();
    assert_eq!(joined.cluster.as_str(), cluster.name);
    assert_eq!(joined.control, [federation.addresses().control.unwrap().into()]);
    (federation, gateway)
}

async fn serves(gateway: &TestProcess) {
    let answer = gateway.get(WEB, "/").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gateway.resolve(WEB).await.len(), 1, "the DNS server knows it");
}

/// Nobody leads, and the status says since when and why.
fn is_apart(status: &Value) -> bool {
    let control = &status["control"];
    let problems = status["problems"].as_array().unwrap();
    let told = |problem: &Value| problem["message"].as_str().unwrap().contains("unreachable since");
    control["reachable"] == false
        && control["since"].is_string()
        && control["reason"].as_str().is_some_and(|reason| reason.contains(":15012: "))
        && problems.iter().any(told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_serves_while_nobody_leads_it_and_also_when_it_starts_then() {
    let (cluster, echo) = (ApartCluster::new("onprem"), HttpEcho::start().await);
    cluster.write_service("web.shop", "80=http", &[echo.address()]);
    let (mut federation, mut gateway) = joined(&cluster).await;
    gateway.start().await;
    gateway.until_answered(WEB).await;
    serves(&gateway).await;
    let status = gateway.until_status("it is led", |status| status["control"]["reachable"] == true).await;
    assert_eq!(
        (&status["role"], &status["leader"]["here"]),
        (&"gateway".into(), &false.into()),
        "{status:#}"
    );
    let led = |status: &Value| {
        let gateways = status["gateways"].as_array().map(Vec::as_slice).unwrap_or_default();
        matches!(gateways, [one] if one["behind"] == 0 && one["generation"] != 0)
    };
    federation.until_status("it has one gateway, which is not behind", led).await;

    federation.stop().await;
    serves(&gateway).await;
    gateway.until_status("nobody leads", is_apart).await;
    serves(&gateway).await;

    gateway.stop().await;
    gateway.start().await;
    gateway.until_answered(WEB).await;
    serves(&gateway).await;
    let status = gateway.until_status("nobody leads", is_apart).await;
    assert!(status["control"]["servedSince"].is_string() && status["ready"] == true, "{status:#}");

    cluster.write_service("news.shop", "80=http", &[echo.address()]);
    federation.start().await;
    gateway.until_answered("news.shop.svc.clusterset.local").await;
    let status = gateway.until_status("it is led", |status| status["control"]["reachable"] == true).await;
    assert_eq!(status["problems"], serde_json::json!([]), "{status:#}");
    serves(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_dials_a_federation_process_between_two_lives_is_not_refused() {
    let cluster = ApartCluster::new("onprem");
    let mut federation = cluster.federation(1, TTL).keeping_its_sockets();
    federation.start().await;
    eventually("it leads", || federation.operator().is_current()).await;
    let address = federation.addresses().control.unwrap();
    federation.stop().await;
    let early = TcpStream::connect(address).await.unwrap();
    federation.start().await;
    // Who was there first is served, which a stranger sees by being closed.
    let mut early = Http1::new(early);
    assert!(within("an end", early.get("stranger", "/")).await.is_err());
    eventually("it leads again", || federation.operator().is_current()).await;
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_token_makes_one_gateway_and_no_second() {
    let cluster = ApartCluster::new("onprem");
    let (mut federation, (one, other)) =
        (cluster.federation(1, TTL), (cluster.gateway(1), cluster.gateway(2)));
    federation.start().await;
    eventually("it leads", || federation.operator().is_current()).await;
    let invitation = federation.operator().invite_node(TOKEN_TTL).await.unwrap();
    let joined = one.join(&invitation.token).await.unwrap();
    assert_eq!(one.join(&invitation.token).await.unwrap(), joined, "the same command once more");
    let refused = other.join(&invitation.token).await.unwrap_err();
    assert!(refused.to_string().contains("used already by another node"), "{refused}");
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_crosses_both_ways_between_a_cluster_apart_and_one_in_one_process() {
    let (onprem, near, far) = (ApartCluster::new("onprem"), HttpEcho::start().await, HttpEcho::start().await);
    onprem.write_service("web.shop", "80=http", &[near.address()]);
    let (federation, mut gateway) = joined(&onprem).await;
    gateway.start().await;
    let mut cloud =
        TestCluster::new("cloud").with_service("far.shop", "80=http", &[far.address()], Exported::Yes);
    cloud.start().await;
    // The gateway listens for peers once it is led.
    gateway.until_answered(WEB).await;
    let name = "cloud".try_into().unwrap();
    let invitation = federation.operator().invite(&name, TOKEN_TTL).await.unwrap();
    within("the two join", Box::pin(cloud.operator().join(&invitation.token))).await.unwrap();
    gateway.until_answered("far.shop.svc.clusterset.local").await;
    cloud.until_answered(WEB).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_serves_from_its_disk_while_its_store_does_not_answer() {
    let (cluster, echo) = (ApartCluster::new("onprem"), HttpEcho::start().await);
    cluster.write_service("web.shop", "80=http", &[echo.address()]);
    let mut process = cluster.all_in_one();
    process.start().await;
    process.until_answered(WEB).await;
    process.stop().await;
    process.lose_its_store();
    process.start().await;
    process.until_answered(WEB).await;
    serves(&process).await;
    let lost = |status: &Value| {
        let (control, store) = (&status["control"], &status["store"]);
        status["ready"] == true
            && control["reachable"] == false
            && control["since"].is_string()
            && store["condition"] == "opening"
            && store["reason"].is_string()
            && status["generation"] != 0
    };
    process.until_status("the store is waited for", lost).await;
    let refused = process.operator().apply("").await.unwrap_err().to_string();
    assert!(refused.contains("does not lead"), "{refused}");
    process.stop().await;
}
