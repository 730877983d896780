//! Load by wrk, and the CPU time of processes as the kernel counts it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::subjects::Subject;

/// What one run cost.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    wall: Duration,
    cpu: Duration,
}

impl Measurement {
    pub(crate) fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.wall.as_secs_f64()
    }

    pub(crate) fn cpu_per_request_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests.max(1) as f64
    }
}

/// Loads a subject for some time from one thread.
pub(crate) fn wrk(subject: &Subject, duration: Duration, connections: u32) -> anyhow::Result<Measurement> {
    let before = subject.cpu()?;
    let printed = Command::new("wrk")
        .args(["--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", duration.as_secs())])
        .args(["--header", &format!("Host: {}", subject.host)])
        .arg(format!("http://{}/", subject.address))
        .output()
        .context("wrk does not run (hint: apt-get install wrk)")?;
    let cpu = subject.cpu()?.saturating_sub(before);
    let text = String::from_utf8(printed.stdout)?;
    if !printed.status.success() {
        bail!("wrk failed: {text}");
    }
    let requests = number_before(&text, " requests in ").context("wrk counted no requests")?;
    let errors =
        text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors")).count() as u64;
    Ok(Measurement { name: subject.name, requests, errors, wall: duration, cpu })
}

fn number_before(text: &str, words: &str) -> Option<u64> {
    text.split(words).next()?.rsplit(char::is_whitespace).next()?.parse().ok()
}

/// User and system time of a process so far.
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<Duration> {
    const TICKS_PER_SECOND: u64 = 100; // USER_HZ, the same on every Linux that we build for
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in brackets, may hold blanks; fields are counted behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
    let tick = |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("too few fields")?.parse()?) };
    Ok(Duration::from_millis((tick(11)? + tick(12)?) * 1000 / TICKS_PER_SECOND))
}
