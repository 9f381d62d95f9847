//! The workers' threads.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time;

use crate::counters::WorkerCounters;
use crate::driver::epoll::Epoll;
use crate::driver::uring::Uring;
use crate::driver::{Driver, Limits};
use crate::sys::{Errno, process};
use crate::worker::{Mailbox, Notice, Order, Receipt, Share, Shared, Worker};

use super::Error;
use super::engine::Chosen;

/// How long workers may take to do what they are told: a turn is a matter of milliseconds.
const OBEY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether they have.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// The running workers.
pub(super) struct Workers {
    mailboxes: Vec<Arc<Mailbox>>,
    ended: UnboundedReceiver<WorkerEnd>,
    running: usize,
}

/// What a worker's thread is started with.
pub(super) struct Assignment {
    pub(super) engine: Chosen,
    pub(super) limits: Limits,
    /// What it serves.
    pub(super) shares: Vec<Share>,
    /// The processor to be bound to.
    pub(super) processor: Option<usize>,
    /// How long it looks for work before it sleeps.
    pub(super) busy_poll: Option<Duration>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) shared: Arc<Shared>,
}

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WorkerError {
    #[error("start the thread of worker {number}")]
    Thread {
        number: usize,
        source: std::io::Error,
    },
    #[error("pin worker {number} to processor {processor} (start without --pin)")]
    Pin {
        number: usize,
        processor: usize,
        source: Errno,
    },
    #[error("set up the driver of worker {number} (try --engine epoll, or fewer --workers)")]
    Driver { number: usize, source: Errno },
    #[error("worker {number} failed")]
    Failed { number: usize, source: Errno },
    #[error("end the workers: one of them hangs in a system call (the process ends without it)")]
    Stuck,
    #[error("worker {number} panicked (this is a bug; please report what the log says)")]
    Panicked { number: usize },
}

/// How a worker has ended.
struct WorkerEnd {
    number: usize,
    /// `None`: it has panicked.
    outcome: Option<Result<(), Errno>>,
}

/// Says how the worker has ended, also when it panics. Its thread may last longer, and nobody joins it: what the kernel
/// takes its time for, as with a ring, does not hold up the main thread.
struct SayWorkerEnd {
    say: UnboundedSender<WorkerEnd>,
    number: usize,
    outcome: Option<Result<(), Errno>>,
}

impl Drop for SayWorkerEnd {
    fn drop(&mut self) {
        // Nobody listens only when the daemon has given up on its workers.
        let _ = self.say.send(WorkerEnd {
            number: self.number,
            outcome: self.outcome,
        });
    }
}

impl Workers {
    /// Starts a thread for each assignment, waits until all of them could serve, has clients let in, and only
    /// then lets them serve.
    pub(super) fn start(
        assignments: Vec<Assignment>,
        let_in: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let (ready, all_ready) = mpsc::channel();
        let mut begin = Vec::new();
        let (end, ended) = unbounded_channel();
        let mut workers = Self {
            mailboxes: assignments.iter().map(|a| Arc::clone(&a.mailbox)).collect(),
            ended,
            running: 0,
        };
        for (number, assignment) in assignments.into_iter().enumerate() {
            let ready = ready.clone();
            let (go, may_begin) = mpsc::channel();
            begin.push(go);
            let say_end = SayWorkerEnd {
                say: end.clone(),
                number,
                outcome: None,
            };
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    // All of it, and not a copy of the field.
                    let mut say_end = say_end;
                    say_end.outcome = Some(assignment.carry_out(number, ready, &may_begin));
                })
                .map_err(|source| WorkerError::Thread { number, source })?;
            workers.running += 1;
        }
        drop(ready);
        for outcome in all_ready {
            outcome?;
        }
        let_in()?;
        for go in begin {
            // It waits for this, and cannot have ended.
            let _ = go.send(());
        }
        Ok(workers)
    }

    /// Tells every worker.
    pub(super) fn post(&self, notice: Notice) {
        for mailbox in &self.mailboxes {
            mailbox.post(notice);
        }
    }

    /// Where each of them is told something.
    pub(super) fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }

    /// Has one worker do something.
    pub(super) fn order(&self, worker: usize, order: Order) {
        self.mailboxes[worker].order(order);
    }

    /// Has each worker say when it has done what it was told before. Returns how many have yet to.
    pub(super) fn acknowledge(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let (receipts, are_out) = Receipt::some(self.mailboxes.len());
        for (mailbox, receipt) in self.mailboxes.iter().zip(receipts) {
            mailbox.order(Order::Acknowledge(receipt));
        }
        are_out
    }

    /// Waits until each of them has done what it was told before. Whether all have, in time: one that has not will, when
    /// it turns again.
    pub(super) async fn have_obeyed(&self) -> bool {
        let are_out = self.acknowledge();
        let all_have = async {
            while are_out() > 0 {
                time::sleep(LOOK_INTERVAL).await;
            }
        };
        time::timeout(OBEY_TIMEOUT, all_have).await.is_ok()
    }

    /// Waits until one worker has ended, well or badly; `None` once all of them have.
    pub(super) async fn next_end(&mut self) -> Option<Result<(), WorkerError>> {
        if self.running == 0 {
            return None;
        }
        let ended = self.ended.recv().await;
        let WorkerEnd { number, outcome } = ended.expect("a running worker can still say so");
        self.running -= 1;
        Some(match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(source)) => Err(WorkerError::Failed { number, source }),
            None => Err(WorkerError::Panicked { number }),
        })
    }

    /// Waits until all workers have ended; the first failure counts.
    pub(super) async fn all_ended(&mut self) -> Result<(), WorkerError> {
        let mut outcome = Ok(());
        while let Some(end) = self.next_end().await {
            outcome = outcome.and(end);
        }
        outcome
    }
}

impl Assignment {
    fn carry_out(
        self,
        number: usize,
        ready: mpsc::Sender<Result<(), WorkerError>>,
        may_begin: &mpsc::Receiver<()>,
    ) -> Result<(), Errno> {
        if let Some(processor) = self.processor
            && let Err(source) = process::pin(processor)
        {
            let _ = ready.send(Err(WorkerError::Pin {
                number,
                processor,
                source,
            }));
            return Err(source);
        }
        let (waker, limits) = (self.mailbox.waker(), self.limits);
        match self.engine {
            Chosen::IoUring => self.serve(number, ready, may_begin, Uring::new(waker, limits)),
            Chosen::Epoll => self.serve(number, ready, may_begin, Epoll::new(waker, limits)),
        }
    }

    fn serve<D: Driver>(
        self,
        number: usize,
        ready: mpsc::Sender<Result<(), WorkerError>>,
        may_begin: &mpsc::Receiver<()>,
        driver: Result<D, Errno>,
    ) -> Result<(), Errno> {
        match driver {
            Ok(driver) => {
                let _ = ready.send(Ok(()));
                // The start waits until nobody can say any more.
                drop(ready);
                if may_begin.recv().is_err() {
                    // The start has failed elsewhere, and says why.
                    return Ok(());
                }
                let Self {
                    shares,
                    shared,
                    mailbox,
                    counters,
                    busy_poll,
                    ..
                } = self;
                Worker::new(number, driver, shares, shared, mailbox, counters)
                    .polling_for(busy_poll)
                    .run()
            }
            Err(source) => {
                let _ = ready.send(Err(WorkerError::Driver { number, source }));
                Err(source)
            }
        }
    }
}
