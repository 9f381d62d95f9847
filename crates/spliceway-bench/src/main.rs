//! The program `spliceway-bench`: measures what a proxy costs.

mod address;
mod cli;
mod compare;
mod hgrm;
mod load;
mod progress;
mod reference;
mod relay;
mod report;
mod respond;

use std::process::ExitCode;

use cli::Command;
use spliceway::cli::usage;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(command) => usage::report(cli::PROGRAM, execute(command)),
        Err(stop) => stop.report(),
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Compare(args) => compare::run(&args),
        Command::Load(args) => load::run(*args),
        Command::Reference(args) => reference::run(&args),
        Command::Relay(args) => relay::run(&args),
        Command::Respond(args) => respond::run(args),
    }
}
