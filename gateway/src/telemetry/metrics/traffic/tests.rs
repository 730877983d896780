//! Traffic as a scrape shows it.

use std::time::{Duration, SystemTime};

use federation::snapshot::Generation;

use super::*;
use crate::telemetry::{Flag, Http, Metrics, Source, Upstream};
use crate::testing::{cluster, snapshot};

struct Call<'a> {
    entrance: Entrance,
    host: &'a str,
    principal: Option<&'a str>,
    proof: Proof,
    gateway: Option<&'a str>,
    source: &'a str,
    destination: &'a str,
    status: Option<u16>,
    flags: ResponseFlags,
}

const CALL: Call<'static> = Call {
    entrance: Entrance::Mesh,
    host: "cart.shop.svc.clusterset.local",
    principal: None,
    proof: Proof::Nothing,
    gateway: None,
    source: "onprem",
    destination: "onprem",
    status: Some(200),
    flags: DONE,
};
const DONE: ResponseFlags = ResponseFlags::NONE;

fn world() -> Arc<View> {
    snapshot()
        .service("cart.shop", "80=http", &["10.0.0.1"])
        .export("cart.shop")
        .import("cloud", "cart.shop", "80=http", &["us/x ready=1"])
        .view()
}

fn with_record(view: &View, call: &Call<'_>, use_it: impl FnOnce(&Record<'_>)) {
    let id = |text: &str| SpiffeId::try_from(text).unwrap();
    let (principal, gateway) = (call.principal.map(id), call.gateway.map(id));
    let (source, destination) = (cluster(call.source), cluster(call.destination));
    let to = view.router.mesh(call.host).ok();
    use_it(&Record {
        began: SystemTime::UNIX_EPOCH,
        duration: Duration::from_millis(7),
        generation: Generation(1),
        entrance: call.entrance,
        source: Source {
            address: None,
            client: None,
            identity: principal.as_ref(),
            proof: call.proof,
            gateway: gateway.as_ref(),
            cluster: &source,
            locality: None,
        },
        destination: to.as_ref(),
        upstream: Upstream { cluster: Some(&destination), ..Upstream::default() },
        attempts: 1,
        flags: call.flags,
        reason: None,
        bytes_received: 3,
        bytes_sent: 5,
        http: call.status.map(|status| Http {
            protocol: Protocol::Http,
            method: "GET",
            authority: call.host,
            path: "/",
            status,
            user_agent: None,
            traceparent: None,
        }),
    });
}

fn observe(metrics: &Metrics, view: &View, call: &Call<'_>) {
    with_record(view, call, |record| metrics.observe(view, record));
}

/// Lines of one family.
fn scrape(metrics: &Metrics, family: &str) -> Vec<String> {
    let text = String::from_utf8(metrics.encode()).unwrap();
    text.lines().filter(|line| line.starts_with(family)).map(str::to_owned).collect()
}

fn label<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("{name} in {line}"));
    rest.split_once('"').unwrap().0
}

#[test]
fn requests_have_istios_labels() {
    let (metrics, view) = (Metrics::new(), world());
    let call = Call {
        principal: Some("spiffe://onprem.example.org/ns/shop/sa/web"),
        proof: Proof::MutualTls,
        destination: "cloud",
        ..CALL
    };
    observe(&metrics, &view, &call);
    observe(&metrics, &view, &call);
    let lines = scrape(&metrics, "istio_requests_total");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with("} 2"));
    for (name, expected) in [
        ("reporter", "source"),
        ("source_workload", "web"),
        ("source_workload_namespace", "shop"),
        ("source_principal", "spiffe://onprem.example.org/ns/shop/sa/web"),
        ("source_cluster", "onprem"),
        ("destination_service", "cart.shop.svc.clusterset.local"),
        ("destination_service_name", "cart"),
        ("destination_service_namespace", "shop"),
        ("destination_cluster", "cloud"),
        ("destination_principal", "unknown"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ] {
        assert_eq!(label(&lines[0], name), expected, "{name}");
    }
    let durations = scrape(&metrics, "istio_request_duration_milliseconds");
    let bucket = |bound: &str| {
        let line = durations.iter().find(|line| line.contains(&format!("le=\"{bound}\""))).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!((bucket("5"), bucket("10"), bucket("+Inf")), ("0".into(), "2".into(), "2".into()));
}

#[test]
fn connections_count_bytes_when_they_end() {
    let (metrics, view) = (Metrics::new(), world());
    let call = Call { entrance: Entrance::Virtual, status: None, ..CALL };
    with_record(&view, &call, |record| metrics.opened(&view, record));
    observe(&metrics, &view, &Call { flags: Flag::UpstreamConnectionFailure.into(), ..call });
    for (family, flags, expected) in [
        ("istio_tcp_connections_opened_total", "-", "1"),
        ("istio_tcp_connections_closed_total", "UF", "1"),
        ("istio_tcp_sent_bytes_total", "UF", "5"),
        ("istio_tcp_received_bytes_total", "UF", "3"),
    ] {
        let lines = scrape(&metrics, family);
        let line = lines.iter().find(|line| label(line, "response_flags") == flags).unwrap();
        assert_eq!(line.rsplit(' ').next(), Some(expected), "{line}");
        assert_eq!(label(line, "request_protocol"), "tcp");
    }
    assert!(scrape(&metrics, "istio_requests_total").is_empty());
}

#[test]
fn t17_peers_cannot_make_series() {
    let (metrics, view) = (Metrics::new(), world());
    for at in 0..500 {
        let caller = format!("spiffe://cloud.example.org/ns/x/sa/made-up-{at}");
        let call = Call {
            entrance: Entrance::Link,
            source: "cloud",
            principal: Some(&caller),
            proof: Proof::PeerGateway,
            gateway: Some("spiffe://cloud.example.org/isthmus/gateway"),
            status: Some(100 + at % 900),
            ..CALL
        };
        observe(&metrics, &view, &call);
        // Nor does a foreign identity that dialled us itself.
        observe(
            &metrics,
            &view,
            &Call { entrance: Entrance::Mesh, proof: Proof::MutualTls, gateway: None, ..call },
        );
    }
    let lines = scrape(&metrics, "istio_requests_total");
    assert!(lines.len() <= 2 * (RESULTS_MAX + 6), "{} series", lines.len());
    let sum: u64 = lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 1000, "nothing is lost");
    for line in &lines {
        let principal = label(line, "source_principal");
        assert!(
            ["spiffe://cloud.example.org/isthmus/gateway", "unknown"].contains(&principal),
            "{principal}"
        );
    }
}

#[test]
fn paths_beyond_the_bound_count_as_one() {
    let (metrics, view) = (Metrics::new(), world());
    for at in 0..PATHS_MAX + 10 {
        let caller = format!("spiffe://onprem.example.org/ns/shop/sa/{at}");
        let call = Call { principal: Some(&caller), proof: Proof::MutualTls, ..CALL };
        observe(&metrics, &view, &call);
    }
    let lines = scrape(&metrics, "istio_requests_total");
    assert_eq!(lines.len(), PATHS_MAX + 1);
    let rest = lines.iter().find(|line| label(line, "reporter") == UNKNOWN).unwrap();
    assert!(rest.ends_with("} 10"), "{rest}");
}

#[test]
fn series_of_what_is_gone_go() {
    let (metrics, view) = (Metrics::new(), world());
    observe(&metrics, &view, &Call { destination: "cloud", ..CALL });
    observe(&metrics, &view, &CALL);
    observe(&metrics, &view, &Call { host: "example.com", status: Some(404), ..CALL });
    assert_eq!(scrape(&metrics, "istio_requests_total").len(), 3);
    metrics.adopt(&view);
    assert_eq!(scrape(&metrics, "istio_requests_total").len(), 3);
    let cut_off = snapshot().service("cart.shop", "80=http", &[]).export("cart.shop").view();
    metrics.adopt(&cut_off);
    assert_eq!(scrape(&metrics, "istio_requests_total").len(), 2, "nothing of a removed peer");
    metrics.adopt(&snapshot().view());
    assert_eq!(scrape(&metrics, "istio_requests_total").len(), 1, "nothing of a removed service");
    assert_eq!(scrape(&metrics, "istio_request_duration_milliseconds_count").len(), 1);
    observe(&metrics, &view, &CALL);
    assert_eq!(scrape(&metrics, "istio_requests_total").len(), 2, "and it may come back");
}
