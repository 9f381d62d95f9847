//! The generated parts of docs/options.md.

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::groups::{HEADINGS, grouped};
use super::options::{Kind, Options, default_in_words, kind};
use crate::generated::{assert_part, cell};

const PAGE: &str = "docs/options.md";

/// Where there is more to read about an option.
const MORE: &[(&str, &str)] = &[
    ("config", "#configuration-file"),
    ("take-over", "changing.md#upgrade"),
    ("listen", "running.md#sockets"),
    ("allow-user", "access.md"),
    ("allow-group", "access.md"),
    ("protocol", "fastcgi.md"),
    ("refused-timeout", "names-and-failover.md#failover"),
    ("balance", "names-and-failover.md#balancing"),
    ("eject-after", "names-and-failover.md#failover"),
    ("check", "names-and-failover.md#active-checks"),
    (
        "when-down",
        "names-and-failover.md#when-every-endpoint-is-down",
    ),
    (
        "removed-endpoint",
        "names-and-failover.md#removed-endpoints",
    ),
    ("proxy-protocol", "relaying.md#proxy-protocol"),
    ("source-address", "limits-and-overload.md#local-ports"),
    ("dns-max-ttl", "names-and-failover.md#names"),
    ("dns-negative-hold", "names-and-failover.md#names"),
    ("per-endpoint-max", "fastcgi.md#how-many-connections"),
    ("queue-order", "limits-and-overload.md#overload"),
    ("connections-max", "limits-and-overload.md#connections"),
    (
        "route-connections-max",
        "limits-and-overload.md#one-client-against-all-others",
    ),
    (
        "user-connections-max",
        "limits-and-overload.md#one-client-against-all-others",
    ),
    ("connections-max-per-user", "access.md"),
    (
        "half-closed-timeout",
        "running.md#sockets-from-a-socket-unit",
    ),
    ("settle-timeout", "fastcgi.md#settling"),
    ("request-timeout", "fastcgi.md#scripts-that-do-not-end"),
    ("min-rate", "fastcgi.md#slow-clients"),
    (
        "on-failure",
        "fastcgi.md#what-becomes-of-a-request-when-something-fails",
    ),
    ("queue-time-param", "fastcgi.md#how-long-requests-waited"),
    ("request-start-param", "fastcgi.md#how-long-requests-waited"),
    ("fpm-status", "fastcgi.md#what-php-fpm-says-itself"),
    ("guard", "fastcgi.md#the-guard"),
    ("allow-php-setting", "fastcgi.md#settings-of-php"),
    ("duplicates", "fastcgi.md#duplicates"),
    ("access-log", "seeing-things.md#access-log"),
    ("slow-log", "seeing-things.md#slow-log"),
    ("control", "control.md"),
    ("metrics", "metrics.md"),
    ("status-details", "status-page.md"),
    ("busy-poll", "results/experiments.md"),
    ("user", "access.md#the-daemons-own-user"),
];

/// Values that stand behind an option in other options' help.
const VALUES: [&str; 4] = [" raw", " fastcgi", " adaptive", " inherit"];

/// The commands beside `run` and `check`, which have its options.
fn other_commands(command: &Command) -> impl Iterator<Item = &Command> {
    let is_other = |command: &&Command| !["run", "check", "help"].contains(&command.get_name());
    command.get_subcommands().filter(is_other)
}

fn definition() -> Command {
    let mut command = grouped(super::Arguments::command());
    command.build();
    command
}

#[test]
fn the_page_has_the_options_of_run() {
    let command = definition();
    let run = command.find_subcommand("run").unwrap();
    let find = |key: &&str| {
        run.get_arguments()
            .find(|option| option.get_long() == Some(key))
    };
    let sections = HEADINGS.map(|(heading, keys)| {
        let options = keys.iter().filter_map(|key| Some((find(key)?, more(key))));
        format!("### {heading}\n\n{}", table(options))
    });
    assert_part(PAGE, "options of run", &sections.join("\n"));
}

#[test]
fn the_page_has_the_keys_of_a_file() {
    let (daemon, route) = (Options::of_daemon(), Options::of_route());
    let code = |keys: Vec<&str>| {
        let quoted: Vec<_> = keys.into_iter().map(|key| format!("`{key}`")).collect();
        quoted.join(", ")
    };
    let of_kind = |wanted: Kind| {
        let all = daemon
            .all()
            .chain(route.all())
            .filter(|option| kind(option) == wanted);
        code(all.filter_map(Arg::get_long).collect())
    };
    let text = format!(
        "| where | keys |\n|---|---|\n\
         | top level | {} |\n\
         | `[route.NAME]`, and `[defaults]` except `listen` | all others; `listen` and `backend` are required |\n\
         \n\
         | written as | keys |\n|---|---|\n\
         | number (or `\"off\"`, `\"auto\"` where the table above has it) | {} |\n\
         | `true` or `false` | {} |\n\
         | string, or array of strings | {} |\n\
         | string | all others; times have a unit: `\"500ms\"`, `\"5s\"`, `\"2m\"` |\n",
        code(daemon.keys().collect()),
        of_kind(Kind::Number),
        of_kind(Kind::Flag),
        of_kind(Kind::List),
    );
    assert_part(PAGE, "keys of a file", &text);
}

#[test]
fn the_page_has_the_keys_of_a_class() {
    let class = Options::of_class();
    let row = |option: &Arg| {
        let key = option.get_long().unwrap_or_default();
        format!(
            "| `{key}` | {} | {} |\n",
            default(option),
            cell(&explanation(option))
        )
    };
    let rows: String = class.all().map(row).collect();
    assert_part(
        PAGE,
        "keys of a class",
        &format!("| key | default | what it does |\n|---|---|---|\n{rows}"),
    );
}

// A build without these has fewer commands.
#[cfg(all(feature = "demo", feature = "top"))]
#[test]
fn the_page_has_the_other_commands() {
    let command = definition();
    let section = |command: &Command| {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let is_own = |option: &&Arg| !["help", "version"].contains(&option.get_id().as_str());
        let options = command.get_arguments().filter(is_own);
        format!(
            "### `spliceway {}`\n\n{}\n\n{}",
            command.get_name(),
            formatted(&about),
            table(options.map(|option| (option, String::new())))
        )
    };
    let sections: Vec<_> = other_commands(&command).map(section).collect();
    assert_part(PAGE, "other commands", &sections.join("\n"));
}

#[test]
fn what_has_more_to_read_is_an_option() {
    let options = [Options::of_daemon(), Options::of_route()];
    for (key, _) in MORE {
        let is_known = options.iter().any(|options| options.find(key).is_some());
        assert!(is_known || ["config", "take-over"].contains(key), "{key}");
    }
}

/// Options, and what is added to the explanation of each.
fn table<'a>(options: impl Iterator<Item = (&'a Arg, String)>) -> String {
    let rows: String = options.map(|(option, more)| row(option, &more)).collect();
    format!("| option | default | what it does |\n|---|---|---|\n{rows}")
}

fn row(option: &Arg, more: &str) -> String {
    let values = option.get_value_names().unwrap_or_default();
    let takes_value = !matches!(option.get_action(), ArgAction::SetTrue);
    let is_optional = option
        .get_num_args()
        .is_some_and(|values| values.min_values() == 0);
    let value = match (takes_value, is_optional) {
        (false, _) => String::new(),
        (true, false) => values.join(" "),
        (true, true) => format!("[{}]", values.join(" ")),
    };
    let name = match option.get_long() {
        Some(long) => format!("--{long} {value}"),
        None => value,
    };
    format!(
        "| `{}` | {} | {} |\n",
        cell(name.trim_end()),
        default(option),
        cell(&(explanation(option) + more))
    )
}

fn default(option: &Arg) -> String {
    let given = option.get_default_values();
    let words = match (given, default_in_words(option)) {
        _ if matches!(option.get_action(), ArgAction::SetTrue) => "off".to_owned(),
        ([], Some(words)) if is_value(&words) => format!("`{words}`"),
        ([], Some(words)) => words,
        ([], None) if ["listen", "backend"].contains(&option.get_id().as_str()) => {
            "required".to_owned()
        }
        ([], None) if option.is_positional() && option.is_required_set() => "required".to_owned(),
        ([], None) => "none".to_owned(),
        (given, _) => {
            let values: Vec<_> = given.iter().map(|value| value.to_string_lossy()).collect();
            format!("`{}`", values.join(" "))
        }
    };
    cell(&formatted(&words))
}

/// Whether a default in words is what could be given as well.
fn is_value(words: &str) -> bool {
    !words.contains(' ')
        && !words.starts_with("--")
        && !["none", "depends", "everybody"].contains(&words)
}

fn explanation(option: &Arg) -> String {
    let help = option.get_long_help().or_else(|| option.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let help = help.split("[default: ").next().unwrap_or_default().trim();
    formatted(help)
}

/// A link, where there is more to read about the option.
fn more(key: &str) -> String {
    let more = MORE.iter().find(|(listed, _)| *listed == key);
    more.map_or_else(String::new, |(_, link)| format!(" [More]({link})."))
}

/// Help as Markdown: what is quoted in it, and options, are code.
fn formatted(help: &str) -> String {
    let mut text = String::new();
    let mut rest = help;
    while let Some(c) = rest.chars().next() {
        let starts_word = text
            .chars()
            .next_back()
            .is_none_or(|before| before == ' ' || before == '(');
        let code = match c {
            '\'' if starts_word => rest[1..]
                .find('\'')
                .map(|length| (&rest[1..=length], length + 2)),
            '-' if starts_word && rest.starts_with("--") => {
                let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
                let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                let value = VALUES
                    .iter()
                    .find(|value| rest[length..].starts_with(**value));
                let length = length + value.map_or(0, |value| value.len());
                Some((&rest[..length], length))
            }
            _ => None,
        };
        match code {
            Some((code, length)) => {
                text.push_str(&format!("`{code}`"));
                rest = &rest[length..];
            }
            None => {
                text.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    text
}
