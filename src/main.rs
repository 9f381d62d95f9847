//! The program `spliceway`: parse the command line, do what it says, say how it ended.

use std::io::{self, Write as _};
use std::process::ExitCode;

#[cfg(feature = "demo")]
use spliceway::cli::DemoCommand;
use spliceway::cli::{
    self, CheckCommand, Cli, Command, RequestsCommand, RunCommand, StatusCommand, TellCommand,
    usage,
};
use spliceway::daemon::{self, Handover, logging, scarcity};
#[cfg(feature = "demo")]
use spliceway::demo;

const PROGRAM: &str = "spliceway";

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli) => execute(cli),
        Err(stop) => stop.report(),
    }
}

fn execute(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(command) => {
            let outcome = scarcity::with_panics_of_libraries_as_errors(|| run(&command));
            usage::report(PROGRAM, outcome)
        }
        Command::Check(command) => match check(&command) {
            Ok(code) => code,
            Err(error) => usage::report(PROGRAM, Err(error)),
        },
        Command::Status(command) => usage::report(PROGRAM, status(&command)),
        Command::Requests(command) => usage::report(PROGRAM, requests(&command)),
        #[cfg(feature = "top")]
        Command::Top(command) => usage::report(PROGRAM, top(&command)),
        Command::Tell(command) => match tell(&command) {
            Ok(code) => code,
            Err(error) => usage::report(PROGRAM, Err(error)),
        },
        #[cfg(feature = "demo")]
        Command::Demo(command) => usage::report(PROGRAM, run_demo(&command)),
    }
}

fn run(command: &RunCommand) -> anyhow::Result<()> {
    // Before the log, which starts a thread.
    let handover = Handover::take()?.taking_over(command.take_over.clone());
    // Before there is any thread.
    daemon::renounce(&command.config)?;
    // Dropped last, so that the last lines are written.
    let _log = logging::start(&command.logging)?;
    let again = command.clone();
    let read_again = move || match again.read_again() {
        Ok(command) => Ok(command.loaded()),
        Err(errors) => Err(errors.lines().map(str::to_owned).collect()),
    };
    daemon::run(command.loaded(), Box::new(read_again), handover)?;
    Ok(())
}

/// The exit code says whether something stands in the way.
fn check(command: &CheckCommand) -> anyhow::Result<ExitCode> {
    let _log = logging::start(&command.run.logging)?;
    let mut out = io::stdout().lock();
    // Who does not read what is printed still gets the exit code.
    let effective = &command.run.effective;
    let _ = write!(
        out,
        "{}\n# The hash of this configuration: {}\n",
        effective.text(),
        effective.hash()
    );
    let obstacles = daemon::check::run(&command.run.config, &mut out)?;
    for obstacle in &obstacles {
        usage::complain(PROGRAM, obstacle);
    }
    Ok(match obstacles.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn status(command: &StatusCommand) -> anyhow::Result<()> {
    cli::status::run(command)?;
    Ok(())
}

fn requests(command: &RequestsCommand) -> anyhow::Result<()> {
    cli::requests::run(command)?;
    Ok(())
}

#[cfg(feature = "top")]
fn top(command: &cli::top::TopCommand) -> anyhow::Result<()> {
    cli::top::run(command)?;
    Ok(())
}

/// The exit code says whether it was done.
fn tell(command: &TellCommand) -> anyhow::Result<ExitCode> {
    let told = cli::control::tell(PROGRAM, command)?;
    Ok(ExitCode::from(told.exit_code()))
}

#[cfg(feature = "demo")]
fn run_demo(command: &DemoCommand) -> anyhow::Result<()> {
    demo::run(&demo::Options {
        duration: command.duration,
        concurrency: command.concurrency.get(),
        engine: command.engine,
    })?;
    Ok(())
}
