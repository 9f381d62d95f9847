//! What a client still gets when no server works for it any more.

use std::time::{Duration, Instant};

use crate::driver::{Driver, Flushed, PipeGuard};
use crate::fastcgi::BROKEN_OFF;
use crate::session::bulk::{self, Held};
use crate::session::{Context, Ending, Step};
use crate::sys::Errno;

use super::client::ClientSide;

/// How long, and how many bytes of a request that was answered early are read and thrown away: closing
/// with bytes unread would be a reset, which can cost the client the answer (RFC 9112, section 9.6, on
/// the same matter).
const FAREWELL_TIME: Duration = Duration::from_secs(5);

/// See [`FAREWELL_TIME`].
const FAREWELL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long a client that takes nothing is waited for, until it has what came of an answer that broke off and
/// the sign of that: it is as long as web servers wait for their own clients (nginx's `send_timeout`). One that
/// has less may take what it has for the whole.
const BREAK_TIME: Duration = Duration::from_secs(60);

/// The last answer is sent, or on its way; what still comes of the request is thrown away.
pub(super) struct Farewell {
    left: u64,
    by: Instant,
    /// What the session ends as.
    pub(super) ending: Ending,
}

impl Farewell {
    pub(super) fn new(ending: Ending, now: Instant) -> Self {
        Self {
            left: FAREWELL_BYTES_MAX,
            by: now + FAREWELL_TIME,
            ending,
        }
    }

    /// When it is over, whatever the client does.
    pub(super) fn by(&self) -> Instant {
        self.by
    }

    /// So many bytes are thrown away. Whether more may come.
    pub(super) fn threw_away(&mut self, bytes: usize) -> bool {
        self.left = self.left.saturating_sub(bytes as u64);
        self.left > 0
    }
}

/// The answer broke off. What came of it is on its way to the client, and then the sign of that.
pub(super) struct Breaking<P> {
    pub(super) held: Option<Held<P>>,
    /// What the session ends as.
    pub(super) ending: Ending,
}

impl<P: PipeGuard> Breaking<P> {
    /// When the client, which took something last at that time, is not waited for any longer.
    pub(super) fn by(last: Instant) -> Instant {
        last + BREAK_TIME
    }

    /// Tells the client, once it has all that came, that the answer broke off.
    pub(super) fn tell<D: Driver<Pipe = P>>(
        &mut self,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Step {
        let flushed = match &mut self.held {
            Some(held) => bulk::flush(
                held,
                &mut cx.hands.driver,
                client.sock,
                &cx.counters.to_client,
            ),
            None => Flushed::All,
        };
        let told = match flushed {
            Flushed::All => {
                self.held = None;
                let told = cx.hands.driver.send_now(client.sock, &BROKEN_OFF);
                if told.is_ok() {
                    cx.counters.to_client.copied.add(BROKEN_OFF.len() as u64);
                }
                told
            }
            Flushed::Full => Err(Errno(libc::EAGAIN)),
            Flushed::Failed(errno) => Err(errno),
        };
        match told {
            Err(Errno(libc::EAGAIN)) => {
                client.wait_for_room(cx);
                Step::Continue
            }
            // One that cannot be told has noticed.
            Ok(()) | Err(_) => Step::End(self.ending),
        }
    }
}
