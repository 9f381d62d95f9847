//! The event loop of one load thread.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use super::Control;
use super::answer::Measure;
use super::client::{Address, Client, Context, Due, Outcome, Tally};
use super::plan::{Pace, Plan};
use super::problem::{Failure, Problem};
use super::request::Template;
use super::schedule::{Schedule, Span};
use crate::net::Arrival;
use crate::timer::Alarm;
use spliceway_common::sys::process::thread_cpu;

/// Received at one time. Large enough that the calls for a large answer do not count, small enough
/// that it and the pattern stay in a core's cache.
const BUFFER_LEN: usize = 256 * 1024;

/// Events taken at one time: more connections than are usually ready at once.
const EVENTS_MAX: usize = 1024;

/// How often a loop looks at deadlines, at what other threads have done and at what the user wants.
const TICK: Duration = Duration::from_millis(50);

/// When to try again after a full backlog, if no answer shows before that somebody accepts. epoll
/// counts in milliseconds.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// The histograms' upper end: much longer than any deadline that somebody waits for.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// The histograms' precision in decimal digits.
const LATENCY_DIGITS: u8 = 3;

/// Wakes an open loop when a request is due. The clients' tokens are their numbers.
const ALARM: Token = Token(usize::MAX);

/// An empty histogram; all have the same bounds.
pub(super) fn histogram() -> Histogram<u64> {
    let most_ns = u64::try_from(LATENCY_MAX.as_nanos()).expect("an hour in nanoseconds");
    Histogram::new_with_bounds(1, most_ns, LATENCY_DIGITS).expect("the bounds are constant")
}

/// What the threads of a load share.
pub(super) struct Shared<'a> {
    pub(super) plan: &'a Plan,
    pub(super) control: &'a Control,
    pub(super) address: Address,
    pub(super) measure: Measure,
    /// Client threads.
    pub(super) threads: usize,
    /// The first request's nonce: different in each load, so that no answer fits another one's.
    pub(super) nonce_base: u64,
    /// Requests that counted when they were taken, for the plan's limit on them.
    pub(super) taken: AtomicU64,
    /// One thread has failed: the others stop. It orders no other memory; the failure itself comes
    /// back through the thread's join.
    pub(super) failed: AtomicBool,
}

/// One thread's part of the result.
pub(super) struct Share {
    pub(super) latency_ns: Histogram<u64>,
    pub(super) response_bytes: u64,
    pub(super) last_answer: Instant,
    pub(super) tally: Tally,
    /// What an application wrote to its error output, if one did.
    pub(super) warning: Option<String>,
    pub(super) cpu: Duration,
}

/// Whether there is more to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    /// As the pace has it.
    Open,
    /// The time is over, the last request is taken, or somebody said stop.
    Over,
}

/// What the pace says.
enum Next {
    /// A request is due.
    Request(Due),
    /// One will be.
    Later,
    /// No more.
    None,
}

/// One thread's loop.
pub(super) struct Worker<'a> {
    shared: &'a Shared<'a>,
    /// This thread's place, from 0.
    thread: usize,
    poll: Poll,
    alarm: Alarm,
    template: Template,
    clients: Vec<Client>,
    /// Clients that have nothing to do; the last to become free is the first to be used.
    free: Vec<usize>,
    /// Clients that wait for room in the backlog, in the order in which they came.
    queue: VecDeque<usize>,
    retry_at: Instant,
    schedule: Option<Schedule>,
    span: Span,
    supply: Supply,
    /// How many requests this thread has taken.
    index: u64,
    tick_at: Instant,
    /// Answers that [`Control::answered`] has not been told of.
    untold: u64,
    cpu_before: Option<Duration>,
    buffer: Box<[u8]>,
    share: Share,
}

impl<'a> Worker<'a> {
    /// A loop that is ready to run, with so many clients.
    pub(super) fn new(
        shared: &'a Shared<'a>,
        template: Template,
        thread: usize,
        clients: usize,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new(poll.registry(), ALARM)?;
        let now = Instant::now();
        Ok(Self {
            shared,
            thread,
            alarm,
            poll,
            template,
            clients: (0..clients).map(|_| Client::new(now)).collect(),
            free: (0..clients).rev().collect(),
            queue: VecDeque::new(),
            retry_at: now,
            schedule: None,
            span: Span::new(now, Duration::ZERO, Duration::ZERO),
            supply: Supply::Open,
            index: 0,
            tick_at: now,
            untold: 0,
            cpu_before: None,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            share: Share {
                latency_ns: histogram(),
                response_bytes: 0,
                last_answer: now,
                tally: Tally::default(),
                warning: None,
                cpu: Duration::ZERO,
            },
        })
    }

    /// Sends and receives until there is no more to send and everything is answered.
    pub(super) fn run(mut self, started: Instant) -> Result<Share, Failure> {
        self.begin(started);
        let mut events = Events::with_capacity(EVENTS_MAX);
        self.turn()?;
        while self.supply == Supply::Open || self.free.len() < self.clients.len() {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => unreachable!("epoll_wait on a descriptor of our own: {error}"),
            }
            for event in &events {
                if event.token() != ALARM {
                    self.advance(event.token().0, Arrival::of(event))?;
                }
            }
            self.turn()?;
        }
        let cpu_before = self.cpu_before.unwrap_or_default();
        self.share.cpu = thread_cpu().saturating_sub(cpu_before);
        Ok(self.share)
    }

    fn begin(&mut self, started: Instant) {
        let plan = self.shared.plan;
        self.span = Span::new(started, plan.warm_up, plan.duration);
        self.tick_at = started;
        self.share.last_answer = self.span.counting;
        self.schedule = match plan.pace {
            Pace::Closed { .. } => None,
            Pace::Open { rate, .. } => Some(Schedule::new(
                started,
                rate,
                self.thread,
                self.shared.threads,
            )),
        };
    }

    /// What is to be done beside events.
    fn turn(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.tick(now)?;
        }
        if self.cpu_before.is_none() && now >= self.span.counting {
            self.cpu_before = Some(thread_cpu());
            self.shared.control.counting.store(true, Ordering::Relaxed);
        }
        if !self.queue.is_empty() && (self.untold > 0 || now >= self.retry_at) {
            self.retry(now)?;
        }
        if self.untold > 0 {
            let answered = &self.shared.control.answered;
            answered.fetch_add(self.untold, Ordering::Relaxed);
            self.untold = 0;
        }
        self.dispatch(now)
    }

    /// What is looked at now and then.
    fn tick(&mut self, now: Instant) -> Result<(), Failure> {
        if self.shared.control.stop.load(Ordering::Relaxed) {
            self.supply = Supply::Over;
        }
        if self.shared.failed.load(Ordering::Relaxed) {
            // Somebody else tells why; what this thread has is of no use.
            self.supply = Supply::Over;
            self.clients.clear();
            self.free.clear();
            self.queue.clear();
            return Ok(());
        }
        self.check_deadlines(now)
    }

    fn check_deadlines(&self, now: Instant) -> Result<(), Failure> {
        let deadline = self.shared.plan.deadline;
        for client in &self.clients {
            if now.saturating_duration_since(client.due().intended) < deadline {
                continue;
            }
            if let Some(doing) = client.doing(&self.template) {
                let problem = Problem::Deadline { deadline, doing };
                return Err(self.failure(client.due().number, problem));
            }
        }
        let Some(schedule) = self.schedule.filter(|_| self.supply == Supply::Open) else {
            return Ok(());
        };
        if now.saturating_duration_since(schedule.due(self.index)) < deadline {
            return Ok(());
        }
        let connections = self.clients.len();
        let problem = Problem::Overload {
            deadline,
            connections,
        };
        Err(self.failure(self.number(), problem))
    }

    /// How long to wait for events at most; sets the alarm for the next request that is due.
    fn timeout(&mut self) -> Duration {
        let now = Instant::now();
        if !self.free.is_empty()
            && self.supply == Supply::Open
            && let Some(schedule) = &self.schedule
        {
            self.alarm.set(schedule.due(self.index), now);
        }
        if self.queue.is_empty() {
            self.tick_at.saturating_duration_since(now)
        } else {
            RETRY_INTERVAL
        }
    }

    /// Gives free clients the requests that are due.
    fn dispatch(&mut self, now: Instant) -> Result<(), Failure> {
        while let Some(&client) = self.free.last() {
            match self.next(now) {
                Next::Request(due) => {
                    self.free.pop();
                    self.step(client, |client, context| client.begin(due, context))?;
                }
                Next::Later => return Ok(()),
                Next::None => {
                    self.supply = Supply::Over;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn next(&mut self, now: Instant) -> Next {
        if self.supply == Supply::Over {
            return Next::None;
        }
        let intended = self
            .schedule
            .as_ref()
            .map_or(now, |schedule| schedule.due(self.index));
        if intended >= self.span.end {
            return Next::None;
        }
        if intended > now {
            return Next::Later;
        }
        if let Some(most) = self.shared.plan.requests_max
            && intended >= self.span.counting
            && self.shared.taken.fetch_add(1, Ordering::Relaxed) >= most
        {
            return Next::None;
        }
        let number = self.number();
        self.index += 1;
        Next::Request(Due {
            number,
            nonce: self.shared.nonce_base.wrapping_add(number),
            intended,
        })
    }

    /// The number of this thread's next request: the threads take turns.
    fn number(&self) -> u64 {
        self.index * self.shared.threads as u64 + self.thread as u64 + 1
    }

    /// Something has happened to a client's connection.
    fn advance(&mut self, client: usize, arrival: Arrival) -> Result<(), Failure> {
        let Some(known) = self.clients.get_mut(client) else {
            return Ok(());
        };
        known.note(arrival);
        self.step(client, Client::advance)
    }

    /// Tries the connects again that found the backlog full, until one does so once more.
    fn retry(&mut self, now: Instant) -> Result<(), Failure> {
        self.retry_at = now + RETRY_INTERVAL;
        while let Some(client) = self.queue.pop_front() {
            self.step(client, Client::advance)?;
            if self.clients[client].is_queueing() {
                // `step` has put it at the end of the queue, and it was the first.
                let again = self.queue.pop_back();
                self.queue.extend(again);
                self.queue.rotate_right(1);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lets a client act, and draws the consequences.
    fn step(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Client, &mut Context<'_>) -> Result<Outcome, Problem>,
    ) -> Result<(), Failure> {
        let client = &mut self.clients[index];
        let mut context = Context {
            registry: self.poll.registry(),
            token: Token(index),
            address: &self.shared.address,
            connections: self.shared.plan.connections,
            template: &mut self.template,
            measure: &self.shared.measure,
            buffer: &mut self.buffer,
            tally: &mut self.share.tally,
        };
        let outcome = act(client, &mut context);
        let due = client.due();
        match outcome {
            Ok(Outcome::Waiting) => {
                if client.is_queueing() {
                    self.queue.push_back(index);
                }
                Ok(())
            }
            Ok(Outcome::Answered) => {
                self.record(index, Instant::now());
                Ok(())
            }
            Ok(Outcome::AnsweredAndFree) => {
                let now = Instant::now();
                self.record(index, now);
                self.free.push(index);
                self.dispatch(now)
            }
            Ok(Outcome::Freed) => {
                self.free.push(index);
                self.dispatch(Instant::now())
            }
            Err(problem) => Err(self.failure(due.number, problem)),
        }
    }

    fn record(&mut self, index: usize, now: Instant) {
        self.untold += 1;
        let client = &self.clients[index];
        let intended = client.due().intended;
        if intended < self.span.counting {
            return;
        }
        let latency = now.saturating_duration_since(intended);
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.share.latency_ns.saturating_record(latency_ns);
        self.share.response_bytes += client.stdout_bytes();
        self.share.last_answer = now;
        if self.share.warning.is_none() && client.has_said() {
            self.share.warning = Some(client.said());
        }
    }

    fn failure(&self, request: u64, problem: Problem) -> Failure {
        self.shared.failed.store(true, Ordering::Relaxed);
        let problem = match problem {
            Problem::Foreign { nonce } => self.name(nonce),
            other => other,
        };
        Failure::Request {
            target: self.shared.plan.target.clone(),
            request,
            problem,
        }
    }

    /// Whose answer one with this nonce is.
    fn name(&self, nonce: u64) -> Problem {
        /// More requests than a load ever has.
        const NUMBER_MAX: u64 = 1 << 48;
        match nonce.wrapping_sub(self.shared.nonce_base) {
            other @ 1..=NUMBER_MAX => Problem::Mixed { other },
            _ => Problem::Foreign { nonce },
        }
    }
}
