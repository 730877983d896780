//! The shape of the tree, checked: what the architecture chapter says is deliberately absent stays absent.
#![allow(clippy::unwrap_used, reason = "a test; a tree that cannot be read fails it")]

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "deploy",
    "federation",
    "gateway",
    "tests",
    "trust-bundle",
];

/// Crate, and the dependencies that must never appear in it.
const FORBIDDEN_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("gateway", &["kube", "k8s-openapi", "etcd-client", "hickory-", "redb"]),
    ("federation", &["pingora", "wasmtime", "h2 "]),
    ("trust-bundle", &["pingora", "wasmtime", "kube", "etcd-client", "redb", "tonic", "hickory-", "h2 "]),
];

/// Modules that decide: no async, no I/O, no clock, no randomness of their own.
const PURE: &[&str] = &[
    "trust-bundle/src/spiffe_id.rs",
    "trust-bundle/src/svid.rs",
    "trust-bundle/src/bundle",
    "trust-bundle/src/ca/template.rs",
    "trust-bundle/src/token",
    "federation/src/model",
    "federation/src/snapshot.rs",
    "federation/src/sparing.rs",
    "federation/src/catalog/mod.rs",
    "federation/src/catalog/addresses.rs",
    "federation/src/catalog/admission.rs",
    "federation/src/catalog/apply.rs",
    "federation/src/catalog/backends.rs",
    "federation/src/catalog/claims.rs",
    "federation/src/catalog/loss.rs",
    "federation/src/catalog/event.rs",
    "federation/src/catalog/listeners.rs",
    "federation/src/catalog/merge.rs",
    "federation/src/catalog/objects.rs",
    "federation/src/catalog/peers.rs",
    "federation/src/catalog/rebuild.rs",
    "federation/src/catalog/recollection.rs",
    "federation/src/catalog/services.rs",
    "federation/src/catalog/status.rs",
    "federation/src/control/client/route.rs",
    "federation/src/control/handover/header.rs",
    "federation/src/control/message.rs",
    "federation/src/control/server/outbox.rs",
    "federation/src/control/state",
    "federation/src/control/state.rs",
    "federation/src/config/directory/documents.rs",
    "federation/src/config/yaml.rs",
    "federation/src/kubernetes/objects",
    "federation/src/store/keys.rs",
    "federation/src/store/codec.rs",
    "federation/src/store/etcd/fault.rs",
    "federation/src/store/etcd/layout.rs",
    "federation/src/store/etcd/version.rs",
    "federation/src/config/settings.rs",
    "federation/src/config/tree.rs",
    "federation/src/config/schema.rs",
    "federation/src/store/transaction.rs",
    "federation/src/peering/addresses.rs",
    "federation/src/peering/conversation",
    "federation/src/peering/exports.rs",
    "federation/src/peering/exports",
    "federation/src/peering/imports.rs",
    "federation/src/peering/membership.rs",
    "federation/src/pace.rs",
    "federation/src/peering/seat.rs",
    "federation/src/peering/wire.rs",
    "federation/src/leader/election.rs",
    "federation/src/dns/zone.rs",
    "federation/src/dns/answer.rs",
    "gateway/src/destination.rs",
    "gateway/src/doctor/checks",
    "gateway/src/doctor/facts.rs",
    "gateway/src/doctor/finding.rs",
    "gateway/src/host/matching.rs",
    "gateway/src/router",
    "gateway/src/filter",
    "gateway/src/balancer",
    "gateway/src/context.rs",
    "gateway/src/listener/opening.rs",
    "gateway/src/link/age.rs",
    "gateway/src/link/message.rs",
    "gateway/src/link/path.rs",
    "gateway/src/link/plan.rs",
    "gateway/src/overload/pressure.rs",
    "gateway/src/windows.rs",
];

/// What a pure module must not contain outside its tests.
const IMPURE: &[&str] = &[
    "async fn",
    "async move",
    ".await",
    "tokio::",
    "Instant::now",
    "SystemTime::now",
    "rand::rng(",
    "std::fs",
    "std::net::Tcp",
];

/// Modules of federation that the data plane may use outside `app.rs` and `cli/`.
const SEAM: &[&str] = &["model", "snapshot", "sparing", "health", "dns", "control", "pace"];

const FILE_LINES_MAX: usize = 700;
const CONTENTS_PAGE_LINES_MAX: usize = 120;

#[test]
fn the_top_level_holds_what_the_layout_names() {
    let ignored = fs::read_to_string(root(".gitignore")).unwrap();
    let mut extra: Vec<_> = fs::read_dir(ROOT)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !ignored.lines().any(|line| line == format!("/{name}")))
        .collect();
    extra.sort();
    assert_eq!(extra, TOP_LEVEL);
}

#[test]
fn crates_depend_only_inwards() {
    let mut wrong = Vec::new();
    for (name, forbidden) in FORBIDDEN_DEPENDENCIES {
        let manifest = fs::read_to_string(root(name).join("Cargo.toml")).unwrap();
        let runtime = manifest.split("[dev-dependencies]").next().unwrap();
        for line in runtime.lines() {
            let hit = forbidden.iter().find(|dependency| line.starts_with(**dependency));
            wrong.extend(hit.map(|_| format!("{name}: {line}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn one_tls_stack_is_in_the_tree() {
    let lock = fs::read_to_string(root("Cargo.lock")).unwrap();
    for other in ["aws-lc-sys", "openssl-sys", "native-tls"] {
        assert!(
            !lock.contains(&format!("name = \"{other}\"")),
            "{other} came in; cargo tree -i {other} says how"
        );
    }
}

#[test]
fn pure_modules_stay_pure() {
    let mut wrong = Vec::new();
    for module in PURE {
        let path = root(module);
        assert!(path.exists(), "{module} is listed as pure and does not exist");
        for file in rust_files(&path) {
            wrong.extend(find(&file, |line| IMPURE.iter().any(|word| line.contains(word))));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_data_plane_knows_only_the_seam_of_the_control_plane() {
    let mut wrong = Vec::new();
    for file in rust_files(&root("gateway/src")) {
        let name = file.strip_prefix(root("gateway/src")).unwrap();
        // The doctor is a part of the command, and judges a whole process.
        let apart = ["app", "cli", "admin", "doctor/gather"].iter().any(|home| name.starts_with(home));
        if apart {
            continue;
        }
        wrong.extend(find(&file, |line| {
            let mut uses = line.match_indices("federation::").map(|(at, word)| &line[at + word.len()..]);
            uses.any(|rest| !SEAM.iter().any(|module| rest.starts_with(module)))
        }));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_upstream_makes_http_peers() {
    let mut wrong = Vec::new();
    for file in rust_files(&root("gateway/src")) {
        if !file.starts_with(root("gateway/src/upstream")) {
            wrong.extend(find(&file, |line| line.contains("HttpPeer::new") || line.contains("HttpPeer {")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_configuration_reads_the_environment() {
    let mut wrong = Vec::new();
    for krate in ["trust-bundle/src", "federation/src", "gateway/src"] {
        for file in rust_files(&root(krate)) {
            if !["federation/src/config", "gateway/src/host"].iter().any(|home| file.starts_with(root(home)))
            {
                wrong.extend(find(&file, |line| line.contains("env::var")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for file in all_sources() {
        let text = fs::read_to_string(&file).unwrap();
        let generated = text.contains("@generated");
        let lines = text.lines().count();
        if !text.trim_start().starts_with("//!") && !generated {
            wrong.push(format!("{}: does not begin with //!", show(&file)));
        }
        if lines > FILE_LINES_MAX && !generated {
            wrong.push(format!("{}: {lines} lines tell more than one story", show(&file)));
        }
        let contents_page = file.file_name().is_some_and(|name| name == "mod.rs");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines();
        let code = code.filter(|line| !line.starts_with("//!")).count();
        if contents_page && code > CONTENTS_PAGE_LINES_MAX {
            wrong.push(format!("{}: {code} lines are no contents page", show(&file)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_machine_and_no_unfinished_work_is_in_the_tree() {
    // Put together here, so that this file does not contain what it looks for.
    let words = [
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["FIX", "ME"].concat(),
        ["#[ign", "ore"].concat(),
        ["/ro", "ot/"].concat(),
        ["/ho", "me/"].concat(),
    ];
    let mut wrong = Vec::new();
    for file in all_sources() {
        wrong.extend(find(&file, |line| words.iter().any(|word| line.contains(word.as_str()))));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn all_sources() -> Vec<PathBuf> {
    ["trust-bundle", "federation", "gateway", "tests"]
        .iter()
        .flat_map(|name| rust_files(&root(name)))
        .collect()
}

/// Lines before the tests of a file, without comments, that are wrong.
fn find(file: &Path, wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == "tests.rs"
        || file.components().any(|part| part.as_os_str() == "tests" && !file.starts_with(root("tests")))
    {
        return Vec::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let code = text.lines().enumerate().take_while(|(_, line)| !line.contains("#[cfg(test)]"));
    code.filter(|(_, line)| !line.trim_start().starts_with("//") && wrong(line))
        .map(|(at, line)| format!("{}:{}: {}", show(file), at + 1, line.trim()))
        .collect()
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut files: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("target")).collect();
    files.sort();
    files
        .iter()
        .flat_map(|path| rust_files(path))
        .filter(|file| file.extension().is_some_and(|e| e == "rs"))
        .collect()
}

fn root(path: &str) -> PathBuf {
    Path::new(ROOT).canonicalize().unwrap().join(path)
}

fn show(file: &Path) -> String {
    file.strip_prefix(root("")).unwrap_or(file).display().to_string()
}
