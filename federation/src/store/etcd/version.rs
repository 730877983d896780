//! Which etcd answers, and is it one to work with (notes/trust 7.2).

use std::fmt;

/// Below these, users of an etcd with roles can do more than they may.
const FIXED: [(u32, u32, u32); 3] = [(3, 4, 44), (3, 5, 30), (3, 6, 11)];
/// Older ones have no progress requests on a watch.
const OLDEST: (u32, u32) = (3, 4);
/// From these on a progress notification never overtakes a change (etcd#15220).
const EXACT_PROGRESS: [(u32, u32, u32); 2] = [(3, 4, 25), (3, 5, 8)];

/// The version that a member tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionVerdict {
    Good,
    /// Works, but has known holes; the text says from which version on it has not.
    Unfixed(&'static str),
    TooOld,
}

impl ServerVersion {
    /// Reads `3.6.11`, also with something after it; `None` for what is no version.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.split(['-', '+']).next()?;
        let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
        let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(Self { major, minor, patch })
    }

    pub fn verdict(&self) -> VersionVerdict {
        if (self.major, self.minor) < OLDEST {
            return VersionVerdict::TooOld;
        }
        if self.has(&FIXED) {
            VersionVerdict::Good
        } else {
            VersionVerdict::Unfixed("3.6.11, 3.5.30 or 3.4.44")
        }
    }

    pub(super) fn progress_is_exact(&self) -> bool {
        self.has(&EXACT_PROGRESS)
    }

    /// Is it at least the patch of its own minor version, or of a later minor than all of them?
    fn has(&self, since: &[(u32, u32, u32)]) -> bool {
        let minor = (self.major, self.minor);
        match since.iter().find(|fixed| (fixed.0, fixed.1) == minor) {
            Some(fixed) => self.patch >= fixed.2,
            None => since.iter().all(|fixed| (fixed.0, fixed.1) < minor),
        }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_the_fixed_ones_are_warned_about() {
        use VersionVerdict::{Good, TooOld};
        const UNFIXED: VersionVerdict = VersionVerdict::Unfixed("3.6.11, 3.5.30 or 3.4.44");
        for (text, verdict, exact) in [
            ("2.3.8", TooOld, false),
            ("3.3.27", TooOld, false),
            ("3.4.23", UNFIXED, false),
            ("3.4.43", UNFIXED, true),
            ("3.4.44", Good, true),
            ("3.5.7", UNFIXED, false),
            ("3.5.29", UNFIXED, true),
            ("3.5.30", Good, true),
            ("3.6.0-rc.1", UNFIXED, true),
            ("3.6.11", Good, true),
            ("3.7.0", Good, true),
            ("4.0.0", Good, true),
        ] {
            let version = ServerVersion::parse(text).unwrap();
            assert_eq!((version.verdict(), version.progress_is_exact()), (verdict, exact), "{text}");
        }
    }

    #[test]
    fn what_is_no_version_is_not_read() {
        for text in ["", "3", "3.4", "3.4.x", "3.4.5.6", "-3.4.5", "3.4.99999999999"] {
            assert_eq!(ServerVersion::parse(text), None, "{text}");
        }
    }
}
