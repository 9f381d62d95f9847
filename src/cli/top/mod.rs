//! `spliceway top`: what a daemon does and for whom it waits, in one view that refreshes.
//!
//! ```text
//!   asking ── answers ──▶ model ──▶ view ──▶ screen
//!   keys ──── actions ────┘  (with rates)
//! ```
//!
//! `model`, `view` and what they are made of are pure: answers, keys and the time come in, cells go out. Where there
//! is no terminal, `plain` prints the tables of `status` and `requests` instead.

mod asking;
mod columns;
mod course;
mod keys;
mod layout;
mod model;
mod plain;
mod rates;
mod rows;
#[cfg(test)]
mod samples;
mod screen;
mod view;

use std::env;
use std::io::{self, IsTerminal};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::status::{Error, interval, on_runtime};
use super::values::count;
use crate::config::RouteName;
use crate::observe::{CONTROL_PATH, RequestOrder, Status, Which};
use crate::shown::Shown;

/// How much is shown of the names of routes, of which there may be a thousand.
const ROUTES_CHARS_MAX: usize = 512;

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopCommand {
    /// The daemon's control socket.
    pub control: PathBuf,
    /// Of this route alone.
    pub route: Option<RouteName>,
    /// Kept clients without a request as well.
    pub idle: bool,
    /// In which order requests are shown.
    pub sort: RequestOrder,
    /// The time between two looks.
    pub interval: Duration,
    /// So many looks, as plain text.
    pub count: Option<NonZeroU32>,
}

/// The command line.
#[derive(Args)]
#[command(
    about = "Watch a daemon: routes, endpoints, requests and events in one view.",
    long_about = "Watch a running proxy in one view that refreshes: its routes with their rates and times, their \
                  endpoints, the requests that are under way or wait, and what happened last. Keys choose a route, the \
                  order, and a moment to stop at; '?' lists them. It is asked for what 'status' and 'requests' show, \
                  once in each interval, through its control socket, so it has to run with --control.\n\n\
                  Without a terminal, or with TERM=dumb, both tables are printed again and again.\n\n\
                  Example: spliceway top php --sort wait"
)]
pub(super) struct TopArguments {
    #[arg(value_name = "ROUTE", help = "Start with this route only.")]
    route: Option<RouteName>,

    #[arg(
        long,
        value_name = "PATH",
        default_value = CONTROL_PATH,
        help = "Control socket of the daemon."
    )]
    control: PathBuf,

    #[arg(
        long,
        value_name = "INTERVAL",
        default_value = "1s",
        value_parser = interval,
        help = "Time between two refreshes, 100ms or more."
    )]
    interval: Duration,

    #[arg(
        long,
        value_name = "BY",
        value_enum,
        default_value = "age",
        help = "Put requests in this order, as 'spliceway requests' does."
    )]
    sort: RequestOrder,

    #[arg(
        long,
        help = "Include FastCGI clients with a kept connection and no request."
    )]
    idle: bool,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(NonZeroU32::MIN..=NonZeroU32::MAX),
        help = "Print so many looks as plain text, also on a terminal, and end. [default: until Ctrl-C]"
    )]
    count: Option<NonZeroU32>,
}

impl From<TopArguments> for TopCommand {
    fn from(arguments: TopArguments) -> Self {
        Self {
            control: arguments.control,
            route: arguments.route,
            idle: arguments.idle,
            sort: arguments.sort,
            interval: arguments.interval,
            count: arguments.count,
        }
    }
}

impl TopCommand {
    fn which(&self) -> Which {
        Which {
            route: self.route.as_ref().map(RouteName::to_string),
            idle: self.idle,
        }
    }

    /// Whether there is a terminal that can be drawn on.
    fn has_screen(&self) -> bool {
        let term = env::var_os("TERM").unwrap_or_default();
        self.count.is_none()
            && io::stdout().is_terminal()
            && !term.is_empty()
            && term.to_str() != Some("dumb")
    }
}

/// Asks, and shows what comes.
///
/// # Errors
/// If the terminal cannot be driven, or nothing can be written; as plain text also if the daemon cannot be asked.
pub fn run(command: &TopCommand) -> Result<(), Error> {
    match command.has_screen() {
        true => on_runtime(course::run(command)),
        false => on_runtime(plain::run(command)),
    }
}

/// The names of the routes, for whoever has asked for another one.
fn names_of_routes(status: &Status) -> String {
    let names: Vec<&str> = status.routes.iter().map(|route| &*route.name).collect();
    Shown::line(names.join(", ").as_bytes(), ROUTES_CHARS_MAX).to_string()
}

/// Whether it serves such a route, or finishes its sessions.
fn has_route(status: &Status, name: &str) -> bool {
    let mut served = status.routes.iter().map(|route| &*route.name);
    let mut retired = status.retired_routes.iter().map(|route| &*route.name);
    served.any(|it| it == name) || retired.any(|it| it == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{parse_words, usage_error};
    use crate::cli::{Cli, Command};

    fn parsed(words: &str) -> TopCommand {
        match parse_words(words) {
            Ok(Cli {
                command: Command::Top(top),
            }) => top,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn it_looks_every_second_at_everything() {
        let top = parsed("top");
        assert_eq!(top.control, PathBuf::from(CONTROL_PATH));
        assert_eq!((top.route.as_ref(), top.idle), (None, false));
        assert_eq!(top.sort, RequestOrder::Age);
        assert_eq!((top.interval, top.count), (Duration::from_secs(1), None));
        assert_eq!(top.which(), Which::default());
    }

    #[test]
    fn all_of_it_can_be_chosen() {
        let top = parsed("top php --control /c --interval 100ms --sort wait --idle --count 3");
        let which = Which {
            route: Some("php".to_owned()),
            idle: true,
        };
        assert_eq!(top.which(), which);
        assert_eq!(top.sort, RequestOrder::Wait);
        assert_eq!(top.interval, Duration::from_millis(100));
        assert_eq!(top.count.map(NonZeroU32::get), Some(3));
    }

    #[test]
    fn what_nobody_can_mean_is_refused() {
        for (words, mention) in [
            ("top --interval 99ms", "100"),
            ("top --count 0", "1"),
            ("top --sort x", "wait"),
            ("top a b", "b"),
        ] {
            let line = usage_error(words);
            assert!(line.contains(mention), "{line}");
        }
    }
}
