//! Reads a directory, but only the files that are not known already.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files beyond these are reported and not read; a directory of ours has some dozens.
const FILES_MAX: usize = 10_000;
/// Entries that are looked at, whatever they are: the path may be mistyped and be `/`.
const ENTRIES_MAX: usize = 50_000;
const DEPTH_MAX: usize = 16;
/// An EndpointSlice of 1000 endpoints has some 100 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// One pass over the directory.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// All files that are there, read or known.
    pub(super) present: BTreeSet<Arc<str>>,
    /// New content, or why there is none.
    pub(super) read: BTreeMap<Arc<str>, Result<String, String>>,
    /// Places that could not be read: nothing below is gone.
    pub(super) unreadable: BTreeMap<Arc<str>, String>,
}

/// Knows by their stamps which files changed.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    root: PathBuf,
    known: BTreeMap<Arc<str>, Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    sight: Sight,
}

/// A file that changes within the clock tick in which it was read keeps its stamp, so every content is
/// read a second time, a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    First,
    Second,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One directory on the way through all of them.
struct Level {
    path: PathBuf,
    /// Below the root, with a slash at its end unless empty.
    name: String,
    depth: usize,
}

impl Scanner {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, known: BTreeMap::new() }
    }

    pub(super) fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        let mut entries = 0;
        let mut levels = vec![Level { path: self.root.clone(), name: String::new(), depth: 0 }];
        while let Some(level) = levels.pop() {
            if let Err(error) = self.scan_level(&level, &mut levels, &mut entries, &mut scan) {
                scan.unreadable.insert(level.name.trim_end_matches('/').into(), error.to_string());
            }
        }
        self.known.retain(|path, _| scan.present.contains(path));
        scan
    }

    fn scan_level(
        &mut self,
        level: &Level,
        levels: &mut Vec<Level>,
        entries: &mut usize,
        scan: &mut Scan,
    ) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&level.path)? {
            *entries += 1;
            if *entries > ENTRIES_MAX || scan.present.len() > FILES_MAX {
                let message = format!("holds more than {FILES_MAX} files or {ENTRIES_MAX} entries");
                return Err(io::Error::other(message));
            }
            // What begins with a dot is an editor's, or the other half of a Kubernetes volume.
            match entry?.file_name().into_string() {
                Ok(name) if !name.starts_with('.') => names.push(name),
                _ => {}
            }
        }
        names.sort_unstable();
        for name in names {
            let path = level.path.join(&name);
            // Follows links: a Kubernetes volume is made of them.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let below = format!("{}{name}", level.name);
            if metadata.is_dir() && level.depth < DEPTH_MAX {
                levels.push(Level { path, name: format!("{below}/"), depth: level.depth + 1 });
            } else if metadata.is_file() && is_document(&name) {
                self.look_at(below.into(), &path, &metadata, scan);
            }
        }
        Ok(())
    }

    fn look_at(&mut self, name: Arc<str>, path: &Path, metadata: &Metadata, scan: &mut Scan) {
        scan.present.insert(Arc::clone(&name));
        let stamp = Stamp::from(metadata);
        let sight = match self.known.get(&name) {
            Some(known) if known.stamp == stamp && known.sight == Sight::Second => return,
            Some(known) if known.stamp == stamp => Sight::Second,
            _ => Sight::First,
        };
        self.known.insert(Arc::clone(&name), Known { stamp, sight });
        scan.read.insert(name, read(path));
    }
}

fn is_document(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    // The file may grow while it is read.
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes; split it"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))
}
