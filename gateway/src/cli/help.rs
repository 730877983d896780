//! The help of every command as one text; committed under `deploy/reference`.

use std::fmt::Write;

use clap::CommandFactory;

use super::command::Cli;

/// A page that fits everywhere.
const HELP_WIDTH: usize = 100;

/// What `--help` prints, command by command.
pub fn help() -> String {
    let mut command = Cli::command().term_width(HELP_WIDTH);
    // Tells every subcommand what it is called as a whole.
    command.build();
    let mut text = String::new();
    describe(&mut command, "isthmus", &mut text);
    text
}

fn describe(command: &mut clap::Command, path: &str, text: &mut String) {
    let _infallible = writeln!(text, "==== {path}\n{}", command.render_long_help().to_string().trim_end());
    for subcommand in command.get_subcommands_mut().filter(|subcommand| subcommand.get_name() != "help") {
        let path = format!("{path} {}", subcommand.get_name());
        describe(subcommand, &path, text);
    }
}
