//! A process is killed in the middle of its writes: whatever it was told is committed must be there.
//!
//! This file is two programs: started with `write <directory>` it commits for ever and says so on
//! standard output; started by the test runner it starts that one, kills it, and looks what is left.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test with its own main")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use federation::store::embedded::ChangeLog;
use federation::store::{Embedded, Key, Prefix, Store, Transaction, list_all};
use rustls::pki_types::UnixTime;

const NAME: &str = "acknowledged_commits_survive_a_kill";
/// Commits under way at a time, so that the kill hits a group of them.
const WRITERS: usize = 8;
const ROUNDS: u64 = 5;
const ACKNOWLEDGED_BEFORE_THE_KILL: usize = 60;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", directory] => runtime.block_on(write_for_ever(Path::new(directory))),
        [.., "--list"] => println!("{NAME}: test"),
        filters if !is_selected(filters) => println!("\nrunning 0 tests\n"),
        _ => runtime.block_on(acknowledged_commits_survive_a_kill()),
    }
}

fn is_selected(arguments: &[&str]) -> bool {
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    filters.peek().is_none() || filters.any(|filter| NAME.contains(filter))
}

async fn acknowledged_commits_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for line in lines_until_the_kill(directory.path()) {
            let (key, value) = line.split_once(' ').expect("a line is a key and a value");
            acknowledged.insert(key.to_owned(), value.parse().unwrap());
        }
        let store = open(directory.path());
        let listing = list_all(&store, &Prefix::new("/crash/").unwrap()).await.unwrap();
        let found: BTreeMap<String, u64> =
            listing.entries.iter().map(|entry| (entry.key.to_string(), number(&entry.value))).collect();
        for (key, value) in &acknowledged {
            let found = found.get(key).copied().unwrap_or_default();
            assert!(found >= *value, "round {round}: {key} has {found}, {value} was acknowledged");
        }
    }
    println!("test {NAME} ... ok ({} keys, {ROUNDS} kills)", acknowledged.len());
}

/// Starts the writer, reads what it says, and kills it while it writes on.
fn lines_until_the_kill(directory: &Path) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("write")
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said: Vec<String> = Vec::new();
    while said.len() < ACKNOWLEDGED_BEFORE_THE_KILL {
        said.push(lines.next().expect("the writer ended by itself").unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had said by then counts too, but for a line that the kill cut.
    said.extend(lines.map_while(Result::ok).filter(|line| line.ends_with('.')).collect::<Vec<_>>());
    said.iter().map(|line| line.trim_end_matches('.').to_owned()).collect()
}

async fn write_for_ever(directory: &Path) {
    let store = Arc::new(open(directory));
    let writers = (0..WRITERS).map(|writer| write_one_key(store.clone(), writer));
    futures::future::join_all(writers).await;
}

async fn write_one_key(store: Arc<Embedded>, writer: usize) {
    let key = Key::new(&format!("/crash/{writer}")).unwrap();
    let held = store.get(&key).await.unwrap();
    let mut value = held.map_or(0, |entry| number(&entry.value));
    loop {
        value += 1;
        let put = Transaction::new().put(key.clone(), value.to_string());
        store.commit(put).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{key} {value}.").and_then(|()| out.flush()).unwrap();
    }
}

fn open(directory: &Path) -> Embedded {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1));
    Embedded::open(directory, ChangeLog::default(), now).unwrap()
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}
