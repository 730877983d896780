//! The audit log: decisions about who may do what, apart from the traffic they concern.

use std::net::SocketAddr;
use std::time::SystemTime;

use federation::model::ClusterName;
use serde::Serialize;
use trust_bundle::SpiffeId;

use super::LineLog;
use super::text::{Rfc3339, Shown, bounded};

/// Longest text of a stranger in an entry (T22).
const TEXT_BYTES_MAX: usize = 256;

#[derive(Debug, Clone)]
pub struct AuditLog {
    log: LineLog,
}

/// One decision.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Decision<'a> {
    /// A handshake failed, or proved somebody who may not come in.
    ConnectionRefused {
        listener: &'a str,
        #[serde(serialize_with = "shown_option")]
        identity: Option<&'a SpiffeId>,
        reason: &'static str,
    },
    /// A peer's gateway opened a link.
    LinkAccepted {
        peer: &'a ClusterName,
        #[serde(serialize_with = "shown")]
        identity: &'a SpiffeId,
    },
    /// A peer asked for what it may not have, or what does not exist (T8).
    StreamRefused {
        peer: &'a ClusterName,
        #[serde(serialize_with = "cut")]
        to: &'a str,
        reason: &'static str,
    },
    /// Connections were ended because of whom they belong to.
    ConnectionsCut { peer: &'a ClusterName, count: usize, reason: &'static str },
    /// Somebody changed something through the admin interface.
    Changed {
        #[serde(serialize_with = "cut")]
        who: &'a str,
        #[serde(serialize_with = "cut")]
        action: &'a str,
        outcome: Outcome,
    },
    /// This process has a new SVID.
    SvidReplaced {
        #[serde(serialize_with = "shown")]
        identity: &'a SpiffeId,
        /// Unix seconds.
        not_after: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    Refused,
    Failed,
}

#[derive(Serialize)]
struct Entry<'a> {
    time: Rfc3339,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Shown<SocketAddr>>,
    #[serde(flatten)]
    decision: &'a Decision<'a>,
}

impl AuditLog {
    pub fn new(log: LineLog) -> Self {
        Self { log }
    }

    /// Writes a decision; never waits.
    pub fn write(&self, time: SystemTime, from: Option<SocketAddr>, decision: &Decision<'_>) {
        let entry = Entry { time: Rfc3339(time), from: from.map(Shown), decision };
        if let Ok(mut line) = serde_json::to_vec(&entry) {
            line.push(b'\n');
            self.log.write(&line);
        }
    }

    pub fn log(&self) -> &LineLog {
        &self.log
    }
}

fn shown<S: serde::Serializer>(id: &&SpiffeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn shown_option<S: serde::Serializer>(id: &Option<&SpiffeId>, serializer: S) -> Result<S::Ok, S::Error> {
    id.map(Shown).serialize(serializer)
}

fn cut<S: serde::Serializer>(text: &&str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(bounded(text, TEXT_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::telemetry::{Memory, Output};
    use crate::testing::cluster;

    #[test]
    fn entries_say_who_what_and_why() {
        let memory = Memory::default();
        let (log, writer) = LineLog::build(Output::Memory(memory.clone())).unwrap();
        let audit = AuditLog::new(log.clone());
        let from = Some("192.0.2.1:4000".parse().unwrap());
        let peer = cluster("cloud");
        let to = format!("\n{}", "x".repeat(400));
        let refused = Decision::StreamRefused { peer: &peer, to: &to, reason: "not-found" };
        audit.write(SystemTime::UNIX_EPOCH, from, &refused);
        let nobody = Decision::ConnectionRefused { listener: "east-west", identity: None, reason: "expired" };
        audit.write(SystemTime::UNIX_EPOCH, None, &nobody);
        log.close();
        writer.run();
        assert_eq!(
            memory.entries(),
            [
                json!({
                    "time": "1970-01-01T00:00:00.000Z",
                    "from": "192.0.2.1:4000",
                    "event": "stream-refused",
                    "peer": "cloud",
                    "to": to[..TEXT_BYTES_MAX],
                    "reason": "not-found",
                }),
                json!({
                    "time": "1970-01-01T00:00:00.000Z",
                    "event": "connection-refused",
                    "listener": "east-west",
                    "identity": null,
                    "reason": "expired",
                }),
            ]
        );
    }
}
