//! How much memory and how many descriptors this process uses, of how many it may.
//!
//! Where the process's own cgroup has a limit, its working set counts: all that the kernel would kill for,
//! without file cache, which it would drop first. Else what is resident of this process counts, against
//! the nearest limit around it or the memory of the machine: what others use there is not ours to shed for.

use std::fs;
use std::path::{Path, PathBuf};

use crate::listener::accept::descriptors;

/// Used, and the limit; none where the system does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub memory: Option<Share>,
    pub descriptors: Option<Share>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub used: u64,
    pub limit: u64,
}

impl Share {
    pub fn ratio(self) -> f64 {
        self.used as f64 / self.limit.max(1) as f64
    }
}

/// Where to look, found once: cgroups and limits of a process do not change their place.
#[derive(Debug)]
pub(super) struct Gauge {
    memory_limit: Option<u64>,
    working_set: Option<Cgroup>,
    descriptors_max: Option<u64>,
}

/// Files of a cgroup that has a limit of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cgroup {
    directory: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Gauge {
    /// `given` stands in for the limit that the system has.
    pub(super) fn of_this_process(given: Option<u64>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let own = own_cgroup(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
        let machine = kilobytes(&read("/proc/meminfo"), "MemTotal:");
        let limit_of_own = own.as_ref().and_then(Cgroup::limit);
        let around = own.as_ref().and_then(Cgroup::nearest_limit);
        let limit = [limit_of_own, around, machine].into_iter().flatten().min();
        Self {
            memory_limit: given.or(limit),
            working_set: own.filter(|_| given.is_none() && limit_of_own.is_some() && limit_of_own == limit),
            descriptors_max: descriptors(&read("/proc/self/limits")).map(|max| max as u64),
        }
    }

    pub(super) fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    pub(super) fn usage(&self) -> Usage {
        let used = match &self.working_set {
            Some(cgroup) => cgroup.working_set(),
            None => kilobytes(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS:"),
        };
        let share = |used: Option<u64>, limit: Option<u64>| Some(Share { used: used?, limit: limit? });
        Usage {
            memory: share(used, self.memory_limit),
            descriptors: share(open_descriptors(), self.descriptors_max),
        }
    }
}

impl Cgroup {
    fn limit(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join(match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        }));
        limit(&text.ok()?)
    }

    /// The least limit of those around it.
    fn nearest_limit(&self) -> Option<u64> {
        let parents = self.directory.ancestors().skip(1).take(DEPTH_MAX);
        let limits = parents.filter_map(|directory| {
            Self { directory: directory.to_path_buf(), version: self.version }.limit()
        });
        limits.min()
    }

    fn working_set(&self) -> Option<u64> {
        let (usage, cache) = match self.version {
            Version::One => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::Two => ("memory.current", "inactive_file"),
        };
        let usage: u64 = fs::read_to_string(self.directory.join(usage)).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(self.directory.join("memory.stat")).unwrap_or_default();
        Some(usage.saturating_sub(field(&stat, cache).unwrap_or_default()))
    }
}

/// The memory cgroup that a process belongs to, by its `/proc/self/cgroup`.
///
/// In a container the path is often one of the host, while the mount shows only the container's own.
fn own_cgroup(text: &str, mounted: &Path) -> Option<Cgroup> {
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?.trim_start_matches('/')))
    });
    let candidates = lines.flat_map(|(controllers, path)| {
        let (root, version) = match controllers {
            "" => (mounted.to_path_buf(), Version::Two),
            named if named.split(',').any(|name| name == "memory") => (mounted.join("memory"), Version::One),
            _ => return Vec::new(),
        };
        let at = |directory| Cgroup { directory, version };
        vec![at(root.join(path)), at(root)]
    });
    let exists = |cgroup: &Cgroup| {
        let file = match cgroup.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        cgroup.directory.join(file).is_file()
    };
    candidates.into_iter().find(exists)
}

/// None for `max`, and for the huge number that version 1 writes instead.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

/// `VmRSS:     1234 kB` in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    field(text, name).map(|kilobytes| kilobytes.saturating_mul(1024))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_descriptors() -> Option<u64> {
    // Newer kernels say the number as the size; older ones want them counted.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        open => Some(open),
    }
}

const UNLIMITED: u64 = 1 << 60;
/// Cgroups nest a few levels.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files as the kernel shows them.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_working_set_leaves_out_what_the_kernel_would_drop() {
        for (listed, files, limit, used) in [
            (
                "0::/kube/pod\n",
                vec![
                    ("kube/pod/memory.max", "1000\n"),
                    ("kube/pod/memory.current", "700\n"),
                    ("kube/pod/memory.stat", "anon 500\ninactive_file 150\n"),
                ],
                Some(1000),
                Some(550),
            ),
            // A container that sees only its own part of the tree.
            ("0::/kube/pod\n", vec![("memory.max", "max\n"), ("memory.current", "7\n")], None, Some(7)),
            (
                "12:cpu,cpuacct:/\n4:memory:/a/b\n0::/\n",
                vec![
                    ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
                    ("memory/a/b/memory.usage_in_bytes", "900\n"),
                    ("memory/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n"),
                ],
                None,
                Some(800),
            ),
        ] {
            let root = tree(&files);
            let cgroup = own_cgroup(listed, root.path()).unwrap();
            assert_eq!((cgroup.limit(), cgroup.working_set()), (limit, used), "{listed}");
        }
    }

    #[test]
    fn the_least_limit_around_counts() {
        let root = tree(&[
            ("a/memory.max", "5000"),
            ("a/b/memory.max", "3000"),
            ("a/b/c/memory.max", "max"),
            ("a/b/c/memory.current", "1"),
        ]);
        let cgroup = own_cgroup("0::/a/b/c", root.path()).unwrap();
        assert_eq!((cgroup.limit(), cgroup.nearest_limit()), (None, Some(3000)));
        assert_eq!(own_cgroup("", root.path()), None);
        assert_eq!(own_cgroup("nonsense\n1:cpu:/a", root.path()), None);
    }

    #[test]
    fn a_process_knows_its_own() {
        let gauge = Gauge::of_this_process(None);
        let usage = gauge.usage();
        let memory = usage.memory.expect("Linux says so");
        assert!(memory.used > 0 && memory.used < memory.limit, "{memory:?}");
        let descriptors = usage.descriptors.expect("Linux says so");
        assert!(descriptors.used > 0 && descriptors.used <= descriptors.limit, "{descriptors:?}");
        let given = Gauge::of_this_process(Some(1 << 20)).usage().memory.unwrap();
        assert!(given.limit == 1 << 20 && given.ratio() > 1.0, "{given:?}");
    }
}
