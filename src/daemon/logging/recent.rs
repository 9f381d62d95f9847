//! What the log tells of, kept for a while for `spliceway status`.
//!
//! Whatever `--log-level` leaves out of the log, what happens to routes and endpoints is here.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::observe::events::{EventLevel, EventStatus, Events};
use crate::shown::Shown;

use super::line::Seen;

/// What happens there to endpoints and names has nothing of clients in it: who they are, or what they have sent. Of a
/// module with others in it, those as well.
const WITHOUT_CLIENTS: [&str; 3] = [
    "spliceway::backend",
    "spliceway::checks",
    "spliceway::resolver",
];

/// The longest message, and the longest value of a field.
const CHARS_MAX: usize = 512;

/// The events of this process, by their places in the code.
pub(super) type Recent = Events<Identifier>;

/// Keeps the program's own events, from INFO upwards.
pub(super) fn layer<S>(recent: Arc<Recent>) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let own = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
    Keep(recent).with_filter(own)
}

struct Keep(Arc<Recent>);

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut seen = Seen::default();
        event.record(&mut seen);
        let (message, fields) = seen.into_words();
        let shown = |text: &str| Shown::line(text.as_bytes(), CHARS_MAX).to_string();
        let metadata = event.metadata();
        let event = EventStatus {
            at_seconds: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            level: match *metadata.level() {
                Level::ERROR => EventLevel::Error,
                Level::WARN => EventLevel::Warn,
                _ => EventLevel::Info,
            },
            message: shown(&message),
            fields: fields
                .map(|(name, value)| (name.to_owned(), shown(&value)))
                .collect(),
            times: 1,
            names_no_client: metadata.module_path().is_some_and(names_no_client),
        };
        self.0.note(metadata.callsite(), event);
    }
}

fn names_no_client(module: &str) -> bool {
    let is_in = |outer: &&str| {
        let inner = module.strip_prefix(*outer);
        inner.is_some_and(|inner| inner.is_empty() || inner.starts_with("::"))
    };
    WITHOUT_CLIENTS.iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_that_know_clients_are_others() {
        for module in ["backend::set", "checks", "resolver", "resolver::files"] {
            assert!(names_no_client(&format!("spliceway::{module}")), "{module}");
        }
        for module in [
            "session",
            "worker::admission",
            "commands::channel",
            "backends",
            "",
        ] {
            assert!(
                !names_no_client(&format!("spliceway::{module}")),
                "{module}"
            );
        }
    }
}
