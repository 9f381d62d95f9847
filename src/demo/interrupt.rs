//! Ctrl-C and SIGTERM: end the demo between two requests, so that its clean-up runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Error;
use spliceway_load::interrupt;
use spliceway_load::load::Control;

/// Remembers whether the user wants the demo to end.
pub(super) struct Interrupt {
    /// Of all loads of the demo: one that runs ends, and none begins any more.
    control: Arc<Control>,
}

impl Interrupt {
    /// Starts watching, for good: the demo is the last thing that its process does.
    pub(super) fn watch() -> io::Result<Self> {
        let watching = Self::never();
        let control = Arc::clone(&watching.control);
        interrupt::watch(move || control.stop.store(true, Ordering::Relaxed))?;
        Ok(watching)
    }

    /// What ends a load.
    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Gives [`Error::Interrupted`] once a signal has come.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.control.stop.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// One that nothing interrupts.
    pub(super) fn never() -> Self {
        Self {
            control: Arc::default(),
        }
    }
}
