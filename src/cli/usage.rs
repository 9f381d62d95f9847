//! What both programs do with a command line that it cannot run: one line on
//! standard error, and the exit code that most programs have for it.
//!
//! clap reads the arguments, but its errors span several lines; logs and supervisors keep one, so
//! they are rendered anew here.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Parser};

use super::file::FileErrors;
use crate::shown::Shown;

/// The exit code for a command line that cannot be run, as most programs have it.
pub(super) const EXIT_USAGE: u8 = 2;

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Stop {
    /// The help or the version was asked for: it goes to standard output, exit code 0.
    Answer(String),
    /// There were no arguments at all: the help goes to standard error, exit code 2.
    NoArguments(String),
    /// The arguments are wrong: one line goes to standard error, exit code 2.
    Usage(UsageError),
    /// The configuration file is wrong: a line for each mistake goes to standard error, exit code 2.
    File(FileErrors),
}

/// What is wrong with the arguments, and how to write them right, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; see '{help}'")]
pub struct UsageError {
    program: String,
    problem: String,
    /// The command that prints the reference of what was attempted.
    help: String,
}

/// Reads a command line, of which the first argument is the name of the program.
///
/// # Errors
/// If there is nothing to run; [`Stop::report`] says so to the user.
pub fn parse<A: Parser>(arguments: &[OsString]) -> Result<A, Stop> {
    parse_with_matches(arguments).map(|(parsed, _)| parsed)
}

/// The same, with clap's own view of it: which options were given, and in which words.
///
/// # Errors
/// As [`parse`].
pub fn parse_with_matches<A: Parser>(arguments: &[OsString]) -> Result<(A, ArgMatches), Stop> {
    let command = super::groups::grouped(A::command());
    let matches = command.try_get_matches_from(arguments);
    let parsed = matches.and_then(|matches| Ok((A::from_arg_matches(&matches)?, matches)));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Answer(error.to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Stop::NoArguments(error.to_string()),
        _ => refuse::<A>(arguments, describe(&error)),
    })
}

/// Refuses arguments that clap has taken, for what concerns several of them at once.
#[must_use]
pub fn refuse<A: Parser>(arguments: &[OsString], problem: String) -> Stop {
    Stop::Usage(UsageError {
        program: A::command().get_name().to_owned(),
        problem,
        help: help_command::<A>(arguments),
    })
}

impl Stop {
    /// Tells the user and returns the exit code.
    pub fn report(&self) -> ExitCode {
        // Nobody can be told that nobody can be told: failures to write are ignored.
        match self {
            Self::Answer(text) => {
                let _ = io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Self::NoArguments(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
                ExitCode::from(EXIT_USAGE)
            }
            Self::Usage(error) => {
                complain(&error.program, error);
                ExitCode::from(EXIT_USAGE)
            }
            Self::File(errors) => {
                let priority = priority();
                for line in errors.lines() {
                    let _ = writeln!(io::stderr(), "{priority}{line}");
                }
                ExitCode::from(EXIT_USAGE)
            }
        }
    }
}

/// The exit code of a program that ran, after one line with the whole chain of causes if it failed.
pub fn report(program: &str, outcome: Result<(), impl fmt::Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The alternate form of an error that has causes prints all of them.
            complain(program, &format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes `PROGRAM: PROBLEM` to standard error, as one line whatever the problem contains.
pub fn complain(program: &str, problem: &impl fmt::Display) {
    let _ = writeln!(
        io::stderr(),
        "{}{program}: {}",
        priority(),
        one_line(&problem.to_string())
    );
}

/// What makes a line an error to the journal; nothing anywhere else.
fn priority() -> &'static str {
    if leads_to_journal() { "<3>" } else { "" }
}

/// Whether standard error is the journal, which takes a priority off the beginning of a line. systemd names its
/// stream by device and inode (systemd.exec(5), `$JOURNAL_STREAM`).
fn leads_to_journal() -> bool {
    let Some(journal) = env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let stderr = io::stderr().as_fd().try_clone_to_owned();
    let found = stderr.and_then(|stderr| File::from(stderr).metadata());
    found.is_ok_and(|found| journal == *format!("{}:{}", found.dev(), found.ino()))
}

/// Shows what would end the line, or drive a terminal, by its escape.
pub(super) fn one_line(text: &str) -> String {
    Shown::line(text.as_bytes(), usize::MAX).to_string()
}

/// Which help has what the user was about to write.
fn help_command<A: Parser>(arguments: &[OsString]) -> String {
    let command = A::command();
    let attempted = arguments.get(1).and_then(|argument| argument.to_str());
    match attempted.and_then(|name| command.find_subcommand(name)) {
        Some(subcommand) => format!("{} {} --help", command.get_name(), subcommand.get_name()),
        None => format!("{} --help", command.get_name()),
    }
}

/// What clap found, in one line without its remedy at the end.
fn describe(error: &clap::Error) -> String {
    let part = |kind| context(error, kind);
    let argument = part(ContextKind::InvalidArg);
    let value = part(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("'{argument}': {}", cause(error))
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            format!("invalid value '{value}' for '{argument}': {}", cause(error))
        }
        ErrorKind::UnknownArgument => {
            format!(
                "unexpected argument '{argument}'{}",
                suggestion(error, ContextKind::SuggestedArg)
            )
        }
        ErrorKind::InvalidSubcommand => {
            let command = part(ContextKind::InvalidSubcommand);
            let suggestion = suggestion(error, ContextKind::SuggestedSubcommand);
            format!("unknown command '{command}'{suggestion}")
        }
        ErrorKind::MissingRequiredArgument => format!("missing required option: {argument}"),
        ErrorKind::ArgumentConflict if part(ContextKind::PriorArg) == argument => {
            format!("'{argument}': given more than once (remove all but one)")
        }
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8 (use another name)".to_owned(),
        _ => first_line(error),
    }
}

/// Why a value is refused, without the names of the option and the value.
pub(super) fn cause(error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::ValueValidation => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            cause.unwrap_or_default()
        }
        ErrorKind::InvalidValue if context(error, ContextKind::InvalidValue).is_empty() => {
            "the value is missing".to_owned()
        }
        ErrorKind::InvalidValue => {
            let valid = context(error, ContextKind::ValidValue);
            format!("unknown (write {valid})")
        }
        ErrorKind::UnknownArgument => {
            let word = context(error, ContextKind::InvalidArg);
            format!("unexpected word '{word}' (remove it)")
        }
        _ => first_line(error),
    }
}

/// The options that are required and not there, such as `--listen <ADDRESS>`.
pub(super) fn missing_options(error: &clap::Error) -> Vec<String> {
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(options))) => {
            options.clone()
        }
        _ => Vec::new(),
    }
}

fn suggestion(error: &clap::Error, kind: ContextKind) -> String {
    let similar = match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    match &similar[..] {
        [] => String::new(),
        [one] => format!(" (a similar one is '{one}')"),
        several => format!(" (similar ones are '{}')", several.join("' and '")),
    }
}

/// What clap's error says of this kind; several things are listed with commas.
fn context(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    }
}

/// For what has no words of ours: clap's own first line.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
