//! "Under constant load: configuration reloads each second and SVIDs rotate: 0 failed requests."

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use federation::model::Freshness;
use federation::snapshot::Snapshot;
use http::{Method, Version};
use tests::{
    Connections, EchoServer, Exported, Http1, HttpEcho, Load, RunningLoad, TestCluster, eventually,
    export_document, service_documents, slice_document, within,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::observed::{Judge, Observed};
use crate::trickle::Trickle;

/// SVIDs of 20 s are renewed two or three times in this time.
const SECONDS: u64 = 30;
const SVID_TTL: &str = "trust.svidTtl=20s";

/// Only `cloud` has it, so it goes over links.
const FAR: &str = "web.shop.svc.clusterset.local";
const NEAR: &str = "own.shop.svc.cluster.local";
/// Of both; not 80, which only root may listen on.
const SERVICE_PORT: u16 = 8088;
/// Some of them are always on a link that is about to be replaced.
const DOWNLOAD: &str = "/bytes/2000000";
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
        self.onprem.write_document(
            "own",
            &(shop_service("own.shop", &self.near, second) + &export_document("own.shop")),
        );
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
        let virtual_port = self.address_of("web.shop", SERVICE_PORT);
        let mut loads = Vec::new();
        for (version, alpn) in [(Version::HTTP_11, &b"http/1.1"[..]), (Version::HTTP_2, b"h2")] {
            for (address, host) in [(mesh, FAR), (mesh, NEAR), (ingress, INGRESS), (virtual_port, "any")] {
                let load = Load { version, ..Load::new(address, host) };
                loads.push(load.clone());
                loads.push(Load { method: Method::POST, ..load });
            }
            let far = Load { version, ..Load::new(mesh, FAR) };
            loads.push(Load { path: DOWNLOAD, ..far.clone() });
            let tls = Some(self.onprem.workload_tls("/ns/shop/sa/cart", alpn));
            loads.push(Load { tls, connections: Connections::Fresh, ..far });
        }
        loads.push(Load { connections: Connections::Fresh, ..Load::new(ingress, INGRESS) });
        loads.into_iter().map(Load::start).collect()
    }

    /// A request that the endpoint answers when it is told to.
    async fn hold(&self) -> Http1<TcpStream> {
        let mut client = Http1::new(TcpStream::connect(self.onprem.addresses().mesh).await.unwrap());
        let head = format!("GET /held HTTP/1.1\r\nHost: {FAR}\r\n\r\n");
        client.stream.write_all(head.as_bytes()).await.unwrap();
        let held = || self.far.iter().map(HttpEcho::held).sum::<usize>() == 1;
        eventually("the request is at the endpoint", held).await;
        client
    }

    /// The service's own address in `onprem`.
    fn address_of(&self, service: &str, port: u16) -> SocketAddr {
        let snapshot = self.onprem.snapshot();
        let service = snapshot.service(&service.parse().unwrap()).unwrap();
        let ip: IpAddr = service.merged.as_ref().unwrap().addresses[0];
        (ip, port).into()
    }
}

/// Two ports and two endpoints, in an order that changes; so do labels that mean nothing.
fn shop_service(service: &str, endpoints: &[HttpEcho; 2], second: u64) -> String {
    let (name, namespace) = service.split_once('.').unwrap();
    let port = |name, number, protocol| format!("{{name: {name}, port: {number}, appProtocol: {protocol}}}");
    let (http, tcp) = (port("p", SERVICE_PORT, "http"), port("q", SERVICE_PORT + 1, "tcp"));
    let ports = if second.is_multiple_of(2) { [http, tcp] } else { [tcp, http] }.join(", ");
    let at = |index: u64| endpoints[((index + second) % 2) as usize].address();
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{second: '{second}'}}}}\n\
         spec: {{ports: [{ports}]}}\n"
    ) + &slice_document(service, 1, "p", at(0), "")
        + &slice_document(service, 2, "p", at(1), "")
        + &slice_document(service, 3, "q", at(0), "")
}

/// Weights change; a rule, a listener and a port for nobody come and go before those that count.
fn route(second: u64) -> String {
    let weight = 1 + second % 3;
    let sometimes = |text: &str| if second.is_multiple_of(2) { text.to_owned() } else { String::new() };
    let listeners = sometimes("- {name: passing, port: 8081, protocol: HTTP}\n  ")
        + &sometimes(&format!(
            "- {{name: other, port: {INGRESS_PORT}, protocol: HTTP, hostname: other.example}}\n  "
        ));
    let rule = sometimes(&format!(
        "- matches: [{{path: {{type: PathPrefix, value: /other}}}}]\n    \
         backendRefs: [{{name: own, port: {SERVICE_PORT}}}]\n  "
    ));
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: shop, namespace: shop}}\n\
         spec:\n  gatewayClassName: isthmus\n  listeners:\n  {listeners}\
         - {{name: http, port: {INGRESS_PORT}, protocol: HTTP}}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: shop, namespace: shop}}\nspec:\n  parentRefs: [{{name: shop}}]\n  \
         hostnames: [{INGRESS}]\n  rules:\n  {rule}- backendRefs:\n    \
         - {{name: own, port: {SERVICE_PORT}, weight: {weight}}}\n    \
         - {{group: multicluster.x-k8s.io, kind: ServiceImport, name: web, port: {SERVICE_PORT}, weight: 2}}\n"
    )
}

/// The peer is heard of all the time, and what it offers never goes.
fn objection(snapshot: &Snapshot, peer: &str, import: &str) -> Option<String> {
    match snapshot.peers.get(&peer.try_into().unwrap()) {
        None => Some(format!("{peer} is gone")),
        Some(view) if view.freshness != Freshness::Fresh => Some(format!("{peer} is {:?}", view.freshness)),
        Some(view) if !view.imports.contains_key(&import.parse().unwrap()) => {
            Some(format!("{import} of {peer} is gone"))
        }
        Some(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_and_rotations_fail_no_request() {
    let world = World::new().await;
    let (mut onprem, mut cloud) = (Observed::default(), Observed::default());
    let judges = [
        Judge::start(&world.onprem, |snapshot| objection(snapshot, "cloud", "web.shop")),
        Judge::start(&world.cloud, |snapshot| objection(snapshot, "onprem", "own.shop")),
    ];
    // Both are on links that are retired and outlive the SVIDs that opened them: streams in flight are
    // given ten minutes (V32).
    let trickle = Trickle::start(world.address_of("ledger.bank", LEDGER_PORT)).await;
    let mut held = world.hold().await;
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
    let lines: Vec<_> = reports.iter().map(ToString::to_string).collect();
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    let summary = format!(
        "{}\n{answered} answered in all\nonprem: {}\ncloud: {}",
        lines.join("\n"),
        onprem.summary(),
        cloud.summary()
    );
    println!("{summary}");
    assert!(reports.iter().all(|report| report.failures.is_empty()), "{summary}");
    assert!(reports.iter().all(|report| report.answered > SECONDS), "{summary}");
    assert!(trickle.stop().await > 0);
    world.far.iter().for_each(HttpEcho::release);
    let answer = within("the answer of a request that was held", held.answer(false)).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    for judge in judges {
        assert_eq!(judge.stop().await, BTreeSet::new());
    }
    for observed in [&onprem, &cloud] {
        assert!(observed.snapshots_published() >= SECONDS / 2, "{summary}");
        assert!(observed.svids.values().all(|renewals| *renewals >= 2), "{summary}");
        assert!(observed.links_replaced("http") >= 1 && observed.links_replaced("tunnel") >= 1, "{summary}");
        assert!(observed.streams.len() >= 2, "{summary}");
    }
}
