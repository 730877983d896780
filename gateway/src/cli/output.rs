//! How the command prints: tables for people, JSON for scripts, errors on standard error.
//!
//! A reader that has seen enough (`isthmus get | head`) is no error.

use std::io::{self, Write};

use serde::Serialize;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Prints a line.
pub(super) fn line(text: impl AsRef<str>) {
    put(io::stdout().lock(), text.as_ref());
}

/// Prints a line beside the answer: progress, warnings, advice.
pub(super) fn note(text: impl AsRef<str>) {
    put(io::stderr().lock(), text.as_ref());
}

/// Nobody is left to be told that nobody listens.
fn put(mut output: impl Write, text: &str) {
    let _unheard = writeln!(output, "{text}");
}

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints rows under their headings, each column as wide as it must be.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    print_row(&headings, &widths);
    for row in rows {
        print_row(&row.each_ref().map(String::as_str), &widths);
    }
}

fn print_row<const N: usize>(cells: &[&str; N], widths: &[usize; N]) {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    line(padded.collect::<Vec<_>>().join("  ").trim_end());
}

/// Prints an error with its causes, and a hint where the cause has one.
pub(super) fn error(error: &anyhow::Error) {
    note(format!("isthmus: {}", with_causes(error)));
}

/// Many of our errors say their cause themselves; it is not said twice.
fn with_causes(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said.push_str(": ");
            said.push_str(&cause);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let io = || std::io::Error::other("no space left");
        let apart = anyhow!(io()).context("cannot write a");
        assert_eq!(with_causes(&apart), "cannot write a: no space left");
        let within = anyhow!(io()).context("cannot write a: no space left; hint: make room");
        assert_eq!(with_causes(&within), "cannot write a: no space left; hint: make room");
    }
}
