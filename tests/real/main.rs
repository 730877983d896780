//! Two clusters of real processes on machines of their own, under constant traffic, while everything
//! that can die does.
//!
//! ```text
//!    onprem 10.1.0.0/24                         router                          cloud 10.2.0.0/24
//!    gateway-1 gateway-2 federation-1 federation-2 etcd workloads   ══►   the same
//! ```
//!
//! `tests/real/run [scenario] [--long]` runs it alone. Each scenario is data (`scenarios.rs`): faults,
//! what must hold meanwhile, what status must say. Nothing is left behind, however the test ends.

mod clock;
mod cluster;
mod drive;
mod ledger;
mod network;
mod outages;
mod process;
mod says;
mod scenario;
mod scenarios;
mod traffic;
mod wait;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;

use cluster::{Programs, isthmus_beside};
use scenario::{Scenario, Stage};

/// Lines of each process's log that a failure shows.
const LOG_LINES_SHOWN: usize = 25;
/// Where the logs of a scenario that failed are kept.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/real");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["endpoints"] => runtime().and_then(|runtime| runtime.block_on(traffic::serve())),
        ["clients", plan] => clients(plan),
        ["--inside", chosen @ ..] => return inside(chosen),
        _ if words.contains(&"--list") => Ok(()),
        chosen => outside(chosen, &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// One process with namespaces of its own for each scenario.
fn outside(chosen: &[&str], arguments: &[String]) -> anyhow::Result<()> {
    ledger::check();
    let chosen = select(chosen);
    if let [_] = chosen.as_slice() {
        return Err(network::enter(arguments));
    }
    let own = std::env::current_exe()?;
    let mut failed = Vec::new();
    for scenario in chosen {
        let mut one = std::process::Command::new(&own);
        one.arg(scenario.name).args(arguments.iter().filter(|argument| argument.starts_with("--")));
        if !one.status()?.success() {
            failed.push(scenario.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("failed: {}", failed.join(", "))) }
}

/// Scenarios whose names contain a word; all without words.
fn select(arguments: &[&str]) -> Vec<Scenario> {
    let words: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let mut scenarios = scenarios::all(arguments.contains(&"--long"));
    scenarios.retain(|scenario| match words.as_slice() {
        [] => !scenario.only_by_name,
        words => words.iter().any(|word| scenario.name.contains(**word)),
    });
    scenarios
}

fn inside(chosen: &[&str]) -> ExitCode {
    for scenario in select(chosen) {
        say(format!("\n=== {}: {}", scenario.name, scenario.about));
        let began = clock::now();
        match play(&scenario) {
            Ok(()) => say(format!("=== {} passed in {}", scenario.name, clock::span(clock::now() - began))),
            Err(error) => {
                say(format!("=== {} FAILED after {}", scenario.name, clock::span(clock::now() - began)));
                say(format!("{error:#}"));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn play(scenario: &Scenario) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let programs = Programs { isthmus: isthmus_beside(&own)?, etcd: etcd(), own };
    let mut stage = Stage::set(scenario.layout, &programs)?;
    let played = stage.begin(&programs).and_then(|()| stage.play(&scenario.steps));
    let ended = stage.end();
    let done = played.and(ended);
    if done.is_err() {
        show_logs(&stage, scenario.name)?;
    }
    done
}

/// What the processes said last; all of it is kept where the build is.
fn show_logs(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let kept = std::path::Path::new(KEPT).join(name);
    for process in stage.clusters.iter().flat_map(|cluster| &cluster.processes) {
        let log = std::fs::read_to_string(&process.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        say(format!("--- {}", process.name));
        lines.iter().skip(lines.len().saturating_sub(LOG_LINES_SHOWN)).for_each(say);
        std::fs::create_dir_all(&kept)?;
        std::fs::write(kept.join(process.name.replace('/', "-")), log)?;
    }
    say(format!("whole logs: {}", kept.display()));
    Ok(())
}

/// As the tests of the store find it.
fn etcd() -> Option<std::path::PathBuf> {
    let named = std::env::var_os("ISTHMUS_ETCD").map(std::path::PathBuf::from);
    let home = std::env::var_os("XDG_CACHE_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| Some(std::path::Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let kept = home.map(|cache| cache.join("isthmus/etcd/usr/bin/etcd"));
    let paths = std::env::var_os("PATH");
    let in_path = paths.iter().flat_map(std::env::split_paths).map(|directory| directory.join("etcd"));
    named.into_iter().chain(in_path).chain(kept).find(|path| path.is_file())
}

fn clients(plan: &str) -> anyhow::Result<()> {
    let plan = serde_json::from_str(plan).context("a plan")?;
    let runtime = runtime()?;
    let done = runtime.block_on(traffic::generate(plan));
    runtime.shutdown_background();
    done
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Prints a line; nobody may be left to read it.
fn say(line: impl AsRef<str>) {
    let _unheard = writeln!(std::io::stdout().lock(), "{}", line.as_ref());
}
