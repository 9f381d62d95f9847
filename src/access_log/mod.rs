//! Lines for requests of FastCGI routes that ask for them: the access log has one for each request, when it is over, and
//! the slow log has one for a request that passes a time, while it runs, and one at its end.
//!
//! A worker puts what it knows of a request into a bounded queue of its own and goes on; when
//! the queue is full, the line is lost and counted. A thread for each file takes the queues out, makes
//! lines of what it finds and writes them: whatever a disk or a pipe does to it, nobody else waits.
//!
//! The thread sleeps while nothing is asked of it. The first entry wakes it; then it looks every
//! `LOOK_INTERVAL` until it finds nothing, so a busy worker wakes nobody.

mod entry;
mod line;
mod writer;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

pub(crate) use entry::{Entry, Occasion, Upstream, Words};
pub(crate) use writer::{RequestLogError, Writers, open};

/// Entries of one worker that wait to be written. At the 45,000 requests that a worker serves in a second
/// it is full after 180 ms, more than three of the writer's looks; with the longest words, it holds some
/// 40 MB.
const ENTRIES_MAX: usize = 8192;

/// Lines of one worker in a second about requests that no backend had, and those of its slow log. Whoever may connect
/// can have requests rejected as fast as it can write them, and must not fill the disk with that; a page that a web
/// server has wrong shows well below. Where everything is slow, a hundred lines say so as well as all of them.
const RATIONED_LINES_MAX: u32 = 100;

/// What [`RATIONED_LINES_MAX`] is about.
const RATION_WINDOW: Duration = Duration::from_secs(1);

/// How often the writer looks while there is something to write: rarely enough to cost nothing, and often
/// enough that [`ENTRIES_MAX`] has room for what comes meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Where one worker's lines about a route's requests go.
#[derive(Debug, Default)]
pub struct RequestLogs {
    /// One for each request, when it is over.
    pub access: Option<Queue>,
    /// Those for requests that take long.
    pub slow: Option<SlowLog>,
}

impl RequestLogs {
    /// Whether something is to be known of requests for them.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.access.is_some() || self.slow.is_some()
    }
}

/// Where lines go for requests that take long. All of them are rationed.
#[derive(Debug)]
pub struct SlowLog {
    /// Where they go.
    pub queue: Queue,
    /// What is long.
    pub after: Duration,
}

/// One worker's end of its queue. See the module.
#[derive(Debug)]
pub struct Queue {
    entries: SyncSender<Box<Entry>>,
    bell: Arc<Bell>,
    /// When the window began, and the rationed lines in it.
    rationed: Cell<Option<(Instant, u32)>>,
}

/// The queue had no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped;

impl Queue {
    fn new(bell: &Arc<Bell>) -> (Self, Receiver<Box<Entry>>) {
        let (entries, taken_out) = mpsc::sync_channel(ENTRIES_MAX);
        let bell = Arc::clone(bell);
        let rationed = Cell::new(None);
        let queue = Self {
            entries,
            bell,
            rationed,
        };
        (queue, taken_out)
    }

    /// One that nobody takes anything out of.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn unread() -> Self {
        Self::alone().0
    }

    /// One without a writer, and what comes out of it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn alone() -> (Self, Receiver<Box<Entry>>) {
        Self::new(&Arc::default())
    }

    /// Whether there may be another rationed line; counts it if so.
    pub fn has_ration(&self, now: Instant) -> bool {
        let (began, lines) = match self.rationed.get() {
            Some((began, lines)) if now.saturating_duration_since(began) < RATION_WINDOW => {
                (began, lines)
            }
            Some(_) | None => (now, 0),
        };
        let has_ration = lines < RATIONED_LINES_MAX;
        self.rationed
            .set(Some((began, lines + u32::from(has_ration))));
        has_ration
    }

    /// Puts an entry in, if there is room. Never waits.
    ///
    /// # Errors
    /// [`Dropped`] if there is none.
    pub fn push(&self, entry: Box<Entry>) -> Result<(), Dropped> {
        self.entries.try_send(entry).map_err(|_full| Dropped)?;
        self.bell.ring();
        Ok(())
    }
}

/// Wakes the writer if it sleeps.
///
/// The writer says that it sleeps, then looks once more, then sleeps; who has put something in looks
/// whether it does. With a fence between the two steps on either side, one of them sees the other.
#[derive(Debug, Default)]
struct Bell {
    sleeps: AtomicBool,
    writer: OnceLock<Thread>,
}

impl Bell {
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeps.load(Ordering::Relaxed) && self.sleeps.swap(false, Ordering::Relaxed) {
            self.ring_loudly();
        }
    }

    /// Whatever it does now, it looks again.
    fn ring_loudly(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    fn lie_down(&self) {
        self.sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn get_up(&self) {
        self.sleeps.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_rationed_lines_are_written_in_a_second() {
        let (queue, _taken_out) = Queue::new(&Arc::default());
        let start = Instant::now();
        let passed = |now| (0..1000).filter(|_| queue.has_ration(now)).count();
        assert_eq!(passed(start), 100);
        assert_eq!(passed(start + RATION_WINDOW / 2), 0);
        assert_eq!(passed(start + RATION_WINDOW), 100);
    }

    #[test]
    fn a_full_queue_drops_and_does_not_wait() {
        let (queue, taken_out) = Queue::new(&Arc::default());
        for _ in 0..ENTRIES_MAX {
            assert_eq!(queue.push(Box::new(entry::sample())), Ok(()));
        }
        assert_eq!(queue.push(Box::new(entry::sample())), Err(Dropped));
        assert!(taken_out.try_recv().is_ok());
        assert_eq!(queue.push(Box::new(entry::sample())), Ok(()));
    }
}
