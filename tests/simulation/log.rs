//! What happened, in order: the same seed writes the same log.

use std::fmt;

/// The last lines of a long run say how it came to the end.
const LINES_SHOWN: usize = 60;

#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Vec<String>,
    digest: u64,
}

impl Log {
    pub(crate) fn say(&mut self, now: u64, line: fmt::Arguments<'_>) {
        let line = format!("{:>8}.{:03} {line}", now / 1000, now % 1000);
        // FNV-1a: order counts, and it is the same on every machine.
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push(line);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The last lines that speak of a cluster; all lines without one.
    pub(crate) fn tail(&self, about: &str) -> String {
        let wanted: Vec<_> =
            self.lines.iter().filter(|line| about.is_empty() || line.contains(about)).collect();
        let from = if about.is_empty() { 0 } else { wanted.len().saturating_sub(LINES_SHOWN) };
        wanted[from..].iter().map(|line| format!("{line}\n")).collect()
    }
}
