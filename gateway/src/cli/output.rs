//! How the command prints: tables for people, JSON for scripts, errors on standard error.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command does")]

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
    println!("{}", text.as_ref());
}

/// Prints a line beside the answer: progress, warnings, advice.
pub(super) fn note(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
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
    println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
}

/// Prints an error with its causes, and a hint where the cause has one.
pub(super) fn error(error: &anyhow::Error) {
    eprintln!("isthmus: {error:#}");
}
