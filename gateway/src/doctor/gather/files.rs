//! Directories and files: modes, owners, room.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use federation::config::Config;
use serde_json::Value;

use crate::doctor::facts::{DirectoryFact, DirectoryState, FileFact};

/// How deep keys lie below the data directory, and how many files are looked at.
const DEPTH_MAX: usize = 3;
const FILES_MAX: usize = 1_000;

pub(super) fn owner(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.uid())
}

pub(super) fn directories(config: &Config) -> Vec<DirectoryFact> {
    let fact = |setting, path: &Path, private| DirectoryFact {
        setting,
        path: path.to_owned(),
        private,
        state: state(path),
    };
    vec![fact("data", &config.data, true), fact("config.directory", &config.directory, false)]
}

fn state(path: &Path) -> DirectoryState {
    match fs::metadata(path) {
        Ok(metadata) => DirectoryState::There {
            mode: metadata.permissions().mode() & 0o7777,
            free_bytes: free_bytes(path),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => DirectoryState::Missing,
        Err(error) => DirectoryState::Unreadable(error.to_string()),
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let output = Command::new("df").args(["-P", "-k", "--"]).arg(path).output().ok()?;
    free_of(&String::from_utf8_lossy(&output.stdout))
}

/// The fourth column of the second line (POSIX `df -P -k`).
fn free_of(text: &str) -> Option<u64> {
    let kibibytes: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Keys and cookies below the data directory, and keys that the configuration names.
pub(super) fn secrets(config: &Config, settings: &Value) -> Vec<FileFact> {
    let mut found = Vec::new();
    below(&config.data, DEPTH_MAX, &mut found);
    let named = settings.pointer("/store/etcd/tls/key").and_then(Value::as_str);
    found.extend(named.map(PathBuf::from));
    let fact = |path: PathBuf| {
        let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o7777;
        Some(FileFact { path, mode })
    };
    found.into_iter().filter_map(fact).collect()
}

fn below(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 1 => below(&path, depth - 1, found),
            Ok(kind) if kind.is_file() && is_secret(&path) && found.len() < FILES_MAX => found.push(path),
            _ => {}
        }
    }
}

fn is_secret(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("key" | "cookie" | "redb"))
        || path.file_name().is_some_and(|name| name == "svid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_read_from_df() {
        let text = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n/dev/vda 263112772 60000000 36000000 62% /\n";
        assert_eq!(free_of(text), Some(36_000_000 * 1024));
        assert_eq!((free_of(""), free_of("a\nb c d e")), (None, None));
    }

    #[test]
    fn keys_are_found_and_certificates_are_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("ca")).unwrap();
        for file in ["ca/ca.key", "ca/ca.crt", "admin.cookie"] {
            fs::write(directory.path().join(file), "x").unwrap();
        }
        let mut found = Vec::new();
        below(directory.path(), DEPTH_MAX, &mut found);
        found.sort();
        assert_eq!(found, [directory.path().join("admin.cookie"), directory.path().join("ca/ca.key")]);
    }
}
