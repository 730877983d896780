//! Facts in, findings out.

use crate::doctor::facts::*;
use crate::doctor::finding::{Finding, Verdict};

use super::judge;

const NOW: u64 = 1_795_000_000;

fn healthy() -> Facts {
    let ours = |cluster: &str| cluster.to_owned();
    Facts {
        limits: Limits {
            descriptors: Some(262_144),
            somaxconn: Some(4_096),
            ephemeral_ports: Some((32_768, 60_999)),
            low_ports_end: Some(1_024),
            conntrack: Some((10, 1_000)),
            memory: Some((100 << 20, 1 << 30)),
        },
        sockets: vec![socket("127.0.0.1:15080", Bind::Taken(Some("isthmus (7)".to_owned())))],
        pool: Some(("127.64.0.1".parse().unwrap(), Bind::Free)),
        zones: ["clusterset.local", "isthmus.internal"].map(|zone| routed(zone, Answer::Served)).into(),
        name: Some(found(Ok(vec!["127.64.0.2".parse().unwrap()]), "files resolve [!UNAVAIL=return] dns")),
        clock: Clock { unix_seconds: NOW, synchronised: Some(true) },
        directories: vec![directory(0o700, Some(10 << 30))],
        secrets: vec![FileFact { path: "/var/lib/isthmus/ca/ca.key".into(), mode: 0o600 }],
        certificates: vec![CertificateFact {
            id: "spiffe://a/isthmus/gateway".to_owned(),
            not_after: NOW + 86_400,
        }],
        endpoints: vec![endpoint(Ok(()))],
        unit: Some(unit("active", 0)),
        admin: AdminFact::Answers { cluster: ours("a"), expected: ours("a"), ready: true, problems: 0 },
        ..Facts::default()
    }
}

fn socket(address: &str, bind: Bind) -> SocketFact {
    SocketFact { setting: "gateway.mesh.address", address: address.parse().unwrap(), udp: false, bind }
}

fn routed(zone: &'static str, answer: Answer) -> ZoneFact {
    ZoneFact { zone, ours: Answer::Served, host: Some(("127.0.0.53:53".parse().unwrap(), answer)) }
}

fn found(found: Result<Vec<std::net::IpAddr>, String>, order: &str) -> NameFact {
    let name = "cart.shop.svc.clusterset.local".to_owned();
    NameFact { name, expected: "127.64.0.2".parse().unwrap(), found, order: Some(order.to_owned()) }
}

fn directory(mode: u32, free_bytes: Option<u64>) -> DirectoryFact {
    let state = DirectoryState::There { mode, free_bytes };
    DirectoryFact { setting: "data", path: "/var/lib/isthmus".into(), private: true, state }
}

fn endpoint(reached: Result<(), String>) -> EndpointFact {
    EndpointFact { setting: "store.etcd.endpoints", endpoint: "https://10.0.0.1:2379".to_owned(), reached }
}

fn unit(active: &str, restarts: u64) -> UnitFact {
    UnitFact {
        name: "isthmus.service".to_owned(),
        active: active.to_owned(),
        sub: "running".to_owned(),
        result: "exit-code".to_owned(),
        restarts,
        reload_needed: false,
        may_bind_low_ports: false,
    }
}

fn bad(facts: &Facts) -> Vec<Finding> {
    judge(facts).into_iter().filter(|finding| finding.verdict != Verdict::Good).collect()
}

#[test]
fn a_healthy_host_is_left_in_peace() {
    assert_eq!(bad(&healthy()), []);
    assert!(judge(&healthy()).len() > 12);
}

#[test]
fn what_cannot_be_found_out_is_not_judged() {
    let clock = Clock { unix_seconds: NOW, synchronised: None };
    assert_eq!(bad(&Facts { clock, ..Facts::default() }), []);
}

/// One change to a healthy host, what is found, and a word of the cause and of the next step.
#[test]
fn each_defect_is_found_with_its_cause_and_next_step() {
    type Break = fn(&mut Facts);
    let cases: &[(Break, &str, Verdict, &str, &str)] = &[
        (
            |f| f.configuration = vec!["gateway.mesh.adress: not a setting".into()],
            "configuration",
            Verdict::Failure,
            "adress",
            "config check",
        ),
        (
            |f| f.limits.descriptors = Some(1_024),
            "descriptors",
            Verdict::Warning,
            "341 connections",
            "LimitNOFILE",
        ),
        (|f| f.limits.somaxconn = Some(128), "listen-queue", Verdict::Warning, "128", "somaxconn=4096"),
        (
            |f| f.limits.ephemeral_ports = Some((50_000, 50_999)),
            "ephemeral-ports",
            Verdict::Warning,
            "1000 connections",
            "ip_local_port_range",
        ),
        (
            |f| f.limits.conntrack = Some((900, 1_000)),
            "conntrack",
            Verdict::Warning,
            "900 of 1000",
            "nf_conntrack_max=4000",
        ),
        (
            |f| f.limits.memory = Some((990 << 20, 1_000 << 20)),
            "memory",
            Verdict::Warning,
            "990 of 1000",
            "MemoryMax",
        ),
        (|f| f.limits.memory = Some((1 << 20, 64 << 20)), "memory", Verdict::Warning, "1 of 64", "MemoryMax"),
        (|f| f.clock.synchronised = Some(false), "clock", Verdict::Warning, "not synchronised", "timesyncd"),
        (|f| f.clock.unix_seconds = 1_000, "clock", Verdict::Failure, "years", "set-ntp"),
        (|f| f.directories = vec![directory(0o755, None)], "directory", Verdict::Failure, "755", "chmod 700"),
        (
            |f| f.directories = vec![directory(0o700, Some(1 << 20))],
            "directory",
            Verdict::Failure,
            "1 MiB",
            "make room",
        ),
        (
            |f| f.directories = vec![directory(0o700, Some(100 << 20))],
            "directory",
            Verdict::Warning,
            "100 MiB",
            "make room",
        ),
        (
            |f| f.directories[0].state = DirectoryState::Missing,
            "directory",
            Verdict::Warning,
            "not there",
            "deploy/install",
        ),
        (
            |f| f.directories = vec![DirectoryFact { private: false, ..directory(0o777, None) }],
            "directory",
            Verdict::Failure,
            "everybody",
            "chmod o-w",
        ),
        (|f| f.secrets[0].mode = 0o640, "secret", Verdict::Failure, "640", "chmod 600"),
        (
            |f| f.sockets = vec![socket("127.0.0.1:15080", Bind::Taken(Some("nginx (5)".into())))],
            "port",
            Verdict::Failure,
            "nginx (5)",
            "ss -lnp",
        ),
        (
            |f| f.sockets = vec![socket("192.0.2.1:15080", Bind::NoSuchAddress)],
            "port",
            Verdict::Failure,
            "no interface",
            "ip -br",
        ),
        (
            |f| f.sockets = vec![socket("127.0.0.1:80", Bind::NotPermitted)],
            "port",
            Verdict::Failure,
            "may not be bound",
            "port_start=80",
        ),
        (
            |f| f.sockets = vec![socket("127.0.0.1:80", Bind::Free)],
            "port",
            Verdict::Failure,
            "low port",
            "CAP_NET_BIND_SERVICE",
        ),
        (
            |f| f.sockets = vec![socket("127.0.0.1:40000", Bind::Free)],
            "port",
            Verdict::Warning,
            "outgoing",
            "reserved_ports=40000",
        ),
        (
            |f| f.pool = Some(("10.9.0.1".parse().unwrap(), Bind::NoSuchAddress)),
            "virtual-addresses",
            Verdict::Failure,
            "10.9.0.1",
            "ip addr add",
        ),
        (
            |f| f.endpoints = vec![endpoint(Err("connection refused".into()))],
            "endpoint",
            Verdict::Failure,
            "10.0.0.1:2379",
            "firewall",
        ),
        (|f| f.unit = Some(unit("failed", 0)), "unit", Verdict::Failure, "exit-code", "reset-failed"),
        (|f| f.unit = Some(unit("inactive", 0)), "unit", Verdict::Warning, "does not run", "enable --now"),
        (|f| f.unit = Some(unit("active", 9)), "unit", Verdict::Warning, "9 times", "journalctl"),
        (
            |f| f.unit = Some(UnitFact { reload_needed: true, ..unit("active", 0) }),
            "unit",
            Verdict::Warning,
            "has changed",
            "daemon-reload",
        ),
        (
            |f| f.admin = AdminFact::Silent("refused".into()),
            "admin",
            Verdict::Warning,
            "no process",
            "systemctl start",
        ),
        (
            |f| {
                f.admin =
                    AdminFact::Answers { cluster: "b".into(), expected: "a".into(), ready: true, problems: 0 }
            },
            "admin",
            Verdict::Failure,
            "cluster b",
            "own addresses",
        ),
        (
            |f| {
                f.admin = AdminFact::Answers {
                    cluster: "a".into(),
                    expected: "a".into(),
                    ready: false,
                    problems: 0,
                }
            },
            "admin",
            Verdict::Failure,
            "not ready",
            "log",
        ),
        (|f| f.certificates[0].not_after = NOW - 1, "certificate", Verdict::Failure, "expired", "clock"),
        (|f| f.certificates[0].not_after = NOW + 60, "certificate", Verdict::Warning, "60 s", "svidTtl"),
        (
            |f| f.zones[1] = routed("isthmus.internal", Answer::Code(3)),
            "dns-route",
            Verdict::Failure,
            "NXDOMAIN",
            "deploy/resolver",
        ),
        (
            |f| f.zones[0] = routed("clusterset.local", Answer::NoAnswer("timed out".into())),
            "dns-route",
            Verdict::Failure,
            "timed out",
            "dnsmasq",
        ),
        (
            |f| f.zones[0].ours = Answer::NoAnswer("timed out".into()),
            "dns",
            Verdict::Warning,
            "timed out",
            "start it",
        ),
        (|f| f.zones[0].host = None, "dns-route", Verdict::Failure, "no resolver", "deploy/resolver"),
        (
            |f| f.name = Some(found(Err("no such name".into()), "files mdns4_minimal [NOTFOUND=return] dns")),
            "names",
            Verdict::Failure,
            "no such name",
            "mdns4_minimal",
        ),
        (|f| f.name = Some(found(Ok(vec![]), "files dns")), "names", Verdict::Failure, "[]", "hosts:"),
    ];
    for (at, (break_it, check, verdict, cause, step)) in cases.iter().enumerate() {
        let mut facts = healthy();
        break_it(&mut facts);
        let found = bad(&facts);
        let [finding] = found.as_slice() else { panic!("case {at}, {check}: {found:#?}") };
        assert_eq!((finding.check, finding.verdict), (*check, *verdict), "case {at}: {finding:#?}");
        assert!(finding.cause.contains(cause), "case {at}: {finding:#?}");
        assert!(
            finding.next_step.as_ref().is_some_and(|said| said.contains(step)),
            "case {at}: {finding:#?}"
        );
        assert_eq!(finding.exit_code, u8::from(*verdict == Verdict::Failure));
    }
}
