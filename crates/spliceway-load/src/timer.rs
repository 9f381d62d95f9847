//! Waking an event loop at a time: epoll counts in milliseconds, which is longer than most requests
//! take.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use spliceway_common::sys::timer::Timer;

/// An alarm that a loop watches.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: Timer,
    /// When it goes off, if it was not seen to have done so.
    at: Option<Instant>,
}

impl Alarm {
    /// An alarm that is not set; its events have this token and need no answer.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer = Timer::new().map_err(io::Error::from)?;
        registry.register(
            &mut SourceFd(&timer.fd().as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        Ok(Self { timer, at: None })
    }

    /// Has it go off at this time and no other.
    pub(crate) fn set(&mut self, at: Instant, now: Instant) {
        if self.at != Some(at) {
            self.timer.set(at.saturating_duration_since(now));
            self.at = Some(at);
        }
    }
}
