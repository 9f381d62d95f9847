//! Starting, running and ending the daemon.
//!
//! The order of the start matters: signals first, so that none finds the default action; sockets
//! before threads, because binding sets the process's umask for a moment; the limit of descriptors
//! before anything that counts on it. What takes rights is done before the user is changed, and
//! everything else after it: access logs are opened anew later, so they are opened with the rights that
//! there are then, and never with root's in a directory of somebody else. Sockets listen last of all, when
//! nothing can fail any more: who connects to a daemon that does not come to serve would be cut off. The
//! order of the end is the reverse, and begins with what a successor needs.

mod accounts;
mod by_hand;
mod capacity;
pub mod check;
mod engine;
mod helpers;
mod idle;
mod inherited;
mod kernel;
pub mod listener;
mod listening;
pub mod logging;
mod loops;
mod memory;
mod privileges;
mod routes;
pub mod scarcity;
mod script_roots;
mod signals;
mod sites;
mod socket_files;
mod sockets;
mod supervisor;
mod upstreams;
mod workers;

use std::error::Error as _;
use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::sync::Notify;
use tokio::time;

use crate::access_log::{AccessLogError, Writers};
use crate::checks;
use crate::commands::{self, Asked, Commander, Commands, ControlCommand, ControlReply};
use crate::config::{Config, Descriptors, ListenAddress, Loaded, Route};
use crate::observe::pulse::PULSE_TIMEOUT;
use crate::observe::{
    ConfigFigures, DaemonPhase, Failures, Observed, ObservedRoutes, ObservedWorker,
};
use crate::resolver::{self, ResolverError, ResolverHandle, ResolverOptions};
use crate::sys::{Errno, process};
use crate::worker::{Crowd, Gate, Mailbox, Notice, RouteNumber, Shared, UserParts, Who};

pub use accounts::AccountLookupError;
use by_hand::ByHand;
pub use capacity::CapacityError;
use capacity::SessionCapacity;
use engine::Chosen;
pub use engine::Unavailable;
pub use helpers::HelperError;
use helpers::{EndedHelpers, Helpers, SayEnd, helpers};
pub use inherited::InheritError;
use inherited::Passed;
use kernel::Kernel;
pub use listener::ListenError;
use listening::ListeningSocket;
pub use loops::LoopError;
use privileges::Identity;
pub use privileges::{PrivilegeError, renounce};
use routes::Opened;
pub use routes::ShareError;
pub use script_roots::ScriptRootError;
use signals::{OtherSignals, Secured, Stop, StopSignals};
pub use sites::SiteError;
use sites::Sites;
use socket_files::{BoundAgain, Watch};
use sockets::{ClientSocket, Sockets};
use supervisor::Supervisor;
pub use upstreams::SourceError;
pub use workers::WorkerError;
use workers::{Assignment, Workers};

/// How long a drain may take when a worker has failed: until the daemon has ended and was started again, a part of
/// the clients waits for nobody. Where a helper has, addresses or logs are old by then.
const FAILED_DRAIN_MAX: Duration = Duration::from_secs(30);

/// A signal within this time of the first one is the same wish: timeout(1), for one, sends it to the program, and then
/// to its process group.
const SAME_WISH: Duration = Duration::from_millis(100);

/// How long workers may take to cut their sessions: they do it in one turn. One that hangs in a
/// system call must not keep the process from ending.
const CUT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the daemon did not start, or ended otherwise than by a signal.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("decide what signals do")]
    SecureSignals(#[source] Errno),
    #[error("prepare for signals")]
    Signals(#[source] io::Error),
    #[error("find the processors that may be used")]
    Processors(#[source] Errno),
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    #[error("{0}; --engine epoll works without it")]
    Engine(Unavailable),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Who(#[from] AccountLookupError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Loop(#[from] LoopError),
    #[error("start the thread that looks whether the sockets' files are there")]
    SocketFiles(#[source] io::Error),
    #[error(transparent)]
    Inherit(#[from] InheritError),
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error(transparent)]
    ScriptRoot(#[from] ScriptRootError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error("make a worker's mailbox")]
    Mailbox(#[source] Errno),
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Helper(#[from] HelperError),
}

/// What whoever started the process has for it: descriptors, and an ear.
#[derive(Debug)]
pub struct Handover {
    passed: Passed,
    supervisor: Supervisor,
    signals: Secured,
}

impl Handover {
    /// Takes it, and the variables of the environment that tell of it; signals lose their default action. To
    /// be called once, before any thread is started and anything is opened.
    ///
    /// # Errors
    /// If the kernel does not let signals be decided on.
    pub fn take() -> Result<Self, Error> {
        Ok(Self {
            signals: signals::secure().map_err(Error::SecureSignals)?,
            passed: Passed::take(),
            supervisor: Supervisor::take(),
        })
    }
}

/// Reads the configuration anew, from where the first one came: what it is now, or a line for each mistake. It may
/// take as long as a file system takes.
pub type ReadAgain = Box<dyn Fn() -> Result<Loaded, Vec<String>> + Send + Sync>;

/// Serves until a signal ends it, or until it has had nothing to do for as long as is configured.
pub fn run(loaded: Loaded, read_again: ReadAgain, handover: Handover) -> Result<(), Error> {
    let config = &loaded.config;
    let (mut passed, supervisor) = (handover.passed, handover.supervisor);
    let processors = process::processors().map_err(Error::Processors)?;
    let count = worker_count(config, processors.len());
    let listeners = listener_count(config, |wanted| passed.count(wanted));
    let kernel = Kernel::ask();
    let capacity = SessionCapacity::measure(config, count, listeners)?;
    let mut control = Control::new(&handover.signals)?;
    warn_of_long_queues(config, capacity.connections_max);
    let identity = look_up_rights(config)?;
    let mailboxes = mailboxes(count)?;
    let who = accounts::look_up_all(config)?;
    let mut routes = open_all(config, (who, capacity), &mailboxes, &mut passed)?;
    refuse_loops(config, &routes)?;
    let mut sites = Sites::bind(config, identity.as_ref(), control.commander.clone())?;
    privileges::settle(identity.as_ref())?;

    let engine = Chosen::choose(config.engine).map_err(Error::Engine)?;
    // Dropped once nobody puts anything in: then what is left is written.
    let mut access_logs = open_access_logs(config)?;
    passed.close_unclaimed();
    let (helpers, ended_helpers) = helpers();
    let _resolver = start_resolver(config, &routes, &helpers)?;
    let shared = share(config, &capacity, &mailboxes);
    start_tasks(config, &routes, &control, &helpers, &shared.gate);
    let accepting = accepting_workers(count, listeners, capacity.connections_max);
    let mut shares = routes::divide(&mut routes, accepting, &mut access_logs)?.into_iter();
    let say_end = || helpers.say_end("a thread that writes an access log");
    access_logs.start(say_end, SayEnd::leave)?;
    control.obey_signals(access_logs.reopener(), &helpers);
    let sessions_max = capacity.connections_max;
    let figures = ConfigFigures::new(loaded.effective.hash());
    let daemon = (engine, sessions_max, figures);
    let observed = observe(daemon, &mailboxes, &routes, &access_logs);
    let limits = capacity.limits(kernel.bulk_into_unix());
    let assignments = mailboxes.into_iter().enumerate();
    let assignments = assignments.map(|(number, mailbox)| Assignment {
        engine,
        limits,
        shares: shares.next().unwrap_or_default(),
        processor: config.pin.then(|| processors[number % processors.len()]),
        mailbox,
        counters: Arc::clone(&observed.workers[number].counters),
        shared: Arc::clone(&shared),
    });
    let workers = Workers::start(assignments.collect(), || {
        sites.listen(&control.runtime)?;
        sites.serve(&control.runtime, &observed, &helpers)?;
        let mut listeners = routes.iter_mut().flat_map(|route| &mut route.listeners);
        Ok(listeners.try_for_each(ListeningSocket::listen)?)
    })?;
    announce(config, &routes, &kernel, &sites, identity.as_ref());
    announce_ready(engine, count, capacity);
    let of_clients = routes.into_iter().flat_map(Opened::into_sockets).collect();
    let sockets = Sockets { of_clients, sites };
    let say_end = || helpers.say_end("the thread that looks after the sockets' files");
    let watch = socket_files::watch(&sockets, &observed, say_end).map_err(Error::SocketFiles)?;
    control.supervise(&supervisor, &observed, &helpers);
    let serving = Serving {
        read_again,
        workers,
        sockets,
        watch,
        helpers,
        ended_helpers,
        observed,
    };
    let served = control.serve(serving, &supervisor, config);
    tracing::info!("stopped");
    served
}

/// A route that leads to itself would take every session there is.
fn refuse_loops(config: &Config, routes: &[Opened]) -> Result<(), LoopError> {
    let places = |opened: &Opened| {
        let listeners = opened.listeners.iter();
        listeners.map(ListeningSocket::place).collect()
    };
    let places: Vec<_> = routes.iter().map(places).collect();
    loops::find(config, &places).map_or(Ok(()), Err)
}

fn share(config: &Config, capacity: &SessionCapacity, mailboxes: &[Arc<Mailbox>]) -> Arc<Shared> {
    Arc::new(Shared {
        gate: Gate::new(capacity.connections_max, mailboxes.to_vec()),
        // The standard library's own source of what differs between processes.
        seed: RandomState::new().hash_one(0),
        accept_failures: Failures::default(),
        at_limit: config.at_limit,
        refusals: Failures::default(),
        limit_reached: Failures::default(),
        users: UserParts::new(config.user_connections_max, capacity.connections_max),
    })
}

/// Says what clients and operators find, now that they do.
fn announce(
    config: &Config,
    routes: &[Opened],
    kernel: &Kernel,
    sites: &Sites,
    identity: Option<&Identity>,
) {
    let configured = config.routes.iter().zip(routes);
    configured.for_each(|(config, opened)| opened.announce(config));
    kernel.announce(config, routes);
    sites.announce();
    identity.into_iter().for_each(Identity::announce);
}

fn worker_count(config: &Config, processors: usize) -> usize {
    config.workers.map_or(processors, usize::from)
}

fn observe(
    (engine, sessions_max, config): (Chosen, u32, ConfigFigures),
    mailboxes: &[Arc<Mailbox>],
    routes: &[Opened],
    access_logs: &Writers,
) -> Arc<Observed> {
    Arc::new(Observed {
        engine: engine.to_string(),
        sessions_max,
        workers: mailboxes.iter().map(observed_worker).collect(),
        routes: ObservedRoutes::new(routes.iter().map(Opened::observed).collect()),
        log_lines_dropped: Box::new(logging::lines_dropped),
        access_log_write_errors: Box::new(access_logs.errors()),
        phase: DaemonPhase::default(),
        config,
        socket_files_missing: Default::default(),
    })
}

fn observed_worker(mailbox: &Arc<Mailbox>) -> ObservedWorker {
    let mailbox = Arc::clone(mailbox);
    ObservedWorker {
        counters: Arc::default(),
        poke: Box::new(move || mailbox.post(Notice::Turn)),
    }
}

fn open_access_logs(config: &Config) -> Result<Writers, AccessLogError> {
    let mut writers = Writers::default();
    for route in &config.routes {
        if let Some(log) = route.protocol.access_log() {
            writers.open(log)?;
        }
    }
    Ok(writers)
}

/// In order; if one cannot be bound, those before it are taken back.
fn open_all(
    config: &Config,
    (who, capacity): (Vec<Option<Who>>, SessionCapacity),
    mailboxes: &[Arc<Mailbox>],
    passed: &mut Passed,
) -> Result<Vec<Opened>, Error> {
    let routes = config.routes.iter().zip(who);
    let crowd = |route: &Route| {
        let count = config.routes.len();
        Crowd::new(Crowd::part(
            route.connections_max,
            capacity.connections_max,
            count,
        ))
    };
    let open = |(number, (route, who))| {
        let numbered = (RouteNumber(number), route);
        routes::open(numbered, (who, crowd(route)), mailboxes, passed)
    };
    (0..).zip(routes).map(open).collect()
}

/// How many sockets are listened on, where an address may stand for several that are passed.
fn listener_count(config: &Config, passed: impl Fn(&Descriptors) -> usize) -> usize {
    let addresses = config.routes.iter().flat_map(|route| &route.listeners);
    let count = |address: &ListenAddress| match address {
        ListenAddress::Unix(_) => 1,
        ListenAddress::Inherited(wanted) => passed(wanted),
    };
    addresses.map(count).sum()
}

fn start_resolver(
    config: &Config,
    routes: &[Opened],
    helpers: &Helpers,
) -> Result<ResolverHandle, ResolverError> {
    let pairs = config.routes.iter().zip(routes);
    let jobs = pairs.map(|(config, opened)| resolver::Job {
        backends: &config.backends,
        published: Arc::clone(&opened.route.published),
        lookups: Arc::clone(&opened.lookups),
        options: ResolverOptions::from(&config.discovery),
    });
    let helpers = helpers.clone();
    resolver::spawn(jobs, move || {
        helpers.say_end("the thread that looks names up")
    })
}

/// As whom it is to run, where it may become that, and may have the source addresses that it is to have.
fn look_up_rights(config: &Config) -> Result<Option<Identity>, Error> {
    let identity = Identity::look_up(config)?;
    identity.as_ref().map_or(Ok(()), Identity::check_rights)?;
    for route in &config.routes {
        upstreams::check_source(&route.upstreams)?;
    }
    Ok(identity)
}

fn announce_ready(engine: Chosen, workers: usize, capacity: SessionCapacity) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        engine = %engine,
        workers,
        connections_max = capacity.connections_max,
        "ready"
    );
}

/// What runs beside the workers, for as long as the control plane does.
fn start_tasks(
    config: &Config,
    routes: &[Opened],
    control: &Control,
    helpers: &Helpers,
    gate: &Arc<Gate>,
) {
    start_checks(config, routes, control, helpers);
    control.spawn(
        helpers,
        "the task that counts what the log leaves out",
        logging::tell_what_is_left_out(),
    );
    control.spawn(
        helpers,
        "the task that gives memory back",
        memory::give_back(Arc::clone(gate)),
    );
}

fn start_checks(config: &Config, routes: &[Opened], control: &Control, helpers: &Helpers) {
    for (config, opened) in config.routes.iter().zip(routes) {
        if let Some(checks) = upstreams::checks(&config.upstreams) {
            let published = Arc::clone(&opened.route.published);
            let checks = checks::run(published, checks);
            control.spawn(helpers, "the task of active checks", checks);
        }
    }
}

/// Who waits in a queue counts as a connection: queues that can take them all leave none for others.
fn warn_of_long_queues(config: &Config, connections_max: u32) {
    let limited = config
        .routes
        .iter()
        .filter(|r| r.limits.per_endpoint_max.is_some());
    let waiting: u64 = limited.map(|r| u64::from(r.limits.queue_max)).sum();
    if config.routes.len() > 1 && waiting >= u64::from(connections_max) {
        tracing::warn!(
            connections_max,
            queues = waiting,
            "the queues of saturated routes can take every connection, and other routes' clients then \
             wait in their backlogs (lower --queue-max, or raise --connections-max)"
        );
    }
}

/// How many workers accept.
///
/// Each of them holds a permit for the next client, whichever listener it comes from. With several
/// listeners, a client can be accepted by a worker whose permit another listener's client has just
/// used, and then waits while other workers' permits are unused. Keeping those few compared with
/// the limit keeps the limit true; with one listener any worker's permit is as good as another's.
fn accepting_workers(workers: usize, listeners: usize, connections_max: u32) -> usize {
    /// Permits for each accepting worker: at most 1.6 % of them can be unused at the limit.
    const PERMITS_PER_WORKER: usize = 64;
    if listeners == 1 {
        return workers;
    }
    workers
        .min(connections_max as usize / PERMITS_PER_WORKER)
        .max(1)
}

fn mailboxes(count: usize) -> Result<Vec<Arc<Mailbox>>, Error> {
    let new = |_| Mailbox::new().map(Arc::new).map_err(Error::Mailbox);
    (0..count).map(new).collect()
}

/// The main thread's part once everything runs: signals, and the workers' ends.
struct Control {
    runtime: Runtime,
    stop: StopSignals,
    /// Those that end nothing, until somebody obeys them.
    others: Option<OtherSignals>,
    /// For everybody who gives commands.
    commander: Commander,
    /// What they give.
    commands: Commands,
}

impl Control {
    /// From here on signals that mean something wait to be handled.
    fn new(signals: &Secured) -> Result<Self, Error> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Signals)?;
        let inside = runtime.enter();
        let (stop, others) = signals::listen(signals).map_err(Error::Signals)?;
        drop(inside);
        let (commander, commands) = commands::channel();
        Ok(Self {
            runtime,
            stop,
            others: Some(others),
            commander,
            commands,
        })
    }

    /// From now on, until the end of the drain.
    fn obey_signals(&mut self, reopen: impl Fn() + Send + Sync + 'static, helpers: &Helpers) {
        let Some(others) = self.others.take() else {
            return;
        };
        let reload = Arc::new(Notify::new());
        let reloads = signals::reload_when_wanted(Arc::clone(&reload), self.commander.clone());
        self.spawn(helpers, "the task that reloads on a signal", reloads);
        let obedience = others.obey(reopen, reload);
        self.spawn(helpers, "the task that obeys signals", obedience);
    }

    /// A task that is to last: its end by a panic is the daemon's.
    fn spawn(
        &self,
        helpers: &Helpers,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let _inside = self.runtime.enter();
        helpers.spawn(name, task);
    }

    fn supervise(&self, supervisor: &Supervisor, observed: &Arc<Observed>, helpers: &Helpers) {
        let _inside = self.runtime.enter();
        supervisor.ready(observed, helpers);
    }

    fn serve(
        self,
        mut serving: Serving,
        supervisor: &Supervisor,
        config: &Config,
    ) -> Result<(), Error> {
        let Self {
            runtime,
            mut stop,
            commands,
            ..
        } = self;
        runtime.block_on(async {
            let (failed, patience) = serving.until_an_end(&mut stop, commands, config).await;
            // The control socket's file goes when the drain is over.
            let (mut workers, sockets) = serving.give_up(supervisor, patience).await;
            let Sockets {
                of_clients,
                sites: _sites,
            } = sockets;
            let drained = drain(&mut workers, of_clients, &mut stop, patience).await;
            failed.and_then(|()| drained.map_err(Error::from))
        })
    }
}

/// What runs until the daemon is to end.
struct Serving {
    /// For a reload.
    read_again: ReadAgain,
    workers: Workers,
    sockets: Sockets,
    /// Of the sockets' files.
    watch: Option<Watch>,
    helpers: Helpers,
    ended_helpers: EndedHelpers,
    observed: Arc<Observed>,
}

impl Serving {
    /// Serves until something ends that: what has failed, and how long a drain may take. Then commands have come too
    /// late.
    async fn until_an_end(
        &mut self,
        stop: &mut StopSignals,
        mut commands: Commands,
        config: &Config,
    ) -> (Result<(), Error>, Patience) {
        let observed = Arc::clone(&self.observed);
        let patience = Patience::configured(config);
        let idle = idle::wait(&observed, config.exit_idle_time);
        tokio::pin!(idle);
        loop {
            tokio::select! {
                signal = stop.next() => {
                    let patience = match signal {
                        Stop::Abort => patience_after_abort(&observed, patience).await,
                        _ => patience,
                    };
                    tracing::info!("{signal}: draining");
                    return (Ok(()), patience);
                }
                time = &mut idle => {
                    tracing::info!("no session for {time:?} (--exit-idle-time): draining");
                    return (Ok(()), patience);
                }
                // A worker ends by itself only when it fails, and without it the others would
                // serve on with part of the clients waiting for nobody.
                end = self.workers.next_end() => {
                    let failed = end.unwrap_or(Ok(())).map_err(Error::from);
                    tell_failure(&failed, "its sessions are lost, the other workers finish theirs");
                    return (failed, patience.after_failure());
                }
                ended = self.ended_helpers.next() => {
                    let failed = Err(Error::from(ended));
                    tell_failure(&failed, "sessions are finished");
                    return (failed, patience.after_failure());
                }
                bound = bound_again(&mut self.watch) => {
                    self.sockets.replace(bound, &self.workers, &observed, &self.helpers);
                }
                asked = commands.next() => self.obey(asked),
            }
        }
    }

    /// Carries a command out. The one place where that is done.
    fn obey(&mut self, asked: Asked) {
        let Asked { command, asker } = asked;
        match command {
            ControlCommand::Reload => {
                asker.tell(ControlReply::refused([
                    "reload is not implemented yet".to_owned()
                ]));
            }
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

    /// A successor may have the paths from now on. What is left are the workers, and the sockets in whose
    /// backlogs somebody may wait.
    async fn give_up(self, supervisor: &Supervisor, patience: Patience) -> (Workers, Sockets) {
        let Self {
            workers,
            mut sockets,
            watch,
            helpers,
            observed,
            ..
        } = self;
        observed.phase.drain();
        supervisor.stopping(&observed, patience.at_most.map(|time| time + CUT_TIMEOUT));
        if let Some(watch) = watch {
            for bound in watch.stop().await {
                sockets.replace(bound, &workers, &observed, &helpers);
            }
        }
        sockets.sites.give_up();
        (workers, sockets)
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
    sockets: Vec<ClientSocket>,
    stop: &mut StopSignals,
    patience: Patience,
) -> Result<(), WorkerError> {
    // Nobody finds the path any more, nor gets in; who connected before is still served. Sockets that
    // were passed to us stay as they are.
    for mut socket in sockets {
        socket.socket.end();
    }
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
