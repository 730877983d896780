//! The logs that are written line by line, each by a thread of its own.

use std::path::Path;
use std::thread;

use crate::telemetry::{AuditLog, LineLog, LineWriter, Metrics, Output};

const AUDIT_FILE: &str = "audit.log";

#[derive(Debug)]
pub(super) struct Logs {
    pub(super) access: LineLog,
    audit: LineLog,
    writers: Vec<thread::JoinHandle<()>>,
}

impl Logs {
    pub(super) fn build(access: Output, data: &Path, metrics: &Metrics) -> anyhow::Result<Self> {
        let (access, access_writer) = line_log("access-log", access)?;
        let (audit, audit_writer) = line_log("audit-log", Output::File(data.join(AUDIT_FILE)))?;
        metrics.watch_log("access", access.clone());
        metrics.watch_log("audit", audit.clone());
        Ok(Self { access, audit, writers: vec![access_writer, audit_writer] })
    }

    pub(super) fn audit(&self) -> AuditLog {
        AuditLog::new(self.audit.clone())
    }

    /// Writes what is left. Blocks for as long as whoever reads a log takes.
    pub(super) fn close(self) {
        for log in [self.access, self.audit] {
            log.close();
        }
        for writer in self.writers {
            let _panicked = writer.join();
        }
    }
}

fn line_log(name: &str, output: Output) -> anyhow::Result<(LineLog, thread::JoinHandle<()>)> {
    let (log, writer): (LineLog, LineWriter) = LineLog::build(output)?;
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || writer.run())?;
    Ok((log, thread))
}
