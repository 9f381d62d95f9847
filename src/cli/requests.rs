//! `spliceway requests`: what a running daemon does at this moment, request by request.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::status::{Error, interval, on_runtime, repeated, show};
use crate::config::RouteName;
use crate::observe::client::ask_requests;
use crate::observe::{CONTROL_PATH, RequestOrder, Requests, Which, render_requests};
use crate::shown::{self, Shown};

/// How much is shown of the names of routes, of which there may be a thousand.
const ROUTES_CHARS_MAX: usize = 512;

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestsCommand {
    /// The daemon's control socket.
    pub control: PathBuf,
    /// Of this route alone.
    pub route: Option<RouteName>,
    /// Kept clients without a request as well.
    pub idle: bool,
    /// JSON instead of a table.
    pub json: bool,
    /// In which order.
    pub sort: RequestOrder,
    /// Again and again, with this time between.
    pub watch: Option<Duration>,
}

/// The command line.
#[derive(Args)]
#[command(
    about = "List the requests that a daemon is working on or has in its queues.",
    long_about = "List the requests that a daemon is working on or has in its queues, and its raw sessions: client, \
                  request, state, age, and what it is waiting for. Clients that have not been accepted yet are not \
                  listed, nor, after an upgrade, what the old process still runs. The daemon must run with --control, \
                  and answers root and its own user only.\n\n\
                  Example: spliceway requests --control /run/spliceway/control.sock --sort wait"
)]
pub(super) struct RequestsArguments {
    #[arg(value_name = "ROUTE", help = "Only this route.")]
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
        help = "Include FastCGI clients with a kept connection and no request."
    )]
    idle: bool,

    #[arg(
        long,
        help = "Print JSON, one line each time. docs/requests.md lists the fields."
    )]
    json: bool,

    #[arg(
        long,
        value_name = "BY",
        value_enum,
        default_value = "age",
        help = "Sort by age, wait or bytes (largest first), or by route, endpoint, client (user and process) or URI."
    )]
    sort: RequestOrder,

    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1s",
        value_parser = interval,
        help = "Print it again and again until Ctrl-C, every second or as often as is said (--watch=100ms or \
                more), in the same place on a terminal."
    )]
    watch: Option<Duration>,
}

impl From<RequestsArguments> for RequestsCommand {
    fn from(arguments: RequestsArguments) -> Self {
        Self {
            control: arguments.control,
            route: arguments.route,
            idle: arguments.idle,
            json: arguments.json,
            sort: arguments.sort,
            watch: arguments.watch,
        }
    }
}

/// Asks and prints.
///
/// # Errors
/// If the daemon cannot be asked, or the answer cannot be written down.
pub fn run(command: &RequestsCommand) -> Result<(), Error> {
    let which = Which {
        route: command.route.as_ref().map(RouteName::to_string),
        idle: command.idle,
    };
    on_runtime(async {
        let look = async || text_of(command, ask_requests(&command.control, &which).await?);
        match command.watch {
            Some(interval) => repeated(interval, command.json, look).await,
            None => show(&look().await?),
        }
    })
}

fn text_of(command: &RequestsCommand, mut requests: Requests) -> Result<String, Error> {
    if let Some(route) = &command.route
        // One that is not served any more may have requests.
        && requests.requests.is_empty()
        && requests.left_out == 0
        && !requests.routes.iter().any(|name| name == route.as_str())
    {
        return Err(Error::NoRoute {
            route: route.to_string(),
            routes: Shown::line(requests.routes.join(", ").as_bytes(), ROUTES_CHARS_MAX)
                .to_string(),
        });
    }
    command.sort.sort(&mut requests.requests);
    if command.json {
        let mut line = shown::ascii_of_json(&serde_json::to_string(&requests)?);
        line.push('\n');
        return Ok(line);
    }
    Ok(render_requests(&requests))
}
