//! `spliceway reload`, `upgrade`, `drain`, `undrain`, `weight`, `pause` and `resume`: telling a running daemon to
//! change something.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::runtime;

use super::usage;
use super::values::{positive_timeout, timeout};
use crate::commands::{
    ControlCommand, ControlOutcome, ControlReply, EndpointAddress, PAUSE_DEFAULT,
};
use crate::config::RouteName;
use crate::observe::CONTROL_PATH;
use crate::observe::client::{AskError, give};

/// What is to be told, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TellCommand {
    /// The daemon's control socket.
    control: PathBuf,
    command: ControlCommand,
}

/// Whom to tell.
#[derive(Args)]
struct ControlSocket {
    #[arg(
        long,
        value_name = "PATH",
        default_value = CONTROL_PATH,
        help = "Control socket of the daemon."
    )]
    control: PathBuf,
}

/// Which endpoint is meant.
#[derive(Args)]
struct EndpointOfRoute {
    #[arg(
        value_name = "ROUTE",
        help = "Name of the route; without a configuration file it is 'default'."
    )]
    route: RouteName,

    #[arg(
        value_name = "ENDPOINT",
        help = "Address of the endpoint as 'spliceway status' shows it, such as 192.0.2.1:9000."
    )]
    endpoint: EndpointAddress,
}

/// The command line of `spliceway reload`.
#[derive(Args)]
pub(super) struct ReloadArguments {
    #[command(flatten)]
    socket: ControlSocket,
}

/// The command line of `spliceway upgrade`.
#[derive(Args)]
pub(super) struct UpgradeArguments {
    #[command(flatten)]
    socket: ControlSocket,
}

/// The command line of `spliceway drain`.
#[derive(Args)]
pub(super) struct DrainArguments {
    #[command(flatten)]
    of: EndpointOfRoute,

    #[arg(
        long,
        value_name = "TIME",
        value_parser = timeout,
        help = "Return when no connection to it is open any more, or after this time, such as 5m, with exit code 1. \
                The endpoint stays drained. [default: return at once]"
    )]
    wait: Option<Duration>,

    #[command(flatten)]
    socket: ControlSocket,
}

/// The command line of `spliceway undrain`.
#[derive(Args)]
pub(super) struct UndrainArguments {
    #[command(flatten)]
    of: EndpointOfRoute,

    #[command(flatten)]
    socket: ControlSocket,
}

/// The command line of `spliceway weight`.
#[derive(Args)]
pub(super) struct WeightArguments {
    #[command(flatten)]
    of: EndpointOfRoute,

    #[arg(
        value_name = "N",
        value_parser = super::values::count(0..=u16::MAX),
        help = "Weight among the endpoints of its priority, from 1 to 65535. To give it nothing, drain it."
    )]
    weight: u16,

    #[command(flatten)]
    socket: ControlSocket,
}

/// The command line of `spliceway pause`.
#[derive(Args)]
pub(super) struct PauseArguments {
    #[arg(
        value_name = "ROUTE",
        help = "Name of the route; without a configuration file it is 'default'."
    )]
    route: RouteName,

    #[arg(
        long,
        value_name = "TIME",
        value_parser = timeout,
        help = "Return when no connection to its endpoints is open any more, or after this time, such as 30s, with \
                exit code 1. The route stays paused. [default: return at once]"
    )]
    wait: Option<Duration>,

    #[arg(
        long = "for",
        value_name = "TIME",
        value_parser = positive_timeout,
        help = "Resume automatically after this time, in case the deploy dies. [default: 60s]"
    )]
    resume_after: Option<Duration>,

    #[command(flatten)]
    socket: ControlSocket,
}

/// The command line of `spliceway resume`.
#[derive(Args)]
pub(super) struct ResumeArguments {
    #[arg(
        value_name = "ROUTE",
        help = "Name of the route; without a configuration file it is 'default'."
    )]
    route: RouteName,

    #[command(flatten)]
    socket: ControlSocket,
}

impl From<ReloadArguments> for TellCommand {
    fn from(ReloadArguments { socket }: ReloadArguments) -> Self {
        socket.tell(ControlCommand::Reload)
    }
}

impl From<UpgradeArguments> for TellCommand {
    fn from(UpgradeArguments { socket }: UpgradeArguments) -> Self {
        socket.tell(ControlCommand::Upgrade)
    }
}

impl From<DrainArguments> for TellCommand {
    fn from(DrainArguments { of, wait, socket }: DrainArguments) -> Self {
        let EndpointOfRoute { route, endpoint } = of;
        socket.tell(ControlCommand::Drain {
            route,
            endpoint,
            wait,
        })
    }
}

impl From<UndrainArguments> for TellCommand {
    fn from(UndrainArguments { of, socket }: UndrainArguments) -> Self {
        let EndpointOfRoute { route, endpoint } = of;
        socket.tell(ControlCommand::Undrain { route, endpoint })
    }
}

impl From<WeightArguments> for TellCommand {
    fn from(arguments: WeightArguments) -> Self {
        let EndpointOfRoute { route, endpoint } = arguments.of;
        arguments.socket.tell(ControlCommand::Weight {
            route,
            endpoint,
            weight: arguments.weight,
        })
    }
}

impl From<PauseArguments> for TellCommand {
    fn from(arguments: PauseArguments) -> Self {
        arguments.socket.tell(ControlCommand::Pause {
            route: arguments.route,
            wait: arguments.wait,
            resume_after: arguments.resume_after.unwrap_or(PAUSE_DEFAULT),
        })
    }
}

impl From<ResumeArguments> for TellCommand {
    fn from(ResumeArguments { route, socket }: ResumeArguments) -> Self {
        socket.tell(ControlCommand::Resume { route })
    }
}

impl ControlSocket {
    fn tell(self, command: ControlCommand) -> TellCommand {
        TellCommand {
            control: self.control,
            command,
        }
    }
}

/// Why a daemon could not be told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TellError {
    #[error("prepare for a connection")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Has the command carried out, and prints what the daemon says of it: to standard output if it was done, to standard
/// error, as `program`, if it was not.
///
/// # Errors
/// If the daemon cannot be told, or does not answer.
pub fn tell(program: &str, command: &TellCommand) -> Result<Told, TellError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(TellError::Runtime)?;
    let ControlReply { outcome, lines } =
        runtime.block_on(give(&command.control, &command.command))?;
    for line in &lines {
        match outcome {
            // Who does not read what is printed still gets the exit code.
            ControlOutcome::Done => drop(writeln!(io::stdout(), "{}", usage::one_line(line))),
            ControlOutcome::Refused | ControlOutcome::Mistaken => usage::complain(program, line),
        }
    }
    Ok(match outcome {
        ControlOutcome::Done => Told::Done,
        ControlOutcome::Refused => Told::Refused,
        ControlOutcome::Mistaken => Told::Mistaken,
    })
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was carried out.
    Done,
    /// It could not be carried out, or what it waited for did not come.
    Refused,
    /// It is wrong, or the configuration is.
    Mistaken,
}

impl Told {
    /// As `spliceway check` has it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Mistaken => usage::EXIT_USAGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{parse_words, usage_error};
    use crate::cli::{Cli, Command};

    fn told(words: &str) -> TellCommand {
        match parse_words(words) {
            Ok(Cli {
                command: Command::Tell(tell),
            }) => tell,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn each_command_has_its_words() {
        let route = || "php".parse().unwrap();
        let endpoint = || "192.0.2.1:9000".parse().unwrap();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (words, command) in [
            ("reload", ControlCommand::Reload),
            ("upgrade", ControlCommand::Upgrade),
            (
                "drain php 192.0.2.1:9000",
                ControlCommand::Drain {
                    route: route(),
                    endpoint: endpoint(),
                    wait: None,
                },
            ),
            (
                "drain php 192.0.2.1:9000 --wait 5m",
                ControlCommand::Drain {
                    route: route(),
                    endpoint: endpoint(),
                    wait: Some(minutes(5)),
                },
            ),
            (
                "undrain php 192.0.2.1:9000",
                ControlCommand::Undrain {
                    route: route(),
                    endpoint: endpoint(),
                },
            ),
            (
                "weight php 192.0.2.1:9000 3",
                ControlCommand::Weight {
                    route: route(),
                    endpoint: endpoint(),
                    weight: 3,
                },
            ),
            (
                "pause php",
                ControlCommand::Pause {
                    route: route(),
                    wait: None,
                    resume_after: minutes(1),
                },
            ),
            (
                "pause --wait 0s --for 2m php",
                ControlCommand::Pause {
                    route: route(),
                    wait: Some(Duration::ZERO),
                    resume_after: minutes(2),
                },
            ),
            ("resume php", ControlCommand::Resume { route: route() }),
        ] {
            assert_eq!(told(words).command, command, "{words}");
            assert_eq!(told(words).control, PathBuf::from(CONTROL_PATH));
            let elsewhere = told(&format!("{words} --control /run/c.sock"));
            assert_eq!(elsewhere.control, PathBuf::from("/run/c.sock"));
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused_in_one_line() {
        for (words, problem) in [
            ("reload now", "unexpected argument 'now'"),
            ("upgrade now", "unexpected argument 'now'"),
            ("upgrade --wait 1m", "unexpected argument '--wait'"),
            ("drain", "missing required option: <ROUTE>"),
            ("drain php", "missing required option: <ENDPOINT>"),
            (
                "drain a/b 192.0.2.1:9000",
                "cannot be in the name of a route",
            ),
            (
                "undrain php app.internal:9000",
                "not an endpoint (write it as",
            ),
            ("weight php 192.0.2.1:9000", "missing required option: <N>"),
            (
                "weight php 192.0.2.1:9000 65536",
                "not a whole number from 0 to 65535",
            ),
            ("drain php 192.0.2.1:9000 --wait soon", "--wait"),
            ("pause php --for 0s", "no time at all"),
            ("pause php --for 2years", "too long"),
            ("pause php --for off", "--for"),
            ("resume php --wait 1s", "unexpected argument '--wait'"),
        ] {
            let error = usage_error(words);
            assert!(error.contains(problem), "{words}: {error}");
        }
    }
}
