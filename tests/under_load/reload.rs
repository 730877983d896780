//! "Under constant load: configuration reloads each second and SVIDs rotate: 0 failed requests."

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use federation::model::Freshness;
use federation::snapshot::Snapshot;
use http::{Method, Version};
use tests::{
    EchoServer, Exported, HttpEcho, Load, RunningLoad, TestCluster, export_document, service_documents,
    slice_document,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::observed::{Judge, Observed};
use crate::trickle::Trickle;

/// SVIDs of 20 s are renewed two or three times in this time.
const SECONDS: u64 = 30;
const SVID_TTL: &str = "trust.svidTtl=20s";

/// Only `cloud` has it, so it goes over links.
const FAR: &str = "web.shop.svc.clusterset.local";
const NEAR: &str = "own.shop.svc.cluster.local";
/// On a listener of a Gateway, with both behind it.
const INGRESS: &str = "shop.example";
const INGRESS_PORT: u16 = 8080;
const LEDGER_PORT: u16 = 9000;

struct World {
    onprem: TestCluster,
    cloud: TestCluster,
    near: [HttpEcho; 2],
    far: [HttpEcho; 2],
    _ledger: EchoServer,
}

impl World {
    async fn new() -> Self {
        let near = [HttpEcho::start().await, HttpEcho::start().await];
        let far = [HttpEcho::start().await, HttpEcho::start().await];
        let ledger = EchoServer::start().await;
        let port = format!("{LEDGER_PORT}=tcp");
        let onprem = TestCluster::new("onprem").with_setting(SVID_TTL);
        let cloud = TestCluster::new("cloud").with_setting(SVID_TTL).with_service(
            "ledger.bank",
            &port,
            &[ledger.address()],
            Exported::Yes,
        );
        let mut world = Self { onprem, cloud, near, far, _ledger: ledger };
        world.write(0);
        world.onprem.start().await;
        world.cloud.start().await;
        world.cloud.join(&world.onprem).await;
        world.onprem.until_answered(FAR).await;
        world.onprem.until_answered(NEAR).await;
        world
    }

    /// The configuration of this second: every document that matters is another one than before.
    fn write(&self, second: u64) {
        self.onprem.write_document("own", &shop_service("own.shop", &self.near, second));
        self.onprem.write_document("route", &route(second));
        let cloud = shop_service("web.shop", &self.far, second) + &export_document("web.shop");
        self.cloud.write_document("web", &cloud);
        for cluster in [&self.onprem, &self.cloud] {
            let passing = format!("passing-{}.shop", cluster.name);
            let documents = service_documents(&passing, "80=http", &[self.near[0].address()]);
            match second % 3 {
                1 => cluster.write_document("passing", &(documents + &export_document(&passing))),
                2 => cluster.write_document("passing", "kind: [what is this\n"),
                _ if second > 0 => cluster.remove_document("passing"),
                _ => {}
            }
        }
    }

    fn loads(&self) -> Vec<RunningLoad> {
        let mesh = self.onprem.addresses().mesh;
        let ingress = SocketAddr::from((self.onprem.ip, INGRESS_PORT));
        let mut loads = Vec::new();
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for (address, host) in [(mesh, FAR), (mesh, NEAR), (ingress, INGRESS)] {
                for method in [Method::GET, Method::POST] {
                    loads.push(Load { address, host, version, method, workers: 1 }.start());
                }
            }
        }
        loads
    }

    fn ledger(&self) -> SocketAddr {
        let snapshot = self.onprem.snapshot();
        let service = snapshot.service(&"ledger.bank".parse().unwrap()).unwrap();
        let ip: IpAddr = service.merged.as_ref().unwrap().addresses[0];
        (ip, LEDGER_PORT).into()
    }
}

/// Two ports and two endpoints, in an order that changes; so do labels that mean nothing.
fn shop_service(service: &str, endpoints: &[HttpEcho; 2], second: u64) -> String {
    let (name, namespace) = service.split_once('.').unwrap();
    let (http, admin) = ("{name: p, port: 80, appProtocol: http}", "{name: q, port: 81, appProtocol: http}");
    let ports = if second.is_multiple_of(2) { [http, admin] } else { [admin, http] }.join(", ");
    let at = |index: u64| endpoints[((index + second) % 2) as usize].address();
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{second: '{second}'}}}}\n\
         spec: {{ports: [{ports}]}}\n"
    ) + &slice_document(service, 1, "p", at(0), "")
        + &slice_document(service, 2, "p", at(1), "")
        + &slice_document(service, 3, "q", at(0), "")
}

/// Weights change, a rule for nobody comes and goes before the one that counts.
fn route(second: u64) -> String {
    let weight = 1 + second % 3;
    let other = "- matches: [{path: {type: PathPrefix, value: /other}}]\n    backendRefs: [{name: own, port: 80}]\n  ";
    let other = if second.is_multiple_of(2) { other } else { "" };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: shop, namespace: shop}}\n\
         spec:\n  gatewayClassName: isthmus\n  listeners: [{{name: http, port: {INGRESS_PORT}, protocol: HTTP}}]\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: shop, namespace: shop}}\nspec:\n  parentRefs: [{{name: shop}}]\n  \
         hostnames: [{INGRESS}]\n  rules:\n  {other}- backendRefs:\n    \
         - {{name: own, port: 80, weight: {weight}}}\n    \
         - {{group: multicluster.x-k8s.io, kind: ServiceImport, name: web, port: 80, weight: 2}}\n"
    )
}

/// The peer is heard of all the time, and what it offers never goes.
fn objection(snapshot: &Snapshot) -> Option<String> {
    let peer = snapshot.peers.get(&"cloud".try_into().unwrap());
    match peer {
        None => Some("the peer is gone".to_owned()),
        Some(peer) if peer.freshness != Freshness::Fresh => Some(format!("the peer is {:?}", peer.freshness)),
        Some(peer) if !peer.imports.contains_key(&"web.shop".parse().unwrap()) => {
            Some("the import is gone".to_owned())
        }
        Some(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_and_rotations_fail_no_request() {
    let world = World::new().await;
    let (mut onprem, mut cloud) = (Observed::default(), Observed::default());
    let judge = Judge::start(&world.onprem, objection);
    let trickle = Trickle::start(world.ledger()).await;
    let loads = world.loads();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for second in 1..=SECONDS {
        seconds.tick().await;
        world.write(second);
        onprem.look_at(&world.onprem).await;
        cloud.look_at(&world.cloud).await;
    }
    seconds.tick().await;
    let mut reports = Vec::new();
    for load in loads {
        reports.push(load.stop().await);
    }
    let echoed = trickle.stop().await;
    let lines: Vec<_> = reports.iter().map(ToString::to_string).collect();
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    let summary = format!(
        "{}\n{answered} answered in all, {echoed} echoes in one tunnel\nonprem: {}\ncloud: {}",
        lines.join("\n"),
        onprem.summary(),
        cloud.summary()
    );
    println!("{summary}");
    assert!(reports.iter().all(|report| report.failures.is_empty()), "{summary}");
    assert!(reports.iter().all(|report| report.answered > SECONDS), "{summary}");
    assert!(judge.stop().await.is_empty());
    for observed in [&onprem, &cloud] {
        assert!(observed.snapshots_published() >= SECONDS / 2, "{summary}");
        assert!(observed.svids.values().all(|renewals| *renewals >= 2), "{summary}");
        assert!(observed.links_replaced("http") >= 1 && observed.links_replaced("tunnel") >= 1, "{summary}");
        assert!(observed.streams.len() >= 2, "{summary}");
    }
}
