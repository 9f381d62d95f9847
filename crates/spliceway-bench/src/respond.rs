//! `spliceway-bench respond`: a FastCGI backend of known behaviour, until it is told to stop.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::sync::mpsc;

use anyhow::Context as _;
use clap::ValueEnum;
use spliceway::cli::values::count;
use spliceway::config::WORKERS_MAX;
use spliceway_common::sys::process;
use spliceway_load::interrupt;
use spliceway_load::responder::{self, Manner, Options, Responder};

use crate::address::Listen;

/// The most workers that it can be told to be: more than PHP-FPM ever has.
const FPM_WORKERS_MAX: usize = 1_000_000;

/// Whom it resembles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Like {
    /// PHP-FPM: Nagle's delay, its buffer of 8 KiB, its closes.
    Fpm,
    /// Nothing in particular: answers in as few writes as possible, without delay.
    Plain,
}

impl From<Like> for responder::Like {
    fn from(like: Like) -> Self {
        match like {
            Like::Fpm => Self::Fpm,
            Like::Plain => Self::Plain,
        }
    }
}

/// How the script that it stands for prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Print {
    /// The page in one piece.
    Whole,
    /// In many, as with Debian's output_buffering of 4096.
    Pieces,
}

impl From<Print> for responder::Print {
    fn from(print: Print) -> Self {
        match print {
            Print::Whole => Self::Whole,
            Print::Pieces => Self::Pieces,
        }
    }
}

/// What `respond` can be told.
#[derive(clap::Args)]
pub(crate) struct RespondArgs {
    #[arg(
        long,
        value_name = "ADDRESS",
        required = true,
        help = "Listen here: tcp:ADDRESS:PORT (port 0 takes a free one) or unix:/PATH. Give the \
                option again to listen on one of each."
    )]
    listen: Vec<Listen>,

    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = count(1..=WORKERS_MAX),
        help = "Serve with this many threads, from 1 to 1024."
    )]
    threads: usize,

    #[arg(
        long,
        value_name = "N",
        value_parser = count(1..=FPM_WORKERS_MAX),
        help = "Serve at most this many connections at one time, each until its client closes it, \
                as PHP-FPM does with so many workers. [default: no limit]"
    )]
    workers: Option<usize>,

    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "fpm",
        help = "Behave like this towards clients."
    )]
    like: Like,

    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "whole",
        help = "Print answers like this, which decides about the writes of --like fpm."
    )]
    print: Print,
}

impl RespondArgs {
    /// What the responder is told, or what is wrong with several arguments together.
    fn options(&self) -> Result<Options, String> {
        let mut options = Options {
            threads: NonZeroUsize::new(self.threads),
            workers: self.workers.and_then(NonZeroUsize::new),
            manner: Manner {
                like: self.like.into(),
                print: self.print.into(),
            },
            ..Options::default()
        };
        for listen in &self.listen {
            let (kind, is_second) = match listen {
                Listen::Tcp(address) => ("tcp", options.tcp.replace(*address).is_some()),
                Listen::Unix(path) => ("unix", options.unix.replace(path.clone()).is_some()),
            };
            if is_second {
                return Err(format!(
                    "--listen: two {kind} addresses (give one of each kind)"
                ));
            }
        }
        Ok(options)
    }

    /// Whether they can be used together.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.options().map(drop)
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: RespondArgs) -> anyhow::Result<()> {
    let options = args.options().map_err(anyhow::Error::msg)?;
    process::raise_descriptors_max().context("raise the limit of open files")?;
    let (told, stop) = mpsc::channel();
    interrupt::watch(move || {
        // Nobody hears it if the main thread has failed meanwhile.
        let _ = told.send(());
    })
    .context("watch for signals")?;
    let responder = Responder::start(&options)?;
    announce(&responder).context("say where it listens")?;
    stop.recv().context("wait for a signal")?;
    let counts = responder.stop();
    let _ = writeln!(
        io::stderr(),
        "respond: {} requests on {} connections, at most {} at one time; {} refused; CPU {:.3} s",
        counts.requests,
        counts.connections,
        counts.connections_most,
        counts.refused,
        counts.cpu.as_secs_f64()
    );
    Ok(())
}

/// One line for each address, for people and for whoever waits until it is ready.
fn announce(responder: &Responder) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if let Some(address) = responder.tcp() {
        writeln!(stdout, "ready tcp:{address}")?;
    }
    if let Some(path) = responder.unix() {
        writeln!(stdout, "ready unix:{}", path.display())?;
    }
    stdout.flush()
}
