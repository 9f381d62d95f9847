//! The keys of a class of requests. A class has no options on the command line: it is a table of the configuration
//! file, whose keys are read as a route's are.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;

use super::Conflict;
use super::values::{Timeout, count, positive_timeout_or_off, timeout_or_off};
use crate::config::{CONNECTIONS_MAX, ClassRules, PRIORITIES};

/// What a class can be told, beside what it matches.
#[derive(Args)]
pub(super) struct ClassArguments {
    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=CONNECTIONS_MAX),
        help = "The most connections of the class to each address. [default: --per-endpoint-max]"
    )]
    max: Option<u32>,

    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        value_parser = count(0..=CONNECTIONS_MAX),
        help = "Connections to each address that are reserved for the class."
    )]
    reserve: u32,

    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        value_parser = count(PRIORITIES),
        allow_hyphen_values = true,
        help = "Among waiting classes, the one with the highest priority goes first."
    )]
    priority: i32,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(0..=CONNECTIONS_MAX),
        help = "The most requests of the class that wait. [default: --queue-max]"
    )]
    queue_max: Option<u32>,

    #[arg(
        long,
        value_name = "DURATION|off",
        value_parser = positive_timeout_or_off,
        help = "How long a request may wait. [default: --queue-timeout]"
    )]
    queue_timeout: Option<Timeout>,

    #[arg(
        long,
        value_name = "DURATION|off",
        value_parser = timeout_or_off,
        help = "How long a request may take. [default: --request-timeout]"
    )]
    request_timeout: Option<Timeout>,
}

impl ClassArguments {
    /// What they come to, where the route's own requests would have these rules.
    pub(super) fn rules(&self, route: ClassRules) -> Result<ClassRules, Conflict> {
        let max = self.max.and_then(NonZeroU32::new).unwrap_or(route.max);
        let whole = route.max;
        if max > whole {
            return Err(Conflict::new(
                "max",
                format!(
                    "--max {max}: more than --per-endpoint-max {whole} of the route (use at most {whole})"
                ),
            ));
        }
        if self.reserve > max.get() {
            let reserve = self.reserve;
            return Err(Conflict::new(
                "reserve",
                format!(
                    "--reserve {reserve} with --max {max}: more is kept than may be had (lower --reserve, or raise \
                     --max)"
                ),
            ));
        }
        Ok(ClassRules {
            max,
            reserve: self.reserve,
            priority: self.priority,
            queue_max: self.queue_max.unwrap_or(route.queue_max),
            queue_timeout: or_else(self.queue_timeout, route.queue_timeout),
            request_timeout: or_else(self.request_timeout, route.request_timeout),
        })
    }
}

fn or_else(given: Option<Timeout>, otherwise: Option<Duration>) -> Option<Duration> {
    given.map_or(otherwise, |timeout| timeout.0)
}
