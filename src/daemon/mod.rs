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
mod fpm_watch;
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
mod reload;
mod routes;
pub mod scarcity;
mod script_roots;
mod service;
mod serving;
mod signals;
mod sites;
mod socket_files;
mod sockets;
mod succession;
mod supervisor;
mod upstreams;
mod workers;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::{self, Runtime};

use crate::access_log::{RequestLogError, Writers};
use crate::commands::{self, Commander, Commands};
use crate::config::{Config, Descriptors, ListenAddress, Loaded, Route};
use crate::observe::{
    ConfigFigures, DaemonPhase, Failures, Observed, ObservedRoutes, ObservedWorker,
};
use crate::resolver::{self, ResolverError, ResolverHandle, ResolverOptions};
use crate::sys::{Errno, privileges as rights, process};
use crate::worker::{Crowd, Gate, Mailbox, Notice, RouteNumber, Shared, Spread, UserParts, Who};

pub use accounts::AccountLookupError;
pub use capacity::CapacityError;
use capacity::{SessionCapacity, accepting_workers};
use engine::Chosen;
pub use engine::Unavailable;
pub use helpers::HelperError;
use helpers::{Helpers, SayEnd, helpers};
pub use inherited::InheritError;
use inherited::Passed;
use kernel::Kernel;
pub use listener::{HideError, ListenError};
pub use loops::LoopError;
use privileges::Identity;
pub use privileges::{PrivilegeError, renounce};
use reload::Reloading;
use routes::ServedRoute;
pub use routes::ShareError;
pub use script_roots::ScriptRootError;
use service::Service;
use serving::Serving;
use signals::{OtherSignals, Secured, StopSignals, Wishes};
pub use sites::SiteError;
use sites::Sites;
use socket_files::WakeFiles;
pub use succession::TakeOverError;
use succession::{Offered, Predecessor, Program, Succession, Upgrading};
use supervisor::{Beginning, Supervisor};
pub use upstreams::SourceError;
pub use workers::WorkerError;
use workers::{Assignment, Workers};

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
    Hide(#[from] HideError),
    #[error(transparent)]
    Loop(#[from] LoopError),
    #[error("start the thread that looks whether the sockets' files are there")]
    SocketFiles(#[source] io::Error),
    #[error(transparent)]
    Inherit(#[from] InheritError),
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    #[error(transparent)]
    RequestLog(#[from] RequestLogError),
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

/// What whoever started the process has for it: descriptors, an ear, and the words that it was started with.
#[derive(Debug)]
pub struct Handover {
    program: Program,
    passed: Passed,
    supervisor: Supervisor,
    signals: Secured,
    /// The control socket of the daemon whose place is to be taken.
    take_over: Option<PathBuf>,
}

impl Handover {
    /// Takes it, and the variables of the environment that tell of it; signals lose their default action. To
    /// be called once, before any thread is started and anything is opened.
    ///
    /// # Errors
    /// If the kernel does not let signals be decided on.
    pub fn take() -> Result<Self, Error> {
        Ok(Self {
            program: Program::remember(),
            signals: signals::secure().map_err(Error::SecureSignals)?,
            passed: Passed::take(),
            supervisor: Supervisor::take(),
            take_over: None,
        })
    }

    /// Takes the place of the daemon at this control socket.
    #[must_use]
    pub fn taking_over(mut self, control: Option<PathBuf>) -> Self {
        self.take_over = control;
        self
    }
}

/// Reads the configuration anew, from where the first one came: what it is now, or a line for each mistake. It may
/// take as long as a file system takes.
pub type ReadAgain = Box<dyn Fn() -> Result<Loaded, Vec<String>> + Send + Sync>;

/// Serves until a signal ends it, or until it has had nothing to do for as long as is configured.
pub fn run(loaded: Loaded, read_again: ReadAgain, handover: Handover) -> Result<(), Error> {
    let config = &loaded.config;
    let supervisor = handover.supervisor;
    let processors = process::processors().map_err(Error::Processors)?;
    let count = worker_count(config, processors.len());
    let mut control = Control::new(&handover.signals)?;
    let (mut predecessor, mut offered) = control.meet_predecessor(handover.take_over)?;
    let mut passed = handover.passed;
    passed = passed.or_else_from_predecessor(offered.take_passed());
    let listeners = listener_count(config, |wanted| passed.count(wanted));
    let kernel = Kernel::ask();
    let capacity = SessionCapacity::measure(config, count, listeners)?;
    warn_of_long_queues(config, capacity.connections_max);
    let identity = look_up_rights(config)?;
    let group_at_start = identity.is_some().then(rights::group);
    let mailboxes = mailboxes(count)?;
    let who = accounts::look_up_all(config)?;
    let given = (&mut passed, &mut offered);
    let mut routes = open_all(config, (who, capacity), &mailboxes, given)?;
    refuse_loops(config, &routes)?;
    let commander = control.commander.clone();
    let mut sites = Sites::bind(config, identity.as_ref(), commander, &mut offered)?;
    let permits_freed = Arc::default();
    if let Some(predecessor) = &mut predecessor {
        let wake = (&mailboxes[..], &permits_freed);
        predecessor.prepare(&mut routes, &offered, wake);
    }
    privileges::settle(identity.as_ref())?;
    routes.iter().try_for_each(ServedRoute::check_hiding)?;

    let engine = Chosen::choose(config.engine).map_err(Error::Engine)?;
    // Dropped once nobody puts anything in: then what is left is written.
    let mut access_logs = open_access_logs(config)?;
    passed.close_unclaimed();
    let (helpers, ended_helpers) = helpers();
    let resolver = start_resolver(config, &routes, &helpers)?;
    let shared = share(config, &capacity, &mailboxes);
    let wake_files = WakeFiles::default();
    let task_helpers = (&helpers, &wake_files);
    start_tasks(&mut routes, &control, task_helpers, &shared.gate);
    let accepting = accepting_workers(count, listeners, capacity.connections_max);
    let mut spread = Spread::new(accepting);
    let shares = routes::divide(&mut routes, (accepting, &mut spread), &mut access_logs)?;
    let say_end = || helpers.say_end("a thread that writes an access log");
    access_logs.start(say_end, SayEnd::leave)?;
    control.obey_signals(access_logs.reopener(), &helpers);
    let sessions_max = capacity.connections_max;
    let figures = ConfigFigures::new(loaded.effective.hash());
    let daemon = (engine, sessions_max, figures);
    let observed = observe(daemon, &mailboxes, &routes, &access_logs);
    let limits = capacity.limits(kernel.bulk_into_unix());
    let mut shares = shares.into_iter();
    let assignments = mailboxes.iter().enumerate();
    let assignments = assignments.map(|(number, mailbox)| Assignment {
        engine,
        limits,
        shares: shares.next().unwrap_or_default(),
        processor: config.pin.then(|| processors[number % processors.len()]),
        busy_poll: config.busy_poll,
        mailbox: Arc::clone(mailbox),
        counters: Arc::clone(&observed.workers[number].counters),
        shared: Arc::clone(&shared),
    });
    // Before anybody is let in, as all that can fail.
    let say_end = helpers.say_end("the thread that looks after the sockets' files");
    let watch = socket_files::start(&observed, &wake_files, say_end).map_err(Error::SocketFiles)?;
    let mut elsewhere = HashMap::new();
    let workers = Workers::start(assignments.collect(), || -> Result<(), Error> {
        if let Some(predecessor) = &mut predecessor {
            let relieved = predecessor.relieve(offered, &routes);
            elsewhere = control.runtime.block_on(relieved)?;
        }
        let_in(&mut routes, &mut sites, &control.runtime)?;
        sites.serve(&control.runtime, &observed, &helpers)?;
        if let Some(predecessor) = &mut predecessor {
            // Before anybody is accepted: until this is heard, the predecessor may have to serve again, and whom this
            // process had accepted would be lost with it.
            let heard = predecessor.say_that_we_serve();
            control.runtime.block_on(heard)?;
        }
        Ok(())
    })?;
    if predecessor.is_some() {
        let sockets = routes.iter_mut().flat_map(|route| &mut route.sockets);
        sockets.for_each(|socket| socket.socket.own());
        sites.own();
    }
    announce(&routes, &kernel, &sites, identity.as_ref());
    announce_ready(engine, count, capacity);
    let service = Service {
        effective: loaded.effective.clone(),
        fixed: loaded.effective.clone(),
        next_number: u32::try_from(routes.len()).expect("there are some hundred at most"),
        config: config.clone(),
        routes,
        retired: Vec::new(),
        unclaimed: Vec::new(),
        spread,
        capacity,
        mailboxes,
        resolver,
        helpers: helpers.clone(),
        wake_files,
        group_at_start,
        elsewhere,
        arrivals: 0,
        permits_freed,
        is_leaving: false,
        of_retired: Vec::new(),
        access_logs,
    };
    let sockets = service.sockets_with_hiding();
    sockets.for_each(|socket| watch.add(socket));
    if let Some(file) = sites.control_file() {
        watch.add_control(file);
    }
    service.expect_arrivals(predecessor.is_some());
    let beginning = match &predecessor {
        Some(_) => Beginning::TakeOver,
        None => Beginning::Start,
    };
    control.supervise(&supervisor, (&observed, &helpers), beginning);
    let upgrading = Upgrading::new(
        handover.program,
        config.control.clone(),
        supervisor.variables(),
    );
    let serving = Serving {
        workers,
        service,
        sites,
        watch: Some(watch),
        helpers,
        ended_helpers,
        observed,
        supervisor,
        reloading: Reloading::new(read_again),
        predecessor,
        succession: Succession::default(),
        upgrading,
    };
    let served = control.serve(serving);
    tracing::info!("stopped");
    served
}

/// Lets clients in. The files of sockets that were taken over come to be for whom they are configured; if that is not
/// possible for one, all are as they were.
fn let_in(routes: &mut [ServedRoute], sites: &mut Sites, runtime: &Runtime) -> Result<(), Error> {
    sites.listen(runtime)?;
    let mut opened = Vec::new();
    let sockets = routes.iter_mut().flat_map(|route| &mut route.sockets);
    for socket in sockets.map(|socket| &mut socket.socket) {
        let listening = socket.give_access().and_then(|before| {
            let listening = socket.listen();
            opened.push((socket, before));
            listening
        });
        if let Err(error) = listening {
            for (socket, before) in opened {
                socket.take_access_back(before);
            }
            return Err(error.into());
        }
    }
    Ok(())
}

/// A route that leads to itself would take every session there is.
fn refuse_loops(config: &Config, routes: &[ServedRoute]) -> Result<(), LoopError> {
    let places = |served: &ServedRoute| {
        let sockets = served.sockets.iter();
        sockets.map(|socket| socket.socket.place()).collect()
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
fn announce(routes: &[ServedRoute], kernel: &Kernel, sites: &Sites, identity: Option<&Identity>) {
    routes.iter().for_each(ServedRoute::announce);
    kernel.announce(routes);
    sites.announce();
    identity.into_iter().for_each(Identity::announce);
}

fn worker_count(config: &Config, processors: usize) -> usize {
    config.workers.map_or(processors, usize::from)
}

fn observe(
    (engine, sessions_max, config): (Chosen, u32, ConfigFigures),
    mailboxes: &[Arc<Mailbox>],
    routes: &[ServedRoute],
    access_logs: &Writers,
) -> Arc<Observed> {
    Arc::new(Observed {
        engine: engine.to_string(),
        sessions_max,
        workers: mailboxes.iter().map(observed_worker).collect(),
        routes: ObservedRoutes::new(routes.iter().map(ServedRoute::observed).collect()),
        log_lines_dropped: Box::new(logging::lines_dropped),
        events: Box::new(logging::recent_events),
        access_log_write_errors: Box::new(access_logs.errors()),
        phase: DaemonPhase::default(),
        config,
        socket_files_missing: Default::default(),
        look_turn: Default::default(),
        page: Default::default(),
    })
}

fn observed_worker(mailbox: &Arc<Mailbox>) -> ObservedWorker {
    let (to_poke, to_ask) = (Arc::clone(mailbox), Arc::clone(mailbox));
    ObservedWorker {
        counters: Arc::default(),
        poke: Box::new(move || to_poke.post(Notice::Turn)),
        look: Box::new(move |look| to_ask.ask(look)),
    }
}

fn open_access_logs(config: &Config) -> Result<Writers, RequestLogError> {
    let mut writers = Writers::default();
    for route in &config.routes {
        for log in route.protocol.logs() {
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
    (passed, offered): (&mut Passed, &mut Offered),
) -> Result<Vec<ServedRoute>, Error> {
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
        let given = (&mut *passed, &mut *offered);
        routes::open(numbered, (who, crowd(route)), mailboxes, given)
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
    routes: &[ServedRoute],
    helpers: &Helpers,
) -> Result<ResolverHandle, ResolverError> {
    let pairs = config.routes.iter().zip(routes);
    let jobs = pairs.map(|(config, served)| resolver::Job {
        backends: &config.backends,
        published: Arc::clone(&served.route.published),
        lookups: Arc::clone(&served.lookups),
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
    routes: &mut [ServedRoute],
    control: &Control,
    (helpers, files): (&Helpers, &WakeFiles),
    gate: &Arc<Gate>,
) {
    let inside = control.runtime.enter();
    for route in routes {
        let published = &route.route.published;
        route.checks = upstreams::start_checks(&route.config, published, helpers);
        route.watch = upstreams::start_watch(&route.config, published, (helpers, files));
        route.fpm.start(&route.config, published, helpers);
    }
    drop(inside);
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

    /// The daemon whose place is to be taken, and what it offers; without one, nothing.
    fn meet_predecessor(
        &self,
        control: Option<PathBuf>,
    ) -> Result<(Option<Predecessor>, Offered), TakeOverError> {
        let Some(path) = control else {
            return Ok((None, Offered::default()));
        };
        let (predecessor, offered) = self.runtime.block_on(Predecessor::meet(&path))?;
        Ok((Some(predecessor), offered))
    }

    /// From now on, until the end of the drain.
    fn obey_signals(&mut self, reopen: impl Fn() + Send + Sync + 'static, helpers: &Helpers) {
        let Some(others) = self.others.take() else {
            return;
        };
        let wishes = Wishes::default();
        let commands = wishes.clone().pass_on(self.commander.clone());
        self.spawn(
            helpers,
            "the task that reloads and upgrades on a signal",
            commands,
        );
        let obedience = others.obey(reopen, wishes);
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

    fn supervise(
        &self,
        supervisor: &Supervisor,
        (observed, helpers): (&Arc<Observed>, &Helpers),
        beginning: Beginning,
    ) {
        let _inside = self.runtime.enter();
        supervisor.ready(observed, helpers, beginning);
    }

    fn serve(self, serving: Serving) -> Result<(), Error> {
        let Self {
            runtime,
            mut stop,
            commands,
            ..
        } = self;
        runtime.block_on(serving.run(&mut stop, commands))
    }
}
