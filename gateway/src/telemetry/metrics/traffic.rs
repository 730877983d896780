//! Requests, bytes and connections under Istio's standard names and labels.
//!
//! The labels of a path (who calls what, where) are resolved to counters once and then found by one hash of
//! what names them; of the result (code, flags) there are few for each path.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use federation::model::{ClusterName, ServiceName};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use trust_bundle::SpiffeId;

use super::own::registered;
use crate::destination::Scope;
use crate::mostly_read::MostlyRead;
use crate::snapshot::View;
use crate::telemetry::{Entrance, Proof, Protocol, Record, ResponseFlags};

/// Paths that have series of their own; the rest is counted as one.
const PATHS_MAX: usize = 4_096;
/// Results of one path that have series of their own; an upstream may answer with any number.
const RESULTS_MAX: usize = 48;
/// Milliseconds, as Istio has them.
const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6,
    3.6e6,
];
const PATH_LABELS: usize = 16;
/// Those of a path, in the order of `PathKey::labels`.
const LABELS: [&str; PATH_LABELS] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_canonical_service",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_canonical_service",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "connection_security_policy",
];
const UNKNOWN: &str = "unknown";

#[derive(Debug)]
pub(super) struct Traffic {
    families: Families,
    paths: MostlyRead<PathKey, Arc<Path>>,
    count: AtomicUsize,
    /// Counts what comes after the bound.
    rest: Path,
}

#[derive(Debug)]
struct Families {
    requests: IntCounterVec,
    duration: HistogramVec,
    tcp_sent: IntCounterVec,
    tcp_received: IntCounterVec,
    tcp_opened: IntCounterVec,
    tcp_closed: IntCounterVec,
}

/// Who calls what, where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PathKey {
    known: Known,
    source_principal: Option<SpiffeId>,
    source_cluster: ClusterName,
    service: Option<(ServiceName, Scope)>,
    destination_cluster: Option<ClusterName>,
    destination_principal: Option<SpiffeId>,
}

/// The same, borrowed: hashes as its owner does, field by field.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PathRef<'a> {
    known: Known,
    source_principal: Option<&'a SpiffeId>,
    source_cluster: &'a ClusterName,
    service: Option<(&'a ServiceName, &'a Scope)>,
    destination_cluster: Option<&'a ClusterName>,
    destination_principal: Option<&'a SpiffeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Known {
    reporter: Reporter,
    protocol: Protocol,
    security: Proof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reporter {
    Source,
    Destination,
}

/// The counters of a path.
#[derive(Debug)]
struct Path {
    labels: [String; PATH_LABELS],
    http: ArcSwap<Vec<(Outcome, HttpResult)>>,
    tcp: ArcSwap<Vec<(Outcome, TcpResult)>>,
}

/// Status 0 stands for connections, and for requests that downstream left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    status: u16,
    flags: ResponseFlags,
}

#[derive(Debug, Clone)]
struct HttpResult {
    requests: IntCounter,
    duration: Histogram,
}

#[derive(Debug, Clone)]
struct TcpResult {
    sent: IntCounter,
    received: IntCounter,
    opened: IntCounter,
    closed: IntCounter,
}

impl Traffic {
    pub(super) fn register(registry: &Registry) -> Self {
        let families = Families::register(registry);
        Self {
            families,
            paths: MostlyRead::default(),
            count: AtomicUsize::new(0),
            rest: Path::new([UNKNOWN; PATH_LABELS].map(str::to_owned)),
        }
    }

    pub(super) fn observe(&self, view: &View, record: &Record<'_>) {
        self.with_path(view, record, |path| match &record.http {
            Some(http) => {
                let outcome = Outcome { status: http.status, flags: record.flags };
                path.http(&self.families, outcome, |result| {
                    result.requests.inc();
                    result.duration.observe(record.duration.as_secs_f64() * 1000.0);
                });
            }
            None => path.tcp(&self.families, Outcome { status: 0, flags: record.flags }, |result| {
                result.closed.inc();
                result.sent.inc_by(record.bytes_sent);
                result.received.inc_by(record.bytes_received);
            }),
        });
    }

    pub(super) fn opened(&self, view: &View, record: &Record<'_>) {
        let outcome = Outcome { status: 0, flags: ResponseFlags::default() };
        self.with_path(view, record, |path| path.tcp(&self.families, outcome, |result| result.opened.inc()));
    }

    pub(super) fn adopt(&self, view: &View) {
        for (key, path) in self.paths.entries() {
            if !key.exists(view) {
                self.paths.change(&key, |_| None);
                self.count.fetch_sub(1, Ordering::Relaxed);
                path.remove(&self.families);
            }
        }
    }

    fn with_path(&self, view: &View, record: &Record<'_>, count: impl Fn(&Path)) {
        let key = PathRef::of(view, record);
        if self.paths.read(&key, |known| key == PathRef::from(known), |path| count(path)).is_some() {
            return;
        }
        match self.admit(&key.to_key()) {
            Some(path) => count(&path),
            None => count(&self.rest),
        }
    }

    fn admit(&self, key: &PathKey) -> Option<Arc<Path>> {
        if self.count.load(Ordering::Relaxed) >= PATHS_MAX {
            return None;
        }
        let fresh = Arc::new(Path::new(key.labels()));
        let mut kept = fresh.clone();
        self.paths.change(key, |present| {
            kept = present.unwrap_or(&fresh).clone();
            Some(kept.clone())
        });
        if Arc::ptr_eq(&kept, &fresh) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Some(kept)
    }
}

impl Families {
    fn register(registry: &Registry) -> Self {
        let flags: Vec<_> = LABELS.into_iter().chain(["response_flags"]).collect();
        let results: Vec<_> = flags.iter().copied().chain(["response_code"]).collect();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("the names are valid");
            registered(registry, family)
        };
        let duration = HistogramOpts::new("istio_request_duration_milliseconds", "Duration of requests");
        let duration = HistogramVec::new(duration.buckets(BUCKETS.to_vec()), &results);
        Self {
            requests: counters("istio_requests_total", "Requests", &results),
            duration: registered(registry, duration.expect("the names are valid")),
            tcp_sent: counters("istio_tcp_sent_bytes_total", "Bytes sent downstream", &flags),
            tcp_received: counters(
                "istio_tcp_received_bytes_total",
                "Bytes received from downstream",
                &flags,
            ),
            tcp_opened: counters("istio_tcp_connections_opened_total", "Connections opened", &flags),
            tcp_closed: counters("istio_tcp_connections_closed_total", "Connections closed", &flags),
        }
    }
}

impl<'a> PathRef<'a> {
    fn of(view: &'a View, record: &Record<'a>) -> Self {
        let known = Known {
            reporter: match record.entrance {
                Entrance::Link => Reporter::Destination,
                Entrance::Mesh | Entrance::Ingress | Entrance::Virtual => Reporter::Source,
            },
            protocol: record.protocol(),
            security: match record.source.gateway {
                Some(_) => Proof::MutualTls,
                None => record.source.proof,
            },
        };
        Self {
            known,
            source_principal: principal(view, record),
            source_cluster: record.source.cluster,
            service: record.destination.map(|to| (to.name(), &to.scope)),
            destination_cluster: record.upstream.cluster,
            destination_principal: record.upstream.identity,
        }
    }

    fn to_key(&self) -> PathKey {
        PathKey {
            known: self.known,
            source_principal: self.source_principal.cloned(),
            source_cluster: self.source_cluster.clone(),
            service: self.service.map(|(name, scope)| (name.clone(), scope.clone())),
            destination_cluster: self.destination_cluster.cloned(),
            destination_principal: self.destination_principal.cloned(),
        }
    }
}

/// T17: a peer may make up callers without end, so its gateway stands for all of them. Its own identity, and
/// those of this cluster's own trust domain, were issued by somebody who can be asked.
fn principal<'a>(view: &View, record: &Record<'a>) -> Option<&'a SpiffeId> {
    let own = |id: &&SpiffeId| id.trust_domain() == view.snapshot.cluster.trust_domain;
    match (record.source.gateway, record.source.proof) {
        (Some(gateway), _) => Some(gateway),
        (None, Proof::MutualTls) => record.source.identity.filter(own),
        (None, Proof::Nothing | Proof::PeerGateway) => None,
    }
}

impl<'a> From<&'a PathKey> for PathRef<'a> {
    fn from(key: &'a PathKey) -> Self {
        Self {
            known: key.known,
            source_principal: key.source_principal.as_ref(),
            source_cluster: &key.source_cluster,
            service: key.service.as_ref().map(|(name, scope)| (name, scope)),
            destination_cluster: key.destination_cluster.as_ref(),
            destination_principal: key.destination_principal.as_ref(),
        }
    }
}

impl PathKey {
    /// Does the snapshot still know all that the path names.
    fn exists(&self, view: &View) -> bool {
        let snapshot = &view.snapshot;
        let cluster =
            |name: &ClusterName| *name == snapshot.cluster.name || snapshot.peers.contains_key(name);
        let service = |(name, scope): &(ServiceName, Scope)| match scope {
            Scope::Local | Scope::Merged => snapshot.services.contains_key(name),
            Scope::Cluster(peer) => {
                snapshot.peers.get(peer).is_some_and(|view| view.imports.contains_key(name))
            }
        };
        cluster(&self.source_cluster)
            && self.destination_cluster.as_ref().is_none_or(cluster)
            && self.service.as_ref().is_none_or(service)
    }

    fn labels(&self) -> [String; PATH_LABELS] {
        let source = self.source_principal.as_ref().map(workload).unwrap_or_default();
        let destination = self.destination_principal.as_ref().map(workload).unwrap_or_default();
        let shown = |id: &Option<SpiffeId>| id.as_ref().map_or(UNKNOWN.to_owned(), SpiffeId::to_string);
        let service = self.service.as_ref();
        let labels: [Cow<'_, str>; PATH_LABELS] = [
            self.known.reporter.as_str().into(),
            source.name.into(),
            source.namespace.into(),
            shown(&self.source_principal).into(),
            source.name.into(),
            self.source_cluster.as_str().into(),
            destination.name.into(),
            destination.namespace.into(),
            shown(&self.destination_principal).into(),
            service.map_or(UNKNOWN, |(name, _)| name.name.as_str()).into(),
            service.map_or(UNKNOWN.to_owned(), |(name, scope)| host(name, scope)).into(),
            service.map_or(UNKNOWN, |(name, _)| name.name.as_str()).into(),
            service.map_or(UNKNOWN, |(name, _)| name.namespace.as_str()).into(),
            self.destination_cluster.as_ref().map_or(UNKNOWN, ClusterName::as_str).into(),
            self.known.protocol.as_str().into(),
            self.known.security_policy().into(),
        ];
        labels.map(Cow::into_owned)
    }
}

impl Known {
    /// Istio's words; only the side that accepts a connection knows.
    fn security_policy(self) -> &'static str {
        match self.security {
            Proof::MutualTls | Proof::PeerGateway => "mutual_tls",
            Proof::Nothing => "none",
        }
    }
}

impl Reporter {
    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

fn host(name: &ServiceName, scope: &Scope) -> String {
    match scope {
        Scope::Local => format!("{name}.svc.cluster.local"),
        Scope::Merged => format!("{name}.svc.clusterset.local"),
        Scope::Cluster(cluster) => format!("{name}.{cluster}.isthmus.internal"),
    }
}

#[derive(Clone, Copy)]
struct Workload<'a> {
    name: &'a str,
    namespace: &'a str,
}

impl Default for Workload<'_> {
    fn default() -> Self {
        Self { name: UNKNOWN, namespace: UNKNOWN }
    }
}

/// What an identity of the form `/ns/<namespace>/sa/<name>` calls its workload.
fn workload(id: &SpiffeId) -> Workload<'_> {
    let mut parts = id.path().split('/').skip(1);
    let mut after = |word| parts.next().filter(|part| *part == word).and_then(|_| parts.next());
    match (after("ns"), after("sa")) {
        (Some(namespace), Some(name)) => Workload { name, namespace },
        _ => Workload::default(),
    }
}

impl Path {
    fn new(labels: [String; PATH_LABELS]) -> Self {
        Self { labels, http: ArcSwap::default(), tcp: ArcSwap::default() }
    }

    fn http(&self, families: &Families, outcome: Outcome, count: impl Fn(&HttpResult)) {
        with_result(&self.http, outcome, count, |outcome| {
            let (flags, code) = (outcome.flags.to_string(), outcome.status.to_string());
            let labels = self.labels_with([&flags, &code]);
            HttpResult {
                requests: families.requests.with_label_values(&labels),
                duration: families.duration.with_label_values(&labels),
            }
        });
    }

    fn tcp(&self, families: &Families, outcome: Outcome, count: impl Fn(&TcpResult)) {
        with_result(&self.tcp, outcome, count, |outcome| {
            let flags = outcome.flags.to_string();
            let labels = self.labels_with([&flags]);
            TcpResult {
                sent: families.tcp_sent.with_label_values(&labels),
                received: families.tcp_received.with_label_values(&labels),
                opened: families.tcp_opened.with_label_values(&labels),
                closed: families.tcp_closed.with_label_values(&labels),
            }
        });
    }

    fn labels_with<'a, const N: usize>(&'a self, results: [&'a String; N]) -> Vec<&'a str> {
        self.labels.iter().chain(results).map(String::as_str).collect()
    }

    fn remove(&self, families: &Families) {
        // An error means that there was no such series.
        for (outcome, _) in self.http.load().iter() {
            let (flags, code) = (outcome.flags.to_string(), outcome.status.to_string());
            let labels = self.labels_with([&flags, &code]);
            let _ = families.requests.remove_label_values(&labels);
            let _ = families.duration.remove_label_values(&labels);
        }
        for (outcome, _) in self.tcp.load().iter() {
            let flags = outcome.flags.to_string();
            let labels = self.labels_with([&flags]);
            for family in
                [&families.tcp_sent, &families.tcp_received, &families.tcp_opened, &families.tcp_closed]
            {
                let _ = family.remove_label_values(&labels);
            }
        }
    }
}

fn with_result<R: Clone>(
    results: &ArcSwap<Vec<(Outcome, R)>>,
    outcome: Outcome,
    count: impl Fn(&R),
    make: impl Fn(Outcome) -> R,
) {
    let known = results.load();
    let find = |outcome: Outcome| known.iter().find(|(of, _)| *of == outcome);
    // Beyond the bound only the class of an answer counts: 200, 400, 500.
    let class = Outcome { status: outcome.status / 100 * 100, flags: ResponseFlags::default() };
    let outcome = if find(outcome).is_some() || known.len() < RESULTS_MAX { outcome } else { class };
    if let Some((_, result)) = find(outcome) {
        return count(result);
    }
    let result = make(outcome);
    results.rcu(|present| {
        let mut next = Vec::clone(present);
        if !next.iter().any(|(of, _)| *of == outcome) {
            next.push((outcome, result.clone()));
        }
        next
    });
    // The library hands out one counter for equal labels, so a lost race counts all the same.
    count(&result);
}

#[cfg(test)]
mod tests;
