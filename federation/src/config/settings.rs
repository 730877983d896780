//! The table of all settings of the static file.

use Fallback::{Derived, Value};

/// What a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterName,
    TrustDomain,
    Text,
    Path,
    SocketAddress,
    IpAddress,
    /// A list of `host:port`.
    GatewayAddresses,
    /// A list of URLs.
    Endpoints,
    Network,
    /// A list of networks.
    Networks,
    Duration,
    /// Written without a fraction.
    Number,
}

/// What applies if nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    Value(&'static str),
    /// Follows from another setting; the text says how.
    Derived(&'static str),
}

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) fallback: Fallback,
    pub(super) meaning: &'static str,
}

const fn setting(path: &'static str, kind: Kind, fallback: Fallback, meaning: &'static str) -> Setting {
    Setting { path, kind, fallback, meaning }
}

pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "cluster",
        Kind::ClusterName,
        Value("local"),
        "Name of this cluster; unique among its peers, never changed",
    ),
    setting(
        "trustDomain",
        Kind::TrustDomain,
        Derived("<cluster>.isthmus.internal"),
        "SPIFFE trust domain of this cluster",
    ),
    setting("locality.region", Kind::Text, Value(""), "Region that this cluster runs in"),
    setting("locality.zone", Kind::Text, Value(""), "Zone within the region"),
    setting("locality.subZone", Kind::Text, Value(""), "Part of the zone, for example a rack"),
    setting("store.embedded.path", Kind::Path, Value("./data"), "Directory of the embedded store; mode 0700"),
    setting(
        "store.etcd.endpoints",
        Kind::Endpoints,
        Derived("none, the embedded store is used"),
        "Client URLs of the etcd of this cluster, all its members; instead of store.embedded",
    ),
    setting(
        "store.etcd.prefix",
        Kind::Text,
        Value("/isthmus/v1/"),
        "Where in that etcd everything of this cluster is; begins and ends with '/'",
    ),
    setting(
        "store.etcd.tls.ca",
        Kind::Path,
        Derived("none; needed for https"),
        "File with the CA of etcd's certificates, PEM",
    ),
    setting(
        "store.etcd.tls.cert",
        Kind::Path,
        Derived("none, no client certificate"),
        "File with the client certificate, PEM; its common name is the user in etcd",
    ),
    setting(
        "store.etcd.tls.key",
        Kind::Path,
        Derived("none, no client certificate"),
        "File with the key of the client certificate, PEM, readable by its owner alone",
    ),
    setting(
        "data",
        Kind::Path,
        Derived("the directory of the embedded store, else ./data"),
        "Directory of what a process keeps for itself: CA, cookie, audit log, the gateway's last state; mode 0700",
    ),
    setting(
        "control.address",
        Kind::SocketAddress,
        Value("127.0.0.1:15012"),
        "Where gateways in other processes reach federation; `isthmus run` listens there only if it is set",
    ),
    setting(
        "control.advertise",
        Kind::GatewayAddresses,
        Derived("the address of control"),
        "Where tokens of nodes tell gateways to find that address: host:port, at most 8",
    ),
    setting(
        "control.endpoints",
        Kind::GatewayAddresses,
        Derived("none"),
        "Where `isthmus gateway` finds the federation processes, all of them: host:port, at most 8",
    ),
    setting(
        "control.leaderTtl",
        Kind::Duration,
        Value("10s"),
        "For how long one of several federation processes leads without a sign of life; at least 2s",
    ),
    setting(
        "config.directory",
        Kind::Path,
        Value("./conf.d"),
        "Directory of Kubernetes-shaped YAML documents, watched",
    ),
    setting(
        "gateway.mesh.address",
        Kind::SocketAddress,
        Value("127.0.0.1:15080"),
        "Where workloads send HTTP for other services, TLS or plain; also a forward proxy",
    ),
    setting(
        "gateway.eastWest.address",
        Kind::SocketAddress,
        Value("127.0.0.1:15443"),
        "The one port between clusters: links, federation, joins",
    ),
    setting(
        "gateway.eastWest.advertise",
        Kind::GatewayAddresses,
        Derived("the address of gateway.eastWest"),
        "Where other clusters reach that port: host:port, at most 8",
    ),
    setting(
        "gateway.ingress.address",
        Kind::IpAddress,
        Value("0.0.0.0"),
        "Address of the listeners of Gateway objects that name none",
    ),
    setting(
        "gateway.virtual.pool",
        Kind::Network,
        Derived("a /20 within 127.64.0.0/10 by the cluster's name"),
        "Addresses for services of other clusters; local to this machine by default",
    ),
    setting(
        "gateway.virtual.pools",
        Kind::Networks,
        Derived("gateway.virtual.pool alone"),
        "For federation: the pools of all gateways; a service has an address in each of them",
    ),
    setting(
        "gateway.overload.memory",
        Kind::Number,
        Value("90"),
        "Percent of the memory limit (of the cgroup, else of the machine) at which new requests are told 503",
    ),
    setting(
        "gateway.overload.requests",
        Kind::Number,
        Derived("one for each 256 KiB of the memory limit, 1000 to 50000"),
        "Requests and tunnels under way: of clients, and as many again of peers",
    ),
    setting(
        "dns.address",
        Kind::SocketAddress,
        Value("127.0.0.1:15053"),
        "DNS for clusterset.local and isthmus.internal",
    ),
    setting("admin.address", Kind::SocketAddress, Value("127.0.0.1:15000"), "Admin API, metrics, readiness"),
    setting(
        "trust.svidTtl",
        Kind::Duration,
        Value("24h"),
        "Lifetime of the SVIDs of our own processes; at least 10s",
    ),
    setting(
        "trust.workloadSvidTtl",
        Kind::Duration,
        Value("1h"),
        "Lifetime of the SVIDs of workloads; at least 10s",
    ),
    setting("trust.rootTtl", Kind::Duration, Value("365days"), "Lifetime of a new root of the built-in CA"),
    setting(
        "trust.ca.directory",
        Kind::Path,
        Derived("`ca` within data"),
        "Directory of the built-in CA; federation processes of one cluster share it, or have copies of it",
    ),
];

/// The setting of a path.
pub(super) fn find(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

/// Does a path lead on to settings.
pub(super) fn is_section(path: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Letters that may be wrong in a mistyped path; a short one that is half wrong is something else.
const MISTAKES_MAX: usize = 4;

/// The known path nearest to a mistyped one.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let candidates = SETTINGS.iter().map(|setting| setting.path);
    candidates
        .map(|known| (distance(path, known), known))
        .min()
        .filter(|(distance, known)| *distance <= MISTAKES_MAX.min(known.len() / 3))
        .map(|(_, known)| known)
}

/// Levenshtein distance without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<u8> = b.to_ascii_lowercase().into_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_ascii_lowercase().into_bytes().into_iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_paths_are_near_their_setting() {
        for (typed, meant) in [
            ("gateway.mesh.adress", Some("gateway.mesh.address")),
            ("trustdomain", Some("trustDomain")),
            ("dns.addr", Some("dns.address")),
            ("something.else.entirely", None),
            ("port", None),
        ] {
            assert_eq!(nearest(typed), meant, "{typed}");
        }
    }

    #[test]
    fn sections_are_what_leads_on() {
        assert!(is_section("gateway") && is_section("gateway.mesh") && is_section("store"));
        assert!(!is_section("cluster") && !is_section("gate") && !is_section(""));
    }
}
