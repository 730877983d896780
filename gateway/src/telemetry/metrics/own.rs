//! What only this product has: links, snapshots, identities, and its own decisions.

use std::collections::BTreeSet;
use std::time::Duration;

use federation::control::Path;
use federation::model::ClusterName;
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::balancer::{LinkState, Reason, Standing, Tier};
use crate::link::PeerStatus;
use crate::router::NoRoute;
use crate::snapshot::View;
use crate::telemetry::{Entrance, LineLog};

#[derive(Debug)]
pub struct OwnMetrics {
    links: IntGaugeVec,
    path_up: IntGaugeVec,
    round_trip: GaugeVec,
    rejected: IntCounterVec,
    no_route: IntCounterVec,
    /// By tier and standing: every request counts here, so no label is looked up for it.
    picks: [[IntCounter; STANDINGS.len()]; TIERS.len()],
    retries: IntCounterVec,
    shed: IntCounterVec,
    saturation: GaugeVec,
    generation: IntGauge,
    svid_expiry: Gauge,
    log_dropped: IntGaugeVec,
    logs: Mutex<Vec<(&'static str, LineLog)>>,
    /// Peers that series exist of.
    peers: Mutex<BTreeSet<ClusterName>>,
}

/// Who dialled a link.
const DIRECTIONS: [&str; 2] = ["accepted", "dialled"];

impl OwnMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("the names are valid");
            registered(registry, family)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels).expect("the names are valid");
            registered(registry, family)
        };
        let picks = counters(
            "isthmus_picks_total",
            "Targets chosen, by how near and how sound",
            &["tier", "standing"],
        );
        let round_trip =
            Opts::new("isthmus_path_round_trip_seconds", "Smoothed round trip to a peer's gateways");
        let saturation = Opts::new("isthmus_saturation_ratio", "How much is used of what may run out");
        let generation =
            Opts::new("isthmus_snapshot_generation", "Generation that new requests are served with");
        let svid_expiry = Opts::new("isthmus_svid_expiry_timestamp_seconds", "When the SVID in use expires");
        let build =
            Opts::new("isthmus_build_info", "Version of this process").const_label("version", VERSION);
        let build = IntGauge::with_opts(build).expect("the names are valid");
        registered(registry, build).set(1);
        Self {
            links: gauges("isthmus_links", "Open links by peer and by who dialled", &["peer", "direction"]),
            path_up: gauges("isthmus_path_up", "Whether a peer's gateways can be reached", &["peer"]),
            round_trip: registered(
                registry,
                GaugeVec::new(round_trip, &["peer"]).expect("the names are valid"),
            ),
            rejected: counters(
                "isthmus_rejected_connections_total",
                "Connections that were refused before their first request",
                &["entrance", "reason"],
            ),
            no_route: counters(
                "isthmus_no_route_total",
                "Requests without a destination",
                &["entrance", "reason"],
            ),
            picks: TIERS
                .map(|tier| STANDINGS.map(|standing| picks.with_label_values(&[tier, word(standing)]))),
            shed: counters(
                "isthmus_shed_total",
                "Requests and tunnels that were told 503 because the process was short of something",
                &["entrance", "resource"],
            ),
            saturation: registered(
                registry,
                GaugeVec::new(saturation, &["resource"]).expect("the names are valid"),
            ),
            retries: counters("isthmus_retries_total", "Attempts after the first", &["reason"]),
            generation: registered(registry, IntGauge::with_opts(generation).expect("the names are valid")),
            svid_expiry: registered(registry, Gauge::with_opts(svid_expiry).expect("the names are valid")),
            log_dropped: gauges("isthmus_log_lines_dropped", "Lines that a log has lost", &["log"]),
            logs: Mutex::default(),
            peers: Mutex::default(),
        }
    }

    /// Open links with a peer.
    pub fn links(&self, peer: &ClusterName, accepted: usize, dialled: usize) {
        self.peers.lock().insert(peer.clone());
        for (direction, count) in DIRECTIONS.iter().zip([accepted, dialled]) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.links.with_label_values(&[peer.as_str(), direction]).set(count);
        }
    }

    /// What links know of a peer.
    pub fn peer(&self, status: &PeerStatus) {
        self.links(&status.peer, status.accepted.len(), status.dialled.len());
        let round_trip = status.dialled.iter().filter_map(|link| link.round_trip_ms).reduce(f64::min);
        let path = match (status.state, round_trip) {
            (LinkState::Down, _) => Path::Down,
            (_, ms) => Path::Up { round_trip: Duration::from_secs_f64(ms.unwrap_or_default() / 1000.0) },
        };
        self.path(&status.peer, path);
    }

    pub fn path(&self, peer: &ClusterName, path: Path) {
        self.peers.lock().insert(peer.clone());
        let up = self.path_up.with_label_values(&[peer.as_str()]);
        match path {
            Path::Up { round_trip } => {
                up.set(1);
                self.round_trip.with_label_values(&[peer.as_str()]).set(round_trip.as_secs_f64());
            }
            Path::Down => up.set(0),
        }
    }

    /// `reason` is a word of ours, for example `trust_bundle::Rejection::reason`.
    pub fn rejected(&self, entrance: Entrance, reason: &'static str) {
        self.rejected.with_label_values(&[entrance.as_str(), reason]).inc();
    }

    pub fn no_route(&self, entrance: Entrance, why: &NoRoute) {
        self.no_route.with_label_values(&[entrance.as_str(), why.reason()]).inc();
    }

    pub fn shed(&self, entrance: Entrance, resource: &'static str) {
        self.shed.with_label_values(&[entrance.as_str(), resource]).inc();
    }

    /// 1 is all that there is; `resource` is a word of ours.
    pub fn saturation(&self, resource: &'static str, used: f64) {
        self.saturation.with_label_values(&[resource]).set(used);
    }

    pub fn picked(&self, reason: Reason) {
        let tier = match reason.tier {
            Tier::Own(_) => 0,
            Tier::Peer(_) => 1,
        };
        self.picks[tier][reason.standing as usize].inc();
    }

    pub fn retried(&self, reason: &'static str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// When the SVID in use expires, since 1970.
    pub fn svid_expiry(&self, not_after: Duration) {
        self.svid_expiry.set(not_after.as_secs_f64());
    }

    pub(super) fn watch_log(&self, name: &'static str, log: LineLog) {
        self.logs.lock().push((name, log));
    }

    pub(super) fn adopt(&self, view: &View) {
        self.generation.set(i64::try_from(view.snapshot.generation.0).unwrap_or(i64::MAX));
        self.peers.lock().retain(|peer| {
            let stays = view.snapshot.peers.contains_key(peer);
            if !stays {
                self.forget(peer.as_str());
            }
            stays
        });
    }

    /// What is read from elsewhere only when somebody asks.
    pub(super) fn refresh(&self) {
        for (name, log) in self.logs.lock().iter() {
            self.log_dropped
                .with_label_values(&[*name])
                .set(i64::try_from(log.dropped()).unwrap_or(i64::MAX));
        }
    }

    fn forget(&self, peer: &str) {
        // An error means that there was no such series.
        for direction in DIRECTIONS {
            let _ = self.links.remove_label_values(&[peer, direction]);
        }
        let _ = self.path_up.remove_label_values(&[peer]);
        let _ = self.round_trip.remove_label_values(&[peer]);
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn registered<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> C {
    registry.register(Box::new(metric.clone())).expect("every name is registered once");
    metric
}

const TIERS: [&str; 2] = ["own", "peer"];
/// In the order of their declaration.
const STANDINGS: [Standing; 4] = [Standing::Healthy, Standing::Failing, Standing::Draining, Standing::Tried];

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Healthy => "healthy",
        Standing::Failing => "failing",
        Standing::Draining => "draining",
        Standing::Tried => "tried",
    }
}

#[cfg(test)]
mod tests {
    use federation::model::Proximity;

    use super::*;
    use crate::telemetry::{Metrics, Output};
    use crate::testing::{cluster, snapshot};

    fn has(metrics: &Metrics, line: &str) -> bool {
        String::from_utf8(metrics.encode()).unwrap().lines().any(|known| known == line)
    }

    #[test]
    fn series_of_a_removed_peer_go() {
        let metrics = Metrics::new();
        let cloud = cluster("cloud");
        metrics.adopt(&snapshot().peer("cloud").generation(3).view());
        metrics.own().links(&cloud, 1, 2);
        metrics.own().path(&cloud, Path::Up { round_trip: Duration::from_millis(250) });
        for line in [
            r#"isthmus_links{direction="accepted",peer="cloud"} 1"#,
            r#"isthmus_links{direction="dialled",peer="cloud"} 2"#,
            r#"isthmus_path_up{peer="cloud"} 1"#,
            r#"isthmus_path_round_trip_seconds{peer="cloud"} 0.25"#,
            "isthmus_snapshot_generation 3",
        ] {
            assert!(has(&metrics, line), "{line}");
        }
        metrics.adopt(&snapshot().generation(4).view());
        assert!(!String::from_utf8(metrics.encode()).unwrap().contains("cloud"));
    }

    #[test]
    fn decisions_are_counted_by_their_own_words() {
        let metrics = Metrics::new();
        let own = metrics.own();
        own.rejected(Entrance::Link, "expired");
        own.no_route(Entrance::Mesh, &NoRoute::UnknownHost);
        own.picked(Reason { tier: Tier::Peer(Proximity::Elsewhere), standing: Standing::Failing });
        own.retried("connect");
        own.svid_expiry(Duration::from_secs(1_700_000_000));
        let (log, writer) = LineLog::build(Output::Memory(Default::default())).unwrap();
        (0..20_000).for_each(|_| log.write(b"x\n"));
        metrics.watch_log("access", log.clone());
        let dropped = format!(r#"isthmus_log_lines_dropped{{log="access"}} {}"#, log.dropped());
        for line in [
            r#"isthmus_rejected_connections_total{entrance="link",reason="expired"} 1"#,
            r#"isthmus_no_route_total{entrance="mesh",reason="unknown-host"} 1"#,
            r#"isthmus_picks_total{standing="failing",tier="peer"} 1"#,
            r#"isthmus_retries_total{reason="connect"} 1"#,
            r#"isthmus_picks_total{standing="tried",tier="own"} 0"#,
            "isthmus_svid_expiry_timestamp_seconds 1700000000",
            dropped.as_str(),
        ] {
            assert!(has(&metrics, line), "{line}\n{}", String::from_utf8(metrics.encode()).unwrap());
        }
        drop(writer);
    }
}
