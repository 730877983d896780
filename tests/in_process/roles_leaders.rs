//! Two federation processes on one store: one leads, and another one after it, whatever becomes of it.

use std::time::Duration;

use tests::{ApartCluster, HttpEcho, Load, TestProcess, eventually};

const TOKEN_TTL: Duration = Duration::from_secs(600);
const WEB: &str = "web.shop.svc.clusterset.local";
const NEWS: &str = "news.shop.svc.clusterset.local";

/// The first of two leads, the other one follows, and a gateway follows both.
struct World {
    cluster: ApartCluster,
    echo: HttpEcho,
    leader: TestProcess,
    follower: TestProcess,
    gateway: TestProcess,
}

impl World {
    async fn new(leader_ttl: &str) -> Self {
        let (cluster, echo) = (ApartCluster::with_shared_store("onprem"), HttpEcho::start().await);
        cluster.write_service("web.shop", "80=http", &[echo.address()]);
        let [mut leader, mut follower] = [1, 2].map(|number| cluster.federation(number, leader_ttl));
        let mut gateway = cluster.gateway(1);
        leader.start().await;
        eventually("the first one leads", || leader.operator().is_current()).await;
        follower.start().await;
        follower.until_status("the second one follows", |status| status["leader"]["here"] == false).await;
        let invitation = leader.operator().invite_node(TOKEN_TTL).await.unwrap();
        gateway.join(&invitation.token).await.unwrap();
        gateway.start().await;
        gateway.until_answered(WEB).await;
        Self { cluster, echo, leader, follower, gateway }
    }

    /// What is written now arrives by way of the one that leads now.
    async fn is_led_by_the_other(&self) {
        self.follower.until_status("the second one leads", |status| status["leader"]["here"] == true).await;
        self.cluster.write_service("news.shop", "80=http", &[self.echo.address()]);
        self.gateway.until_answered(NEWS).await;
        let address = self.follower.addresses().control.unwrap().to_string();
        let led = |status: &serde_json::Value| {
            status["control"]["reachable"] == true && status["leader"]["addresses"][0] == *address
        };
        self.gateway.until_status("the second one leads the gateway", led).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resigns_is_followed_at_once_and_no_request_fails() {
    // Only the resignation can end the lead before the test does.
    let mut world = World::new("10m").await;
    let load = Load::new(world.gateway.mesh(), WEB).start();
    world.leader.stop().await;
    world.is_led_by_the_other().await;
    let report = load.stop().await;
    assert!(report.failures.is_empty() && report.answered > 0, "{:?}", report.failures);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_is_followed_when_its_lease_has_ended_and_no_request_fails() {
    let mut world = World::new("4s").await;
    let load = Load::new(world.gateway.mesh(), WEB).start();
    world.leader.kill();
    world.is_led_by_the_other().await;
    let report = load.stop().await;
    assert!(report.failures.is_empty() && report.answered > 0, "{:?}", report.failures);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_changes_and_says_who_leads() {
    let world = World::new("10m").await;
    let status = world.leader.admin("/status").await;
    let name = status["leader"]["name"].as_str().unwrap();
    let address = world.leader.addresses().control.unwrap().to_string();
    let operator = world.follower.operator();
    let refusals = [
        operator.apply("").await.unwrap_err(),
        operator.invite_node(TOKEN_TTL).await.unwrap_err(),
        operator.invite(&"cloud".try_into().unwrap(), TOKEN_TTL).await.unwrap_err(),
    ];
    for refused in refusals.map(|refused| refused.to_string()) {
        assert!(refused.contains(name) && refused.contains(&address), "{refused}");
    }
    let refused = world.gateway.operator().apply("").await.unwrap_err().to_string();
    assert!(refused.contains(&address), "a gateway says it, too: {refused}");
    let status = world.follower.admin("/status").await;
    assert_eq!(status["problems"], serde_json::json!([]), "a follower is as it should be");
}
