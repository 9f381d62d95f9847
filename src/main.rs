//! The program `spliceway`: parse the command line, do what it says, say how it ended.

use std::process::ExitCode;

use spliceway::cli::{self, Cli, Command, DemoCommand, RunCommand};
use spliceway::daemon::logging;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli) => report(execute(cli)),
        Err(stop) => stop.report(),
    }
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(command) => run(&command),
        Command::Demo(command) => demo(&command),
    }
}

fn run(command: &RunCommand) -> anyhow::Result<()> {
    // Dropped last, so that the last lines are written.
    let _log = logging::start(&command.logging)?;
    // UNIMPLEMENTED: spliceway::daemon::run(&command.config)?;
    anyhow::bail!("run {:?}: unimplemented", command.config)
}

fn demo(command: &DemoCommand) -> anyhow::Result<()> {
    // UNIMPLEMENTED: spliceway::demo::run(&demo::Options { … })?;
    anyhow::bail!("demo {command:?}: unimplemented")
}

/// The exit code, after one line with the whole chain of causes if there is an error.
fn report(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::complain(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
