//! The access log: one line of JSON for each request, and for each opaque connection.
//!
//! Fields that do not apply are absent. The query of a path is never written: tokens travel there. What
//! strangers say is cut to a length and escaped by JSON (T22).

use std::cell::RefCell;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::record::{Http, Proof, Record, Source, Upstream};
use super::text::{Rfc3339, Shown, bounded};
use super::{LineLog, TraceParent};
use crate::balancer::Target;
use crate::destination::Destination;

/// Longest path in a line; longer ones are attacks or mistakes, and their beginning tells which.
const PATH_BYTES_MAX: usize = 1024;
/// Longest host and port (RFC 1035), as everywhere.
const AUTHORITY_BYTES_MAX: usize = 259;
/// Longest of all other text that strangers send.
const TEXT_BYTES_MAX: usize = 256;
/// Room for a usual line.
const LINE_BYTES: usize = 1024;

#[derive(Debug, Clone)]
pub struct AccessLog {
    log: LineLog,
}

impl AccessLog {
    pub fn new(log: LineLog) -> Self {
        Self { log }
    }

    /// Writes a line; never waits.
    pub fn write(&self, record: &Record<'_>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(LINE_BYTES));
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            // Neither writing to memory nor serialising text and numbers can fail.
            if serde_json::to_writer(&mut *line, record).is_ok() {
                line.push(b'\n');
                self.log.write(line);
            }
        });
    }

    pub fn log(&self) -> &LineLog {
        &self.log
    }
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("time", &Rfc3339(self.began))?;
        line.serialize_entry("kind", if self.http.is_some() { "request" } else { "connection" })?;
        line.serialize_entry("entrance", &self.entrance)?;
        source(&mut line, &self.source)?;
        if let Some(to) = self.destination {
            destination(&mut line, to)?;
        }
        upstream(&mut line, &self.upstream)?;
        if let Some(asked) = &self.http {
            http(&mut line, asked)?;
        }
        line.serialize_entry("flags", &Shown(self.flags))?;
        optional(&mut line, "reason", self.reason)?;
        line.serialize_entry("attempts", &self.attempts)?;
        line.serialize_entry("bytes_received", &self.bytes_received)?;
        line.serialize_entry("bytes_sent", &self.bytes_sent)?;
        let microseconds = u32::try_from(self.duration.as_micros()).unwrap_or(u32::MAX);
        line.serialize_entry("duration_ms", &(f64::from(microseconds) / 1000.0))?;
        line.serialize_entry("generation", &self.generation)?;
        line.end()
    }
}

fn source<M: SerializeMap>(line: &mut M, source: &Source<'_>) -> Result<(), M::Error> {
    line.serialize_entry("source_cluster", source.cluster)?;
    optional(line, "source_address", source.address.map(Shown))?;
    optional(line, "source_client", source.client.map(Shown))?;
    optional(line, "source_principal", source.identity.map(Shown))?;
    if source.identity.is_some() && source.proof != Proof::Nothing {
        line.serialize_entry("source_proof", &source.proof)?;
    }
    optional(line, "source_gateway", source.gateway.map(Shown))?;
    optional(line, "source_locality", source.locality.filter(|place| !place.is_unknown()).map(Shown))
}

fn destination<M: SerializeMap>(line: &mut M, destination: &Destination) -> Result<(), M::Error> {
    line.serialize_entry("destination_service", &Shown(destination.name()))?;
    line.serialize_entry("destination_port", &destination.port.port)?;
    line.serialize_entry("destination_scope", &Shown(&destination.scope))
}

fn upstream<M: SerializeMap>(line: &mut M, upstream: &Upstream<'_>) -> Result<(), M::Error> {
    optional(line, "destination_cluster", upstream.cluster)?;
    optional(line, "destination_principal", upstream.identity.map(Shown))?;
    optional(line, "upstream", upstream.target.map(Shown))?;
    if let Some(Target::Endpoint { locality, .. }) = upstream.target
        && !locality.is_unknown()
    {
        line.serialize_entry("destination_locality", &Shown(locality))?;
    }
    optional(line, "pick", upstream.why)
}

fn http<M: SerializeMap>(line: &mut M, http: &Http<'_>) -> Result<(), M::Error> {
    line.serialize_entry("protocol", &http.protocol)?;
    line.serialize_entry("method", bounded(http.method, TEXT_BYTES_MAX))?;
    line.serialize_entry("authority", bounded(http.authority, AUTHORITY_BYTES_MAX))?;
    let path = http.path.split('?').next().unwrap_or_default();
    line.serialize_entry("path", bounded(path, PATH_BYTES_MAX))?;
    line.serialize_entry("status", &http.status)?;
    optional(line, "user_agent", http.user_agent.map(|text| bounded(text, TEXT_BYTES_MAX)))?;
    if let Some(trace) = http.traceparent.and_then(TraceParent::parse) {
        line.serialize_entry("trace_id", trace.trace_id)?;
        line.serialize_entry("span_id", trace.span_id)?;
    }
    Ok(())
}

fn optional<M: SerializeMap>(
    line: &mut M,
    key: &'static str,
    value: Option<impl Serialize>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| line.serialize_entry(key, &value))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use federation::model::{ClusterName, Proximity};
    use federation::snapshot::Generation;
    use serde_json::{Value, json};
    use trust_bundle::SpiffeId;

    use super::*;
    use crate::balancer::{Reason, Standing, Tier};
    use crate::telemetry::{Entrance, Flag, Memory, Output, Protocol, ResponseFlags};
    use crate::testing::{cluster, locality, snapshot};

    fn id(text: &str) -> SpiffeId {
        text.try_into().unwrap()
    }

    fn bare(cluster: &ClusterName) -> Record<'_> {
        Record {
            began: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            duration: Duration::from_micros(1_500),
            generation: Generation(7),
            entrance: Entrance::Mesh,
            source: Source {
                address: None,
                client: None,
                identity: None,
                proof: Proof::Nothing,
                gateway: None,
                cluster,
                locality: None,
            },
            destination: None,
            upstream: Upstream::default(),
            attempts: 0,
            flags: ResponseFlags::default(),
            reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            http: None,
        }
    }

    fn http<'a>(authority: &'a str, path: &'a str) -> Http<'a> {
        Http {
            protocol: Protocol::Http,
            method: "GET",
            authority,
            path,
            status: 200,
            user_agent: None,
            traceparent: None,
        }
    }

    fn line(record: &Record<'_>) -> Value {
        let memory = Memory::default();
        let (log, writer) = LineLog::build(Output::Memory(memory.clone())).unwrap();
        AccessLog::new(log.clone()).write(record);
        log.close();
        writer.run();
        assert_eq!(memory.lines().len(), 1, "one line, whatever is in it");
        memory.entries().remove(0)
    }

    #[test]
    fn a_line_holds_both_ends_and_the_decision() {
        let (onprem, cloud) = (cluster("onprem"), cluster("cloud"));
        let (caller, gateway) =
            (id("spiffe://cloud.example/ns/shop/sa/web"), id("spiffe://cloud.example/isthmus/gateway"));
        let view = snapshot().service("cart.shop", "80=http", &["10.0.0.1"]).view();
        let destination = view.router.mesh("cart.shop.svc.cluster.local").unwrap();
        let target = Target::Endpoint {
            host: "10.0.0.1".try_into().unwrap(),
            port: 8080,
            locality: Arc::new(locality("eu/a")),
        };
        let record = Record {
            entrance: Entrance::Link,
            source: Source {
                address: Some("192.0.2.1:4000".parse().unwrap()),
                client: Some("10.9.9.9".parse().unwrap()),
                identity: Some(&caller),
                proof: Proof::PeerGateway,
                gateway: Some(&gateway),
                cluster: &cloud,
                locality: Some(&locality("us/x")),
            },
            destination: Some(&destination),
            upstream: Upstream {
                target: Some(&target),
                why: Some(Reason { tier: Tier::Own(Proximity::SameZone), standing: Standing::Healthy }),
                cluster: Some(&onprem),
                identity: None,
            },
            attempts: 2,
            flags: Flag::UpstreamConnectionFailure.into(),
            bytes_sent: 64,
            http: Some(Http {
                traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                ..http("cart.shop.svc.clusterset.local", "/pay?token=secret")
            }),
            ..bare(&onprem)
        };
        assert_eq!(
            line(&record),
            json!({
                "time": "2023-11-14T22:13:20.123Z",
                "kind": "request",
                "entrance": "link",
                "source_cluster": "cloud",
                "source_address": "192.0.2.1:4000",
                "source_client": "10.9.9.9",
                "source_principal": "spiffe://cloud.example/ns/shop/sa/web",
                "source_proof": "peer-gateway",
                "source_gateway": "spiffe://cloud.example/isthmus/gateway",
                "source_locality": "us/x",
                "destination_service": "cart.shop",
                "destination_port": 80,
                "destination_scope": "local",
                "destination_cluster": "onprem",
                "upstream": "10.0.0.1:8080",
                "destination_locality": "eu/a",
                "pick": {"tier": {"own": "same-zone"}, "standing": "healthy"},
                "protocol": "http",
                "method": "GET",
                "authority": "cart.shop.svc.clusterset.local",
                "path": "/pay",
                "status": 200,
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "span_id": "b7ad6b7169203331",
                "flags": "UF",
                "attempts": 2,
                "bytes_received": 0,
                "bytes_sent": 64,
                "duration_ms": 1.5,
                "generation": 7,
            })
        );
    }

    #[test]
    fn what_does_not_apply_is_absent() {
        let onprem = cluster("onprem");
        let record =
            Record { reason: Some("unknown-host"), flags: Flag::NoRouteFound.into(), ..bare(&onprem) };
        let line = line(&record);
        let keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "time",
                "kind",
                "entrance",
                "source_cluster",
                "flags",
                "reason",
                "attempts",
                "bytes_received",
                "bytes_sent",
                "duration_ms",
                "generation"
            ]
        );
        assert_eq!(line["kind"], "connection");
    }

    #[test]
    fn t22_what_strangers_say_is_cut_and_escaped() {
        let onprem = cluster("onprem");
        let long = "x".repeat(5000);
        for (authority, path) in
            [(long.as_str(), long.as_str()), ("a\"}\n{\"b", "/\u{1b}[2J\r\n\"}"), ("\u{0}", "/%00?a=b")]
        {
            let record = Record {
                http: Some(Http {
                    user_agent: Some(&long),
                    traceparent: Some("00-zz-zz-01"),
                    ..http(authority, path)
                }),
                ..bare(&onprem)
            };
            let line = line(&record);
            assert!(line["path"].as_str().unwrap().len() <= PATH_BYTES_MAX);
            assert!(line["authority"].as_str().unwrap().len() <= AUTHORITY_BYTES_MAX);
            assert_eq!(line["user_agent"].as_str().unwrap().len(), TEXT_BYTES_MAX);
            assert_eq!(line.get("trace_id"), None);
        }
    }
}
