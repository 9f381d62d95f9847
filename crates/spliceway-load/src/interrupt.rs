//! Ctrl-C and SIGTERM: end what runs in order, so that its clean-up runs and its result is shown.
//!
//! The second signal ends the process at once; the kernel then kills the children that are bound to
//! it.

use std::io;
use std::process;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell reports for a program that SIGINT ended: 128 + 2.
const EXIT_INTERRUPTED: i32 = 130;

/// Calls `act` once, on a thread of its own, when the user wants the program to end. The signals'
/// default actions are gone from then on, for good: only for what a process does last.
///
/// # Errors
/// What a runtime, a signal handler or a thread gives.
pub fn watch(act: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let signals = subscribe(&runtime)?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(wait(signals, act)))?;
    Ok(())
}

fn subscribe(runtime: &Runtime) -> io::Result<[Signal; 2]> {
    let _entered = runtime.enter();
    Ok([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ])
}

async fn wait(mut signals: [Signal; 2], act: impl FnOnce()) {
    next(&mut signals).await;
    act();
    next(&mut signals).await;
    process::exit(EXIT_INTERRUPTED);
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
