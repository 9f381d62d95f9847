//! The access log: a line for each request of FastCGI routes that ask for it.
//!
//! A worker puts what it knows of a finished request into a bounded queue of its own and goes on; when
//! the queue is full, the line is lost and counted. A thread for each file takes the queues out, makes
//! lines of what it finds and writes them: whatever a disk or a pipe does to it, nobody else waits.
//!
//! The thread sleeps while nothing is asked of it. The first entry wakes it; then it looks every
//! `LOOK_INTERVAL` until it finds nothing, so a busy worker wakes nobody.

mod entry;
mod line;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

pub use entry::{Entry, Upstream, Words};
pub use writer::{AccessLogError, Writers};

/// Entries of one worker that wait to be written. At the 45,000 requests that a worker serves in a second
/// it is full after 180 ms, more than three of the writer's looks; with the longest words, it holds some
/// 40 MB.
const ENTRIES_MAX: usize = 8192;

/// How often the writer looks while there is something to write: rarely enough to cost nothing, and often
/// enough that [`ENTRIES_MAX`] has room for what comes meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// One worker's end of its queue. See the module.
#[derive(Debug)]
pub struct Queue {
    entries: SyncSender<Box<Entry>>,
    bell: Arc<Bell>,
}

/// The queue had no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped;

impl Queue {
    fn new(bell: &Arc<Bell>) -> (Self, Receiver<Box<Entry>>) {
        let (entries, taken_out) = mpsc::sync_channel(ENTRIES_MAX);
        let bell = Arc::clone(bell);
        (Self { entries, bell }, taken_out)
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
