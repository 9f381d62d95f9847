//! Ctrl-C and SIGTERM: end the demo between two requests, so that its clean-up runs.
//!
//! The second signal ends the process at once; the kernel then kills the proxy's process, which is
//! bound to ours.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;

/// What a shell reports for a program that SIGINT ended: 128 + 2.
const EXIT_INTERRUPTED: i32 = 130;

/// Remembers whether the user wants the demo to end.
pub(super) struct Interrupt {
    /// Written by the watching thread, read by everyone else. It orders no other memory.
    seen: Arc<AtomicBool>,
}

impl Interrupt {
    /// Starts watching. The signals' default actions are gone from then on, for good: the demo is
    /// the last thing that its process does.
    pub(super) fn watch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let signals = subscribe(&runtime)?;
        let seen = Arc::new(AtomicBool::new(false));
        let watched = Arc::clone(&seen);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(wait(signals, &watched)))?;
        Ok(Self { seen })
    }

    /// The flag itself, for threads that look at it once per request.
    pub(super) fn seen(&self) -> &AtomicBool {
        &self.seen
    }

    /// Gives [`Error::Interrupted`] once a signal has come.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.seen.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// One that nothing interrupts.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        Self {
            seen: Arc::default(),
        }
    }
}

fn subscribe(runtime: &Runtime) -> io::Result<[Signal; 2]> {
    let _entered = runtime.enter();
    Ok([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ])
}

async fn wait([mut interrupt, mut terminate]: [Signal; 2], seen: &AtomicBool) {
    loop {
        select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if seen.swap(true, Ordering::Relaxed) {
            process::exit(EXIT_INTERRUPTED);
        }
    }
}
