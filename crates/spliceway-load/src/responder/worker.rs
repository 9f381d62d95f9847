//! The event loop of one responder thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::connection::{Broken, Connection, Context};
use super::{Manner, Tally};
use crate::net::{Arrival, Stream};
use crate::timer::Alarm;

/// Room for a whole request with its body in few receives.
const BUFFER_LEN: usize = 256 * 1024;

/// Events taken at one time: more connections than are usually ready at once.
const EVENTS_MAX: usize = 1024;

/// Connections taken in a row before those that are there get their turn.
const ACCEPTS_MAX: usize = 64;

/// How long a thread rests when accept(2) fails (descriptors used up), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Wakes the loop when the responder ends.
const WAKER: Token = Token(0);

/// Wakes the loop when a delayed answer is due.
const ALARM: Token = Token(1);

/// The first listener; the connections come behind the listeners.
const LISTENERS: usize = 2;

/// A listening socket.
pub(super) enum Listener {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(listener) => listener,
            Self::Unix(listener) => listener,
        }
    }
}

/// What the threads of a responder share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Set once at the end. It orders no other memory: the waker that follows it does.
    pub(super) ended: AtomicBool,
    /// Connections that are open, over all threads, and accepts that are being tried. Raised before
    /// an accept and lowered at the end of the connection or if there was none; nothing else depends
    /// on it.
    pub(super) open: AtomicUsize,
    /// The most that there were at one time.
    pub(super) open_most: AtomicUsize,
    /// The limit on [`Shared::open`], if there is one.
    pub(super) workers: Option<usize>,
    /// How connections behave.
    pub(super) manner: Manner,
}

impl Shared {
    fn take_permit(&self) -> bool {
        let limit = self.workers.unwrap_or(usize::MAX);
        let take = |open: usize| (open < limit).then_some(open + 1);
        let taken = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok()
    }

    fn use_permit(&self) {
        let open = self.open.load(Ordering::Relaxed);
        self.open_most.fetch_max(open, Ordering::Relaxed);
    }

    fn give_permit_back(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One thread's loop.
pub(super) struct Worker {
    poll: Poll,
    alarm: Alarm,
    listeners: Vec<Listener>,
    /// Which listeners may have connections waiting.
    pending: Vec<bool>,
    /// Not to be asked before this time, after an accept that failed.
    accept_at: Option<Instant>,
    connections: Slab<Connection>,
    /// When delayed answers are due, and whose they are. A connection that ended meanwhile, or that
    /// has another number now, is woken for nothing.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    buffer: Box<[u8]>,
    shared: Arc<Shared>,
    /// Wakes every thread: one of them may be waiting for a permit.
    wakers: Vec<Arc<Waker>>,
    tally: Arc<Tally>,
}

impl Worker {
    /// A loop that is ready to run, and what wakes it.
    pub(super) fn new(
        mut listeners: Vec<Listener>,
        shared: Arc<Shared>,
        tally: Arc<Tally>,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        for (index, listener) in listeners.iter_mut().enumerate() {
            let token = Token(LISTENERS + index);
            poll.registry()
                .register(listener.source(), token, Interest::READABLE)?;
        }
        let worker = Self {
            poll,
            alarm,
            pending: vec![true; listeners.len()],
            listeners,
            accept_at: None,
            connections: Slab::new(),
            due: BinaryHeap::new(),
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            shared,
            wakers: Vec::new(),
            tally,
        };
        Ok((worker, waker))
    }

    /// Tells the worker how to wake the others.
    pub(super) fn set_wakers(&mut self, wakers: Vec<Arc<Waker>>) {
        self.wakers = wakers;
    }

    /// Serves until the responder ends.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.shared.ended.load(Ordering::Relaxed) {
            let more = self.accept();
            let timeout = self.timeout(more);
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => unreachable!("epoll_wait on a descriptor of our own: {error}"),
            }
            let base = self.base();
            for event in &events {
                match event.token() {
                    WAKER => self.pending.fill(true),
                    ALARM => {}
                    Token(token) if token < base => self.pending[token - LISTENERS] = true,
                    Token(token) => self.advance(token - base, Arrival::of(event)),
                }
            }
            self.wake_due();
        }
    }

    /// The first connection's token.
    fn base(&self) -> usize {
        LISTENERS + self.listeners.len()
    }

    /// How long to wait for events at most; sets the alarm for the next delayed answer.
    fn timeout(&mut self, more: bool) -> Option<Duration> {
        if more {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        if let Some(Reverse((due, _))) = self.due.peek() {
            self.alarm.set(*due, now);
        }
        let accept_at = self.accept_at?;
        Some(accept_at.saturating_duration_since(now))
    }

    /// Takes connections as far as permits and fairness allow; whether there may be more to take.
    fn accept(&mut self) -> bool {
        if self.accept_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        self.accept_at = None;
        let mut accepted = 0;
        for index in 0..self.listeners.len() {
            while self.pending[index] {
                if accepted == ACCEPTS_MAX {
                    return true;
                }
                if !self.shared.take_permit() {
                    return false;
                }
                match self.listeners[index].accept() {
                    Ok(stream) => {
                        accepted += 1;
                        self.serve(stream);
                    }
                    Err(error) => {
                        self.shared.give_permit_back();
                        self.refuse(index, &error);
                        if self.accept_at.is_some() {
                            return false;
                        }
                    }
                }
            }
        }
        false
    }

    /// An accept has failed.
    fn refuse(&mut self, index: usize, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.pending[index] = false,
            // accept(2): errors of the new connection; there may be others behind it.
            io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
            _ => self.accept_at = Some(Instant::now() + ACCEPT_PAUSE),
        }
    }

    fn serve(&mut self, stream: Stream) {
        self.tally.opened();
        self.shared.use_permit();
        let index = self
            .connections
            .insert(Connection::new(stream, self.shared.manner));
        // The request is usually there already, before anybody watches.
        self.advance(index, Arrival::Unread);
    }

    fn advance(&mut self, index: usize, arrival: Arrival) {
        let base = self.base();
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.note(arrival);
        let mut answered = 0;
        let mut context = Context {
            registry: self.poll.registry(),
            token: Token(base + index),
            buffer: &mut self.buffer,
            workers: self.shared.workers,
            answered: &mut answered,
        };
        let outcome = connection.advance(&mut context);
        self.tally.answered(answered);
        if let Err(Broken::Request(bad)) = outcome {
            tracing::debug!("a connection is closed: {bad}");
            self.tally.refused();
        }
        if let Some(due) = connection.due() {
            self.due.push(Reverse((due, index)));
        }
        if connection.is_over() {
            self.connections.remove(index);
            self.release();
        }
    }

    /// A connection is over: somebody else may be accepted.
    fn release(&self) {
        self.shared.give_permit_back();
        if self.shared.workers.is_some() {
            for waker in &self.wakers {
                // Without a wake-up the next event wakes it; nothing is lost.
                let _ = waker.wake();
            }
        }
    }

    fn wake_due(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((due, index))) = self.due.peek().copied() {
            if due > now {
                return;
            }
            self.due.pop();
            self.advance(index, Arrival::Drained);
        }
    }
}
