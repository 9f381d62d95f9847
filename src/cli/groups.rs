//! What the help of `run` and `check` shows, under headings: `-h` has a line for each option, `--help` everything.

use clap::{Arg, Command};

use super::options::default_in_words;

/// The headings, and the options under each, in the order in which they are shown.
pub(super) const HEADINGS: [(&str, &[&str]); 10] = [
    ("Configuration", &["config", "take-over"]),
    (
        "Listen",
        &[
            "listen",
            "mode",
            "owner",
            "group",
            "allow-user",
            "allow-group",
            "protocol",
        ],
    ),
    (
        "Backends",
        &[
            "backend",
            "connect-timeout",
            "refused-timeout",
            "balance",
            "eject-after",
            "eject-time",
            "check",
            "check-interval",
            "when-down",
            "removed-endpoint",
            "proxy-protocol",
            "source-address",
            "tcp-keepalive",
            "tcp-user-timeout",
        ],
    ),
    (
        "Names",
        &[
            "nameserver",
            "dns-race",
            "resolve-with",
            "dns-min-ttl",
            "dns-max-ttl",
            "dns-negative-hold",
            "dns-keep-missing",
        ],
    ),
    (
        "Limits",
        &[
            "per-endpoint-max",
            "queue-max",
            "queue-timeout",
            "queue-order",
            "shards",
            "connections-max",
            "route-connections-max",
            "user-connections-max",
            "connections-max-per-user",
            "idle-timeout",
            "half-closed-timeout",
        ],
    ),
    (
        "FastCGI (with --protocol fastcgi)",
        &[
            "upstream-reuse",
            "idle-upstream",
            "requests-per-upstream",
            "settle-timeout",
            "head-timeout",
            "request-timeout",
            "min-rate",
            "min-rate-lag",
            "params-max",
            "on-failure",
            "queue-time-param",
            "request-start-param",
            "fpm-status",
        ],
    ),
    (
        "FastCGI guard (with --protocol fastcgi)",
        &[
            "guard",
            "script-root",
            "resolve-script-root",
            "script-suffix",
            "deny-param",
            "strip-param",
            "allow-param",
            "allow-php-setting",
            "allow-body-file",
            "fpm-pages",
            "duplicates",
            "max-params",
            "roles",
        ],
    ),
    (
        "Logs",
        &[
            "log-level",
            "log-format",
            "access-log",
            "access-log-format",
            "slow-log",
            "slow-after",
            "slow-log-format",
        ],
    ),
    (
        "Control and metrics",
        &["control", "metrics", "status-details"],
    ),
    (
        "Process",
        &[
            "workers",
            "engine",
            "user",
            "drain-timeout",
            "exit-idle-time",
            "pin",
            "busy-poll",
        ],
    ),
];

/// The commands whose options are these.
const GROUPED: [&str; 2] = ["run", "check"];

/// Groups the options of those commands that have them all.
pub(super) fn grouped(mut command: Command) -> Command {
    for name in GROUPED {
        if command.find_subcommand(name).is_some() {
            command = command.mut_subcommand(name, |subcommand| {
                subcommand
                    .mut_args(with_default)
                    .mut_args(under_heading)
                    .after_help(format!("'spliceway {name} --help' explains each option."))
                    .after_long_help("")
            });
        }
    }
    command
}

/// The long help ends with what happens by default, as the short one does.
fn with_default(option: Arg) -> Arg {
    let default = default_in_words(&option);
    match (option.get_long_help().map(ToString::to_string), default) {
        (Some(help), Some(default)) => option.long_help(format!("{help}\n\n[default: {default}]")),
        (_, None) | (None, Some(_)) => option,
    }
}

fn under_heading(option: Arg) -> Arg {
    match option.get_long().and_then(position) {
        Some((heading, position)) => option.help_heading(heading).display_order(position),
        None => option,
    }
}

/// The heading of an option, and its place under it.
fn position(key: &str) -> Option<(&'static str, usize)> {
    HEADINGS.iter().find_map(|(heading, keys)| {
        let position = keys.iter().position(|listed| *listed == key)?;
        Some((*heading, position))
    })
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, CommandFactory as _};

    use super::*;

    /// What a terminal has at least, where somebody reads help.
    const COLUMNS: usize = 100;

    fn help(name: &str, long: bool) -> String {
        let mut command = grouped(super::super::Arguments::command()).term_width(COLUMNS);
        command.build();
        let subcommand = command.find_subcommand_mut(name).unwrap();
        match long {
            true => subcommand.render_long_help().to_string(),
            false => subcommand.render_help().to_string(),
        }
    }

    fn keys() -> Vec<String> {
        let command = super::super::StartArguments::augment_args(Command::new("run"));
        let keys = command.get_arguments().filter_map(Arg::get_long);
        keys.map(str::to_owned).collect()
    }

    #[test]
    fn every_option_has_one_heading() {
        let mut listed: Vec<_> = HEADINGS.iter().flat_map(|(_, keys)| *keys).collect();
        listed.sort_unstable();
        let mut there = keys();
        there.sort_unstable();
        assert_eq!(listed, there.iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_short_help_has_a_line_for_each_option_and_the_long_one_explains_it() {
        for name in GROUPED {
            let (short, long) = (help(name, false), help(name, true));
            for key in keys().iter().filter(|key| *key != "take-over") {
                let option = format!("      --{key} ");
                let is_there = |help: &str| {
                    help.lines()
                        .any(|line| format!("{line} ").starts_with(&option))
                };
                assert!(is_there(&short), "{key} in {short}");
                assert!(is_there(&long), "{key} in {long}");
            }
            let mut options = short.lines().skip_while(|line| *line != "Configuration:");
            let wrapped = options.find(|line| line.starts_with("          "));
            assert_eq!(wrapped, None, "{short}");
            for (heading, _) in HEADINGS {
                assert!(
                    short.contains(&format!("\n{heading}:\n")),
                    "{heading} in {short}"
                );
                assert!(
                    long.contains(&format!("\n{heading}:\n")),
                    "{heading} in {long}"
                );
            }
        }
    }

    #[test]
    fn both_helps_say_what_happens_by_default() {
        for default in ["[default: 256KiB]", "[default: 5s]", "[default: 0660]"] {
            for long in [false, true] {
                let help = help("run", long);
                assert!(help.contains(default), "{default} in {help}");
            }
        }
    }
}
