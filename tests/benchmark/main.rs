//! CPU of a proxy process per request, as ratios within one run; nothing absolute is asserted.
//!
//! ```text
//! wrk ──► subject: bare pingora | isthmus, Gateway and HTTPRoute | isthmus, mesh by Host ──► backend
//! wrk ──► isthmus "near" ── link, mutual TLS ──► isthmus "far" ──► backend        (both counted)
//! ```
//!
//! Every process is this machine's own and ends with the run. The figure is user and system time of
//! the subject's process over the requests that wrk counts, with one worker thread in each process.

mod bare;
mod measure;
mod subjects;

use std::time::Duration;

use anyhow::{Context, bail};

use measure::Measurement;
use subjects::{Backend, Subject};

/// How long each subject is under load.
const SECONDS: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(2);
const CONNECTIONS: u32 = 64;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => compare(),
        ["backend"] => bare::backend(),
        ["bare", backend] => bare::proxy(backend),
        other => bail!("{other:?}: run it without arguments"),
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its table")]
fn compare() -> anyhow::Result<()> {
    let isthmus = subjects::isthmus_binary()?;
    let backend = Backend::start()?;
    let reference = run(Subject::bare_pingora(&backend)?)?;
    let mut results = vec![reference.clone()];
    results.push(run(Subject::ingress(&isthmus, &backend)?)?);
    results.push(run(Subject::mesh(&isthmus, &backend)?)?);
    results.push(run(Subject::two_gateways(&isthmus, &backend)?)?);
    println!("{:<44} {:>10} {:>12} {:>8}", "subject", "req/s", "CPU us/req", "ratio");
    for result in &results {
        let ratio = result.cpu_per_request_us() / reference.cpu_per_request_us();
        let (name, rate, cpu) = (result.name, result.requests_per_second(), result.cpu_per_request_us());
        println!("{name:<44} {rate:>10.0} {cpu:>12.1} {ratio:>8.2}");
    }
    if results.iter().any(|result| result.errors > 0) {
        bail!("some requests failed: the figures mean nothing");
    }
    Ok(())
}

fn run(subject: Subject) -> anyhow::Result<Measurement> {
    let name = subject.name;
    measure::wrk(&subject, WARM_UP, CONNECTIONS).with_context(|| format!("{name}: warming up"))?;
    measure::wrk(&subject, SECONDS, CONNECTIONS).with_context(|| name.to_owned())
}
