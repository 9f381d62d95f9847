//! The options as data: what a configuration file may say, and how it says it.
//!
//! The definitions are clap's, those of the command line, so that there is one of each. A key of the
//! file is turned into the words that would stand on the command line, and the same parser takes or
//! refuses them.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command};

use super::class::ClassArguments;
use super::daemon::DaemonArguments;
use super::route::RouteArguments;

/// The option that names the file. With it, nothing is required on the command line; the definitions
/// of a route refer to it.
pub(super) const CONFIG: &str = "config";

/// How alike a key and a mistyped one are at least: clap's own figure, so that files and command lines
/// get the same suggestions.
const SIMILARITY_MIN: f64 = 0.7;

/// The options that may stand together.
pub(super) struct Options {
    command: Command,
    keys: Vec<String>,
}

/// How the value of an option is written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`
    Flag,
    /// A whole number.
    Number,
    /// A string.
    Text,
    /// A string of several words, such as `"close-after 30s"`.
    Words,
    /// A string, or an array of some.
    List,
}

impl Options {
    /// Those of the daemon.
    pub(super) fn of_daemon() -> Self {
        Self::new::<DaemonArguments>()
    }

    /// Those of a route.
    pub(super) fn of_route() -> Self {
        Self::new::<RouteArguments>()
    }

    /// Those of a class of requests, which only a file has.
    pub(super) fn of_class() -> Self {
        Self::new::<ClassArguments>()
    }

    fn new<A: Args>() -> Self {
        let command = A::augment_args(Command::new("file"));
        let keys = command.get_arguments().filter_map(Arg::get_long);
        Self {
            keys: keys.map(str::to_owned).collect(),
            command,
        }
    }

    /// In the order of the help.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arg> {
        self.command.get_arguments()
    }

    pub(super) fn find(&self, key: &str) -> Option<&Arg> {
        self.all().find(|option| option.get_long() == Some(key))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// Parses the words of several options; those that are required must be there.
    pub(super) fn parse(&self, words: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
        alone(self.command.clone())
            .arg(config())
            .try_get_matches_from(words)
    }
}

/// Parses the words of one option.
pub(super) fn check(option: &Arg, words: &[OsString]) -> Result<(), clap::Error> {
    let nothing_is_required = OsString::from("--config=");
    let words = std::iter::once(&nothing_is_required).chain(words);
    let command = alone(Command::new("file"))
        .arg(option.clone())
        .arg(config());
    command.try_get_matches_from(words).map(drop)
}

fn alone(command: Command) -> Command {
    command
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
}

/// The definitions of a route refer to this option, so it must be there.
fn config() -> Arg {
    Arg::new(CONFIG).long(CONFIG)
}

pub(super) fn kind(option: &Arg) -> Kind {
    let several_words = option.get_num_args().is_some_and(|n| n.max_values() > 1);
    match option.get_action() {
        ArgAction::SetTrue => Kind::Flag,
        _ if several_words => Kind::Words,
        ArgAction::Append => Kind::List,
        _ if matches!(value_name(option).split('|').next(), Some("N")) => Kind::Number,
        _ => Kind::Text,
    }
}

/// What the help calls the value: "N" and "N|off" are numbers, "DURATION" and "DURATION|off" times.
pub(super) fn value_name(option: &Arg) -> &str {
    let names = option.get_value_names().unwrap_or_default();
    names.first().map_or("", |name| name.as_str())
}

/// What the option does unless it is given, where only the help says so.
pub(super) fn default_in_words(option: &Arg) -> Option<String> {
    let help = option.get_help()?.to_string();
    let (_, default) = help.rsplit_once("[default: ")?;
    Some(default.strip_suffix(']')?.to_owned())
}

/// The key that was probably meant, and how alike the two are, from 0 to 1.
pub(super) fn similar<'a>(
    key: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<(f64, &'a str)> {
    let rated = candidates.into_iter().map(|c| (strsim::jaro(key, c), c));
    let alike = rated.filter(|(similarity, _)| *similarity > SIMILARITY_MIN);
    alike.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// A message about options, for a reader of a file: its keys have no hyphens in front.
pub(super) fn in_words_of_a_file(message: &str) -> String {
    let mut words = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((before, after)) = rest.split_once("--") {
        let is_option = words.is_empty() && before.is_empty() || before.ends_with([' ', '\'', '(']);
        words.push_str(before);
        if !(is_option && after.starts_with(|c: char| c.is_ascii_lowercase())) {
            words.push_str("--");
        }
        rest = after;
    }
    words + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(key: &str) -> Kind {
        let (daemon, route) = (Options::of_daemon(), Options::of_route());
        kind(daemon.find(key).or_else(|| route.find(key)).unwrap())
    }

    #[test]
    fn every_option_has_a_form_in_files() {
        for (key, expected) in [
            ("pin", Kind::Flag),
            ("workers", Kind::Number),
            ("per-endpoint-max", Kind::Number),
            ("eject-after", Kind::Number),
            ("mode", Kind::Text),
            ("connect-timeout", Kind::Text),
            ("nameserver", Kind::List),
            ("removed-endpoint", Kind::Words),
        ] {
            assert_eq!(kind_of(key), expected, "{key}");
        }
    }

    #[test]
    fn what_has_no_default_says_in_its_help_what_happens() {
        for options in [
            Options::of_daemon(),
            Options::of_route(),
            Options::of_class(),
        ] {
            for option in options.all() {
                let key = option.get_long().unwrap();
                let has_default = !option.get_default_values().is_empty();
                let says = default_in_words(option).is_some();
                let is_known = matches!(kind(option), Kind::Flag) || has_default || says;
                assert!(is_known || ["listen", "backend"].contains(&key), "{key}");
            }
        }
    }

    #[test]
    fn mistyped_keys_are_recognised() {
        let options = Options::of_route();
        for (typed, meant) in [
            ("conect-timeout", Some("connect-timeout")),
            ("connect_timeout", Some("connect-timeout")),
            ("backends", Some("backend")),
            ("zzz", None),
        ] {
            let similar = similar(typed, options.keys()).map(|(_, key)| key);
            assert_eq!(similar, meant, "{typed}");
        }
    }

    #[test]
    fn messages_lose_the_hyphens_of_options_only() {
        for (message, expected) in [
            ("--a-b x with --c: d (use --e)", "a-b x with c: d (use e)"),
            ("for '--a': b", "for 'a': b"),
            ("a--b -- c", "a--b -- c"),
        ] {
            assert_eq!(in_words_of_a_file(message), expected);
        }
    }
}
