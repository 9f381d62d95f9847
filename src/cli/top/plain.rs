//! The same without a terminal: the tables of `spliceway status` and `spliceway requests`, again and again.

use std::num::NonZeroU32;

use tokio::time::{self, MissedTickBehavior};

use super::{TopCommand, has_route, names_of_routes};
use crate::cli::status::{Error, SAMPLE_INTERVAL, print, until_stopped};
use crate::observe::client::{AskError, ask, ask_requests};
use crate::observe::{Requests, Status, render_requests, render_table};
use crate::shown::Shown;

/// The longest reason: it has a path in it.
const REASON_CHARS_MAX: usize = 8192;

/// Prints until it has printed often enough, or is told to stop.
///
/// # Errors
/// If the first question, or the last one of a limited number, has no answer; if there is no such route then; or if
/// nothing can be written.
pub(super) async fn run(command: &TopCommand) -> Result<(), Error> {
    until_stopped(looks(command)).await
}

async fn looks(command: &TopCommand) -> Result<(), Error> {
    // Who is not there at first is looked for at the wrong place. Who goes later may come back.
    let mut before = Some(ask(&command.control).await?);
    if let (Some(status), Some(route)) = (&before, &command.route)
        && !has_route(status, route.as_str())
    {
        return Err(Error::NoRoute {
            route: route.to_string(),
            routes: names_of_routes(status),
        });
    }
    // Rates need two statuses.
    time::sleep(SAMPLE_INTERVAL).await;
    let mut ticks = time::interval(command.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u32;
    loop {
        ticks.tick().await;
        number = number.saturating_add(1);
        let looked = look(command).await;
        let is_last = command.count.map(NonZeroU32::get) == Some(number);
        let text = match looked {
            Ok((status, requests)) => {
                let text = text(command, &status, before.as_ref(), requests);
                before = Some(status);
                text
            }
            Err(error) if is_last => return Err(error.into()),
            Err(error) => reason(&error),
        };
        let gap = if number > 1 { "\n" } else { "" };
        print(format!("{gap}{text}")).await?;
        if is_last {
            return Ok(());
        }
    }
}

/// Without requests, there is a reason in their place.
type Told = (Status, Result<Requests, AskError>);

async fn look(command: &TopCommand) -> Result<Told, AskError> {
    let status = ask(&command.control).await?;
    let requests = ask_requests(&command.control, &command.which()).await;
    Ok((status, requests))
}

fn text(
    command: &TopCommand,
    status: &Status,
    before: Option<&Status>,
    requests: Result<Requests, AskError>,
) -> String {
    let requests = match requests {
        Ok(mut requests) => {
            command.sort.sort(&mut requests.requests);
            render_requests(&requests)
        }
        Err(error) => reason(&error),
    };
    let table = match &command.route {
        None => render_table(status, before),
        Some(route) => {
            let mut status = status.clone();
            status.routes.retain(|it| it.name == route.as_str());
            let retired = &mut status.retired_routes;
            retired.retain(|it| it.name == route.as_str());
            render_table(&status, before)
        }
    };
    format!("{table}\n{requests}")
}

fn reason(error: &AskError) -> String {
    let reason = error.to_string();
    format!("{}\n", Shown::line(reason.as_bytes(), REASON_CHARS_MAX))
}
