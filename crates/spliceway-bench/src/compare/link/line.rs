//! The line: a thread that takes packets from either end and gives each to the other one after a time.
//!
//! It drops nothing. What it has not taken waits in the interface's queue, and what does not fit there is
//! dropped by the kernel, as by any router.

use std::collections::VecDeque;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use spliceway_common::sys::process::{punctual, thread_cpu};
use spliceway_common::sys::readiness;
use spliceway_common::sys::tun::{PACKET_MAX, Tun};

use crate::compare::results::LinkUse;

/// How much may be under way in one direction: 10 ms at the 6 GB/s that a core copies.
const UNDER_WAY_MAX: usize = 64 << 20;

/// Packets that are taken from one end before the other has its turn.
const BURST: usize = 64;

/// The running thread. Dropping it ends it, and with it the devices.
pub(super) struct Line {
    counts: Arc<Counts>,
    /// Its closing is what the thread is told.
    open: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread writes, and others read: figures that need not be of the same moment.
#[derive(Default)]
struct Counts {
    packets: AtomicU64,
    late_ns: AtomicU64,
    refused: AtomicU64,
    cpu_ns: AtomicU64,
}

impl Line {
    /// Starts it between two ends, with so long from one to the other.
    pub(super) fn start(ends: [Tun; 2], delay: Duration) -> anyhow::Result<Self> {
        let (told, open) = io::pipe().context("make a pipe for the link's thread")?;
        let counts = Arc::new(Counts::default());
        let of_thread = Arc::clone(&counts);
        let thread = thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || {
                punctual();
                if let Err(error) = run(&ends, delay, told.as_fd(), &of_thread) {
                    // What is being measured fails for want of answers, and here is why.
                    eprintln!("compare: the link has broken down: {error}");
                }
            });
        Ok(Self {
            counts,
            open: Some(open),
            thread: Some(thread.context("start the link's thread")?),
        })
    }

    /// What it has done so far.
    pub(super) fn used(&self) -> LinkUse {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LinkUse {
            packets: read(&self.counts.packets),
            late_us: read(&self.counts.late_ns) as f64 / 1e3,
            dropped: read(&self.counts.refused),
            cpu_us: read(&self.counts.cpu_ns) as f64 / 1e3,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.open.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell: a panic of its has been written to stderr.
            let _ = thread.join();
        }
    }
}

/// What is under way from one end to the other.
struct Direction<'a> {
    from: &'a Tun,
    to: &'a Tun,
    /// With the time at which each is due, in order.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

/// Until it is told to end, or an end of the link is gone.
fn run(ends: &[Tun; 2], delay: Duration, told: BorrowedFd<'_>, counts: &Counts) -> io::Result<()> {
    let [near, far] = ends;
    let mut directions = [Direction::new(near, far), Direction::new(far, near)];
    let mut buffer = vec![0; PACKET_MAX];
    loop {
        let mut all_taken = true;
        for direction in &mut directions {
            direction.deliver(counts);
            all_taken &= direction.take(delay, &mut buffer)?;
        }
        counts.cpu_ns.store(nanos(thread_cpu()), Ordering::Relaxed);
        let due = directions.iter().filter_map(Direction::due).min();
        let timeout = match all_taken {
            true => due.map(|due| due.saturating_duration_since(Instant::now())),
            false => Some(Duration::ZERO),
        };
        let [out, back] = directions.each_ref().map(Direction::wanted);
        // Nothing is ever written to the pipe: it is readable when it has been closed.
        let [_, _, is_told] = readiness::wait([out, back, Some(told)], timeout)?;
        if is_told {
            return Ok(());
        }
    }
}

impl<'a> Direction<'a> {
    fn new(from: &'a Tun, to: &'a Tun) -> Self {
        Self {
            from,
            to,
            under_way: VecDeque::new(),
            bytes: 0,
        }
    }

    /// When the next packet is.
    fn due(&self) -> Option<Instant> {
        self.under_way.front().map(|(due, _)| *due)
    }

    /// The end that packets are taken from, unless there are too many.
    fn wanted(&self) -> Option<BorrowedFd<'_>> {
        (self.bytes < UNDER_WAY_MAX).then(|| self.from.as_fd())
    }

    /// Gives the other end what is due.
    fn deliver(&mut self, counts: &Counts) {
        let mut now = Instant::now();
        while self.due().is_some_and(|due| due <= now)
            && let Some((due, packet)) = self.under_way.pop_front()
        {
            self.bytes -= packet.len();
            // The other network goes on without it, as after a loss on the way.
            if self.to.deliver(&packet).is_err() {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            counts.packets.fetch_add(1, Ordering::Relaxed);
            counts
                .late_ns
                .fetch_add(nanos(now - due), Ordering::Relaxed);
            now = Instant::now();
        }
    }

    /// Takes what has been sent; whether that was all that there is room for.
    fn take(&mut self, delay: Duration, buffer: &mut [u8]) -> io::Result<bool> {
        for _ in 0..BURST {
            if self.wanted().is_none() {
                return Ok(true);
            }
            let Some(len) = self.from.receive(buffer)? else {
                return Ok(true);
            };
            self.bytes += len;
            let packet = buffer[..len].to_vec();
            self.under_way.push_back((Instant::now() + delay, packet));
        }
        Ok(false)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
