//! What the help shows: `--help` all options, by what they are about; `-h` those that most set-ups need.

use clap::{Arg, Command};

use super::options::Options;

/// What `-h` shows.
const ESSENTIAL: [&str; 17] = [
    "config",
    "listen",
    "backend",
    "mode",
    "owner",
    "group",
    "protocol",
    "per-endpoint-max",
    "script-root",
    "script-suffix",
    "access-log",
    "connections-max",
    "control",
    "metrics",
    "user",
    "log-level",
    "help",
];

/// About clients and the sockets that they come by.
const CLIENTS: [&str; 11] = [
    "listen",
    "mode",
    "owner",
    "group",
    "allow-user",
    "allow-group",
    "connections-max-per-user",
    "route-connections-max",
    "idle-timeout",
    "half-closed-timeout",
    "protocol",
];

/// Groups the options of those commands that have them all.
pub(super) fn grouped(mut command: Command) -> Command {
    let groups = Groups {
        daemon: Options::of_daemon(),
        fastcgi: Options::of_fastcgi(),
    };
    for name in ["run", "check"] {
        if command.find_subcommand(name).is_some() {
            command = command.mut_subcommand(name, |subcommand| {
                subcommand
                    .mut_args(|option| groups.group(option))
                    .after_help(format!("'spliceway {name} --help' has all options."))
                    .after_long_help("")
            });
        }
    }
    command
}

struct Groups {
    daemon: Options,
    fastcgi: Options,
}

impl Groups {
    fn group(&self, option: Arg) -> Arg {
        let Some(key) = option.get_long() else {
            return option;
        };
        let is_essential = ESSENTIAL.contains(&key);
        let heading = self.heading(key);
        option.hide_short_help(!is_essential).help_heading(heading)
    }

    fn heading(&self, key: &str) -> &'static str {
        if key == "config" || self.daemon.find(key).is_some() {
            "The daemon"
        } else if CLIENTS.contains(&key) {
            "Clients, and what they speak"
        } else if self.fastcgi.find(key).is_some() {
            "With --protocol fastcgi"
        } else {
            "Backends"
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, CommandFactory as _};

    use super::*;

    fn help(name: &str, long: bool) -> String {
        let mut command = grouped(super::super::Arguments::command());
        let subcommand = command.find_subcommand_mut(name).unwrap();
        match long {
            true => subcommand.render_long_help().to_string(),
            false => subcommand.render_help().to_string(),
        }
    }

    #[test]
    fn the_short_help_fits_on_a_screen_or_two_and_the_long_one_has_every_option() {
        for name in ["run", "check"] {
            let (short, long) = (help(name, false), help(name, true));
            assert!(short.lines().count() <= 80, "{short}");
            let command = super::super::RunArguments::augment_args(Command::new("run"));
            for key in command.get_arguments().filter_map(Arg::get_long) {
                assert!(long.contains(&format!("--{key}")), "{key}");
            }
            for key in ESSENTIAL {
                assert!(short.contains(&format!("--{key}")), "{key} in {short}");
            }
            for heading in [
                "Clients, and",
                "Backends:",
                "The daemon:",
                "With --protocol",
            ] {
                assert!(long.contains(heading), "{heading} in {long}");
            }
        }
    }
}
