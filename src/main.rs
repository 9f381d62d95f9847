//! The program `spliceway`: parse the command line, do what it says, say how it ended.

use std::process::ExitCode;

use spliceway::cli::{self, Cli, Command, DemoCommand, RunCommand, usage};
use spliceway::daemon::{self, logging};
use spliceway::demo;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli) => usage::report("spliceway", execute(cli)),
        Err(stop) => stop.report(),
    }
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(command) => run(&command),
        Command::Status(command) => Ok(cli::status::run(&command)?),
        Command::Demo(command) => run_demo(&command),
    }
}

fn run(command: &RunCommand) -> anyhow::Result<()> {
    // Dropped last, so that the last lines are written.
    let _log = logging::start(&command.logging)?;
    daemon::run(&command.config)?;
    Ok(())
}

fn run_demo(command: &DemoCommand) -> anyhow::Result<()> {
    demo::run(&demo::Options {
        duration: command.duration,
        concurrency: command.concurrency.get(),
        engine: command.engine,
    })?;
    Ok(())
}
