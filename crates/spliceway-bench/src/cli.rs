//! The command line: which subcommands there are. Each has its arguments beside what it does.

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser, Subcommand};
use spliceway::cli::usage::{self, Stop};

use crate::compare::CompareArgs;
use crate::load::LoadArgs;
use crate::reference::ReferenceArgs;
use crate::relay::RelayArgs;
use crate::respond::RespondArgs;

/// The program's name, which every line of its errors begins with.
pub(crate) const PROGRAM: &str = "spliceway-bench";

#[derive(Parser)]
#[command(
    name = PROGRAM,
    version,
    about = "Measures what a proxy between FastCGI clients and backends costs.",
    after_help = "'spliceway-bench load --help' lists what a load can be told."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What the program can do.
#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(
        about = "Compare every proxy that is installed, and write a report with plots.",
        long_about = "Start a FastCGI responder and every proxy that is found on this machine, send \
                      the same requests through each of them in interleaved rounds, and write a \
                      report with plots. Where that is allowed, everything runs in a network \
                      namespace of its own; nothing outside this machine is contacted."
    )]
    Compare(Box<CompareArgs>),
    #[command(about = "Send FastCGI requests, check every answer, and report the latencies.")]
    Load(Box<LoadArgs>),
    #[command(about = "Answer FastCGI requests as PHP-FPM would, until told to stop.")]
    Respond(RespondArgs),
    #[command(about = "Relay a Unix socket to a TCP backend with tokio-uring, as a baseline.")]
    Relay(RelayArgs),
    #[command(
        about = "Write the manual pages and shell completions of both programs.",
        hide = true
    )]
    Reference(ReferenceArgs),
}

/// The definition of the command line.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the command line of this process.
pub(crate) fn parse() -> Result<Command, Stop> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed: Arguments = usage::parse(&arguments)?;
    let checked = match &parsed.command {
        Command::Compare(args) => args.check(),
        Command::Load(args) => args.check(),
        Command::Reference(_) | Command::Relay(_) => Ok(()),
        Command::Respond(args) => args.check(),
    };
    checked.map_err(|problem| usage::refuse::<Arguments>(&arguments, problem))?;
    Ok(parsed.command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }
}
