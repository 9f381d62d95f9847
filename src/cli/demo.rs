//! The command line of `spliceway demo`.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;

use super::ENGINE_HELP;
use super::values::{count, positive_timeout};
use crate::config::Engine;
use crate::demo::CONCURRENCY_MAX;

/// `spliceway demo`
#[derive(Clone, Debug)]
pub struct DemoCommand {
    /// How long each path is measured.
    pub duration: Duration,
    /// How many connections there are at one time.
    pub concurrency: NonZeroUsize,
    /// Which driver the proxy uses.
    pub engine: Engine,
}

#[derive(Args)]
pub(super) struct DemoArguments {
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "3s",
        value_parser = positive_timeout,
        allow_hyphen_values = true,
        help = "Measure each path for this time, such as 500ms or 3s."
    )]
    duration: Duration,

    #[arg(
        long,
        value_name = "N",
        default_value = "16",
        value_parser = count(1..=CONCURRENCY_MAX),
        help = "Keep this many connections busy at one time, from 1 to 128."
    )]
    concurrency: usize,

    #[arg(
        long,
        value_enum,
        default_value_t = Engine::Auto,
        hide_possible_values = true,
        help = ENGINE_HELP
    )]
    engine: Engine,
}

impl From<DemoArguments> for DemoCommand {
    fn from(arguments: DemoArguments) -> Self {
        Self {
            duration: arguments.duration,
            concurrency: NonZeroUsize::new(arguments.concurrency)
                .expect("its parser takes no number below 1"),
            engine: arguments.engine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{parse_words, usage_error};
    use super::super::{Cli, Command, Stop};
    use super::*;

    #[test]
    fn demo_has_defaults_and_options() {
        let Ok(Cli {
            command: Command::Demo(demo),
        }) = parse_words("demo")
        else {
            panic!()
        };
        assert_eq!(
            (demo.duration, demo.concurrency.get()),
            (Duration::from_secs(3), 16)
        );
        assert_eq!(demo.engine, Engine::Auto);
        let words = "demo --duration 1s --concurrency 2 --engine epoll";
        let Ok(Cli {
            command: Command::Demo(demo),
        }) = parse_words(words)
        else {
            panic!()
        };
        assert_eq!(
            (demo.duration, demo.concurrency.get()),
            (Duration::from_secs(1), 2)
        );
        assert_eq!(demo.engine, Engine::Epoll);
    }

    #[test]
    fn usage_errors_name_the_argument_the_cause_and_the_remedy() {
        for (words, expected) in [
            (
                "demo 3s",
                "unexpected argument '3s'; see 'spliceway demo --help'",
            ),
            (
                "demo --engine kqueue",
                "invalid value 'kqueue' for '--engine <ENGINE>': unknown (write auto, io_uring, \
                 epoll); see 'spliceway demo --help'",
            ),
            (
                "demo --duration 1s --duration 2s",
                "'--duration <DURATION>': given more than once (remove all but one); see 'spliceway \
                 demo --help'",
            ),
        ] {
            assert_eq!(usage_error(words), expected);
        }
    }

    #[test]
    fn help_is_an_answer() {
        assert!(matches!(parse_words("demo -h"), Err(Stop::Answer(_))));
    }
}
