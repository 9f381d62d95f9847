//! The main thread's part once everything runs: signals, commands, and the ends of workers and helpers.

use std::error::Error as _;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time;

use crate::commands::{Asked, Asker, Commands, ControlCommand, ControlOutcome, ControlReply};
use crate::config::Config;
use crate::observe::Observed;
use crate::observe::pulse::PULSE_TIMEOUT;
use crate::sys::signals;
use crate::worker::Notice;

use super::by_hand::ByHand;
use super::helpers::{EndedHelpers, Helpers};
use super::reload::{Around, Progress, Reloading};
use super::service::{RETIRED_LOOK_INTERVAL, Service};
use super::signals::{Stop, StopSignals};
use super::sites::Sites;
use super::socket_files::{BoundAgain, Watch, Which};
use super::succession::{Predecessor, Succeeded, Succession, Upgrading, next_news, overlap};
use super::supervisor::Supervisor;
use super::workers::{WorkerError, Workers};
use super::{Error, idle};

/// How long a drain may take when a worker has failed: until the daemon has ended and was started again, a part of
/// the clients waits for nobody. Where a helper has, addresses or logs are old by then.
const FAILED_DRAIN_MAX: Duration = Duration::from_secs(30);

/// A signal within this time of the first one is the same wish: timeout(1), for one, sends it to the program, and then
/// to its process group.
const SAME_WISH: Duration = Duration::from_millis(100);

/// How long workers may take to cut their sessions: they do it in one turn. One that hangs in a
/// system call must not keep the process from ending.
const CUT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the process may take to end when nothing is left to do: access logs that take nothing have five seconds.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// What runs until the daemon is to end.
pub(super) struct Serving {
    pub(super) workers: Workers,
    pub(super) service: Service,
    pub(super) reloading: Reloading,
    pub(super) upgrading: Upgrading,
    pub(super) sites: Sites,
    /// Of the sockets' files. `None`: it has ended.
    pub(super) watch: Option<Watch>,
    pub(super) helpers: Helpers,
    pub(super) ended_helpers: EndedHelpers,
    pub(super) observed: Arc<Observed>,
    pub(super) supervisor: Supervisor,
    /// The daemon that was here before, while it drains.
    pub(super) predecessor: Option<Predecessor>,
    pub(super) succession: Succession,
}

/// What has ended the service.
struct Ended {
    failed: Result<(), Error>,
    /// How long a drain may take.
    patience: Patience,
    /// The process that has taken the daemon's place.
    successor: Option<Succeeded>,
}

impl Serving {
    /// Serves until something ends that, and lets the workers finish. On the runtime.
    pub(super) async fn run(
        mut self,
        stop: &mut StopSignals,
        commands: Commands,
    ) -> Result<(), Error> {
        let Ended {
            failed,
            patience,
            mut successor,
        } = self.until_an_end(stop, commands).await;
        if successor.is_none() {
            successor = self.settle_succession().await;
        }
        let is_handed_over = successor.is_some();
        match &successor {
            Some(successor) => self.hand_over(successor).await,
            None => self.give_up(patience).await,
        }
        let predecessor_is_gone = Notify::new();
        if self.predecessor.is_none() {
            predecessor_is_gone.notify_one();
        }
        let finish = async {
            let drained = drain(&mut self.workers, stop, patience).await;
            // What it keeps of the permits, only this one can tell the successor.
            tokio::select! {
                () = predecessor_is_gone.notified() => {}
                signal = stop.next() => tracing::warn!("{signal} again: ending at once"),
            }
            drained
        };
        let (service, predecessor) = (&mut self.service, &mut self.predecessor);
        let drained = tokio::select! {
            drained = finish => drained,
            () = overlap(service, predecessor, &mut successor, &predecessor_is_gone) => {
                unreachable!("it goes on for as long as the drain does")
            }
        };
        if let Some(succeeded) = successor {
            // The last clients that leave are on their way.
            succeeded.part().await;
        }
        if is_handed_over {
            self.sites.give_last_answers().await;
        }
        bound_the_end(&drained);
        failed.and_then(|()| drained.map_err(Error::from))
    }

    /// Serves until something ends that. Then commands have come too late.
    async fn until_an_end(&mut self, stop: &mut StopSignals, commands: Commands) -> Ended {
        let (mut commands, mut arrivals) = commands.split();
        let observed = Arc::clone(&self.observed);
        let mut idle_time = self.service.config.exit_idle_time;
        let idle = idle::wait(&observed, idle_time);
        tokio::pin!(idle);
        loop {
            let patience = Patience::configured(&self.service.config);
            tokio::select! {
                signal = stop.next() => {
                    let patience = match signal {
                        Stop::Abort => patience_after_abort(&observed, patience).await,
                        _ => patience,
                    };
                    tracing::info!("{signal}: draining");
                    return Ended::well(patience);
                }
                time = &mut idle => {
                    tracing::info!("no session for {time:?} (--exit-idle-time): draining");
                    return Ended::well(patience);
                }
                // A worker ends by itself only when it fails, and without it the others would
                // serve on with part of the clients waiting for nobody.
                end = self.workers.next_end() => {
                    let failed = end.unwrap_or(Ok(())).map_err(Error::from);
                    tell_failure(&failed, "its sessions are lost, the other workers finish theirs");
                    return Ended::badly(failed, patience);
                }
                ended = self.ended_helpers.next() => {
                    let failed = Err(Error::from(ended));
                    tell_failure(&failed, "sessions are finished");
                    return Ended::badly(failed, patience);
                }
                bound = bound_again(&mut self.watch) => self.replace(bound),
                () = time::sleep(RETIRED_LOOK_INTERVAL), if !self.service.retired.is_empty() => {
                    self.service.look_after_retired(&self.workers, &observed, Instant::now());
                }
                asked = commands.next() => match self.succession.is_under_way() {
                    true => self.succession.postpone(asked),
                    false => self.obey(asked),
                },
                arrival = arrivals.next() => self.welcome(arrival),
                step = self.succession.next() => {
                    if let Some(successor) = self.go_on_with_succession(step).await {
                        return Ended {
                            successor: Some(successor),
                            ..Ended::well(patience)
                        };
                    }
                }
                news = next_news(&mut self.predecessor) => {
                    self.service.heed(news, &mut self.predecessor);
                }
                failed = self.upgrading.failed() => self.end_upgrade(failed).await,
                progress = self.reloading.next() => {
                    self.go_on_with_reload(progress).await;
                    if idle_time != self.service.config.exit_idle_time {
                        idle_time = self.service.config.exit_idle_time;
                        idle.set(idle::wait(&observed, idle_time));
                    }
                }
            }
        }
    }

    /// Carries a command out, or begins to.
    pub(super) fn obey(&mut self, asked: Asked) {
        let Asked { command, asker } = asked;
        match command {
            ControlCommand::Reload => self.reload(asker),
            ControlCommand::Upgrade => match self.service.obstacle_to_succession() {
                Some(obstacle) => asker.tell(ControlReply::refused([obstacle])),
                None => self.upgrading.wish(asker),
            },
            command @ (ControlCommand::Drain { .. }
            | ControlCommand::Undrain { .. }
            | ControlCommand::Weight { .. }
            | ControlCommand::Pause { .. }
            | ControlCommand::Resume { .. }) => self.by_hand().obey(command, asker),
        }
    }

    fn by_hand(&self) -> ByHand {
        ByHand {
            observed: Arc::clone(&self.observed),
            mailboxes: self.workers.mailboxes().to_vec(),
        }
    }

    // --- reloads ------------------------------------------------------------------------------

    fn reload(&mut self, asker: Asker) {
        if self.reloading.wish([asker]) {
            self.supervisor.reloading();
        }
    }

    async fn go_on_with_reload(&mut self, progress: Progress) {
        match progress {
            Progress::Read(configured) => match self.service.plan(*configured) {
                Ok((plan, wanted)) => self.reloading.make(plan, wanted),
                Err(obstacles) => self.end_reload(ControlReply::refused(obstacles)),
            },
            Progress::Made(made) => {
                let Some(watch) = &mut self.watch else { return };
                let (plan, made) = *made;
                let around = Around {
                    workers: &self.workers,
                    observed: &self.observed,
                    watch,
                };
                let report = self.service.take_over(plan, made, around).await;
                self.end_reload(match report {
                    Ok(lines) => ControlReply::done(lines),
                    Err(obstacles) => ControlReply::refused(obstacles),
                });
            }
            Progress::Refused(obstacles) => self.end_reload(ControlReply::refused(obstacles)),
            Progress::Mistaken(lines) => self.end_reload(ControlReply::mistaken(lines)),
        }
    }

    /// Tells everybody who wanted it how it ended.
    fn end_reload(&mut self, reply: ControlReply) {
        match reply.outcome {
            ControlOutcome::Done => {
                let hash = self.service.effective.hash();
                self.observed.config.taken_over(hash);
            }
            ControlOutcome::Refused | ControlOutcome::Mistaken => self.observed.config.refused(),
        }
        self.supervisor.reloaded(&self.observed);
        let (askers, late) = self.reloading.end();
        for asker in askers {
            asker.tell(reply.clone());
        }
        // One for all of them: it reads what each of them has written.
        if self.reloading.wish(late) {
            self.supervisor.reloading();
        }
        if !self.reloading.is_under_way() {
            self.welcome_who_waits();
        }
    }

    // --- sockets ------------------------------------------------------------------------------

    /// A socket takes the place of the one whose path it was bound to. To be called on the runtime.
    fn replace(&mut self, bound: BoundAgain) {
        let address = bound.listener.address().clone();
        let replaced = match bound.which {
            Which::Clients(id) => self.service.replace(id, bound.listener, &self.workers),
            Which::Control => {
                self.sites
                    .replace_control(bound.listener, &self.observed, &self.helpers)
            }
        };
        if let Err(error) = replaced {
            // Its file is gone again with it, and the next look begins anew.
            tracing::error!(
                "the socket {address} was bound again and cannot be served: {error} (raise the limit of open \
                 descriptors, LimitNOFILE= under systemd)"
            );
        }
    }

    /// A successor may have the paths from now on. What is left are the workers, and the sockets in whose backlogs
    /// somebody may wait. The control socket's file goes when the drain is over.
    async fn give_up(&mut self, patience: Patience) {
        self.observed.phase.drain();
        self.upgrading.give_up();
        let at_most = patience.at_most.map(|time| time + CUT_TIMEOUT);
        self.supervisor.stopping(&self.observed, at_most);
        if let Some(watch) = self.watch.take() {
            for bound in watch.stop().await {
                self.replace(bound);
            }
        }
        self.sites.give_up();
        self.service.end_sockets();
    }
}

impl Serving {
    /// Another process serves. What it has not taken goes as at any end.
    async fn hand_over(&mut self, successor: &Succeeded) {
        self.observed.phase.drain();
        self.supervisor.succeeded_by(successor.pid);
        if let Some(watch) = self.watch.take() {
            for bound in watch.stop().await {
                self.replace(bound);
            }
        }
        self.sites.hand_over(&successor.takes);
        self.service.let_clients_go(successor);
        self.service.hand_sockets_over(&successor.takes);
        // Whoever hears of it finds it so.
        self.upgrading.succeeded(successor.pid, &successor.version);
    }
}

impl Ended {
    fn well(patience: Patience) -> Self {
        Self {
            failed: Ok(()),
            patience,
            successor: None,
        }
    }

    fn badly(failed: Result<(), Error>, patience: Patience) -> Self {
        Self {
            failed,
            patience: patience.after_failure(),
            successor: None,
        }
    }
}

/// Never, if no file is watched.
async fn bound_again(watch: &mut Option<Watch>) -> BoundAgain {
    match watch {
        Some(watch) => watch.next().await,
        None => pending().await,
    }
}

fn tell_failure(failed: &Result<(), Error>, what_follows: &str) {
    let Err(error) = failed else { return };
    let cause = error.source().map(|cause| format!(": {cause}"));
    tracing::error!(
        "{error}{}; {what_follows}, and the daemon ends",
        cause.unwrap_or_default()
    );
}

/// A watchdog that sends SIGABRT is right if a worker does not turn: such a drain would never end.
async fn patience_after_abort(observed: &Observed, configured: Patience) -> Patience {
    let stuck = observed.stuck_workers(PULSE_TIMEOUT).await;
    if stuck.is_empty() {
        return configured;
    }
    tracing::error!("SIGABRT, and workers {stuck:?} do not turn");
    Patience {
        at_most: Some(Duration::ZERO),
        limit: "there is nothing to wait for",
    }
}

/// How long a drain may take.
#[derive(Clone, Copy)]
struct Patience {
    at_most: Option<Duration>,
    /// What is said when that is over.
    limit: &'static str,
}

impl Patience {
    fn configured(config: &Config) -> Self {
        Self {
            at_most: config.drain_timeout,
            limit: "--drain-timeout has passed",
        }
    }

    /// Until the daemon has ended and was started again, something stands still.
    fn after_failure(self) -> Self {
        match self.at_most {
            Some(at_most) if at_most <= FAILED_DRAIN_MAX => self,
            Some(_) | None => Self {
                at_most: Some(FAILED_DRAIN_MAX),
                limit: "after a failure a drain may take no longer",
            },
        }
    }
}

/// Lets the workers finish, for as long as is allowed.
async fn drain(
    workers: &mut Workers,
    stop: &mut StopSignals,
    patience: Patience,
) -> Result<(), WorkerError> {
    workers.post(Notice::Drain);
    tokio::select! {
        drained = workers.all_ended() => return drained,
        signal = another(stop) => tracing::warn!("{signal} again: ending at once"),
        () = sleep(patience.at_most) => tracing::warn!("{}: ending at once", patience.limit),
    }
    workers.post(Notice::Cut);
    tokio::select! {
        ended = workers.all_ended() => ended,
        () = time::sleep(CUT_TIMEOUT) => Err(WorkerError::Stuck),
    }
}

/// What is left is a matter of milliseconds, unless something hangs that the end waits for: a lock that a worker holds
/// which turns no more, a file system. Then the process ends all the same.
fn bound_the_end(drained: &Result<(), WorkerError>) {
    let line = match drained {
        Err(WorkerError::Stuck) => {
            "spliceway: end the workers: one of them hangs in a system call, or holds what the end waits for (the \
             process ends without it)\n"
        }
        Ok(()) | Err(_) => {
            "spliceway: end the process: something that it waits for hangs, such as a file system (it ends without waiting \
             any longer)\n"
        }
    };
    if let Err(error) = signals::end_within(END_TIMEOUT, line) {
        tracing::debug!("bound the time that the end may take: {error}");
    }
}

/// A signal that is not the one that began the drain.
async fn another(stop: &mut StopSignals) -> Stop {
    let began = time::Instant::now();
    loop {
        let signal = stop.next().await;
        if began.elapsed() >= SAME_WISH {
            return signal;
        }
    }
}

async fn sleep(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => time::sleep(timeout).await,
        None => pending().await,
    }
}
