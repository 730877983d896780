//! A gateway with all its doors, and what it says of those who knock.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tests::{HttpEcho, Scene, TestGateway, TestTrustDomain, eventually};

use crate::certificates::Authority;

pub(crate) struct World {
    pub(crate) gateway: TestGateway,
    /// A peer, with a CA that signs anything.
    pub(crate) cloud: Authority,
    pub(crate) ingress: SocketAddr,
    pub(crate) own_address: SocketAddr,
    _http: HttpEcho,
    _onprem: TestTrustDomain,
}

impl World {
    /// `number` keeps the addresses of two worlds apart.
    pub(crate) async fn new(number: u8) -> Self {
        let onprem = TestTrustDomain::new("onprem");
        let (cloud, http) = (Authority::new(), HttpEcho::start().await);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        // Apart from those that other tests use.
        let ip = |last| Ipv4Addr::new(127, 128 + high % 64, low, 10 * number + last);
        let (ingress, own) = (ip(1), ip(2));
        let mut scene = Scene::new("onprem", &onprem);
        scene.service("web.shop", "80=http", http.address()).export("web.shop");
        scene.service("own.shop", "8080=http", http.address()).export("own.shop");
        scene.address("own.shop", Some(own.into()));
        scene.documents(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: shop}}\n\
             spec:\n  gatewayClassName: isthmus\n  addresses: [{{value: {ingress}}}]\n  \
             listeners: [{{name: http, port: 8080, protocol: HTTP}}]\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: r, namespace: shop}}\nspec:\n  parentRefs: [{{name: g}}]\n  \
             rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
        ));
        scene.peer("cloud", &TestTrustDomain::new("cloud"), &[]);
        let gateway = TestGateway::start("onprem", &onprem, &mut scene).await;
        gateway.trust.put(cloud.bundle()).unwrap();
        let (ingress, own_address) =
            (SocketAddr::new(ingress.into(), 8080), SocketAddr::new(own.into(), 8080));
        let open = |address| std::net::TcpStream::connect(address).is_ok();
        eventually("all doors are open", || open(ingress) && open(own_address)).await;
        Self { gateway, cloud, ingress, own_address, _http: http, _onprem: onprem }
    }

    /// How many were refused at an entrance for a reason.
    pub(crate) fn refused(&self, entrance: &str, reason: &str) -> u64 {
        let metrics = String::from_utf8(self.gateway.metrics.encode()).unwrap();
        let series =
            format!("isthmus_rejected_connections_total{{entrance=\"{entrance}\",reason=\"{reason}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

/// All lines that were written to the log of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn start() -> Self {
        let log = Self::default();
        let written = log.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("info,h2=off,pingora_core=off,pingora_proxy=off")
            .with_writer(move || written.clone())
            .init();
        log
    }

    pub(crate) fn lines(&self, entrance: &str, reason: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock()).into_owned();
        let (entrance, reason) = (format!("entrance=\"{entrance}\""), format!("reason=\"{reason}\""));
        text.lines()
            .filter(|line| line.contains(&entrance) && line.contains(&reason))
            .map(str::to_owned)
            .collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is resident of this process, attackers included, in MiB.
pub(crate) fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}
