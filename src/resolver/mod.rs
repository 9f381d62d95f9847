//! Finds the addresses behind the backends' names, in the background and for as long as the
//! daemon runs.
//!
//! One thread looks every name up, again when its answer has run out, and publishes what it found.
//! The data path never waits for it and never resolves. Two rules decide what is published: without
//! an answer the last good addresses stay, however long that lasts; and only a name server's word
//! that there are none takes them away, after a hold (`last_good.rs`).
//!
//! The data path can ask for an earlier lookup, and does when a connect fails; it does not wait for
//! that either ([`crate::backend::Refresher`]).

mod exchange;
mod files;
mod hosts;
mod last_good;
mod lookup;
mod names;
pub(crate) mod once;
mod outcome;
#[cfg(test)]
mod parity;
mod reply;
mod resolv_conf;
mod schedule;
mod search;
mod system;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::ProtoError;
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{self, AbortHandle, JoinError, JoinSet};

use self::files::Stamps;
use self::lookup::Sources;
use self::names::{Event, Names, Note, Question};
use self::outcome::{Answer, Cause, Failure};
use self::schedule::Jitter;
pub(crate) use self::system::SystemCall;
use crate::backend::{Endpoint, Published, Refresher};
use crate::config::{Backend, BackendAddress, Discovery, RefreshTimes, ResolveWith, RouteName};
use crate::counters::LookupCounters;
use crate::sys::lookup::addresses_of;

/// How often resolv.conf and the hosts file are looked at: two `stat` calls, so that an edit works
/// at once, as people expect of these files.
const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The most lookups of one route at one time. Each takes a socket (or a thread; one for every name server where they race),
/// and services can have hundreds of targets; those that have been due for longest come first.
const LOOKUPS_MAX: usize = 16;

/// With many routes, each has its part of the lookups at one time: A and AAAA of a name.
const LOOKUPS_PER_ROUTE: usize = 2;

/// The most lookups at one time, over so many routes: names that hang hold up those of other routes only
/// if a route has more than its part of them.
#[must_use]
pub(crate) fn lookups_max(routes: usize) -> usize {
    LOOKUPS_MAX.max(LOOKUPS_PER_ROUTE * routes)
}

/// How long marks of failed connects are let gather before they are looked at: a storm of failures
/// must not keep this thread busy. Nothing is looked up sooner for it than [`schedule`] permits.
const SUSPECTS_INTERVAL: Duration = Duration::from_millis(100);

/// How long the names of another configuration may take until those that are answered are used without the others.
pub(crate) const SUCCESSION_MAX: Duration = Duration::from_secs(10);

/// The most threads in calls of the C library: one for each lookup that may be under way, and for those that nobody
/// waits for any more. They are there while they are needed.
const BLOCKING_THREADS_MAX: usize = 4096;

/// How many addresses of one name a log line shows.
const LOGGED_ADDRESSES_MAX: usize = 8;

/// How names are looked up. The default is the system's own configuration.
#[derive(Clone, Debug)]
pub(crate) struct ResolverOptions {
    /// The files that are read, and read again when they change.
    pub paths: ResolverPaths,
    /// Ask these name servers instead of the ones in resolv.conf (whose search domains stay).
    pub name_servers: Option<Vec<SocketAddr>>,
    /// Ask all of them at once and take the first usable answer, instead of one after the other.
    pub race: bool,
    /// Who looks names up.
    pub resolve_with: ResolveWith,
    /// How [`ResolveWith::System`] does it.
    pub system_call: SystemCall,
    /// How long answers are believed.
    pub times: RefreshTimes,
    /// How long one query may take if resolv.conf does not say.
    pub query_timeout: Duration,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            paths: ResolverPaths::default(),
            name_servers: None,
            race: false,
            resolve_with: ResolveWith::default(),
            system_call: addresses_of,
            times: RefreshTimes::default(),
            // RES_TIMEOUT of the C library.
            query_timeout: Duration::from_secs(5),
        }
    }
}

impl From<&Discovery> for ResolverOptions {
    fn from(discovery: &Discovery) -> Self {
        let name_servers: Vec<_> = discovery
            .name_servers
            .iter()
            .map(|server| server.0)
            .collect();
        Self {
            name_servers: (!name_servers.is_empty()).then_some(name_servers),
            race: discovery.race,
            resolve_with: discovery.resolve_with,
            times: discovery.times,
            ..Self::default()
        }
    }
}

/// Where the system's resolver configuration is.
#[derive(Clone, Debug)]
pub(crate) struct ResolverPaths {
    /// See resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// See hosts(5).
    pub hosts: PathBuf,
}

impl Default for ResolverPaths {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts: PathBuf::from("/etc/hosts"),
        }
    }
}

/// Why names cannot be looked up at all. A name that does not resolve is no error: it may later.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// Something that DNS cannot hold, such as a label of more than 63 bytes.
    #[error("look up {host:?}: not a host name: {source} (correct the backend's address)")]
    Name {
        /// The name as configured.
        host: String,
        /// What is wrong with it.
        source: ProtoError,
    },
    /// The event loop needs a few descriptors.
    #[error("start the resolver: create its event loop: {0} (raise the limit of open files)")]
    Runtime(#[source] io::Error),
    /// The system refused another thread.
    #[error("start the resolver: create its thread: {0} (raise the limit of tasks or memory)")]
    Thread(#[source] io::Error),
}

/// The backends of one route.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// What stands for addresses.
    pub backends: &'a [Backend],
    /// Where they go.
    pub published: Arc<Published>,
    /// How lookups end.
    pub lookups: Arc<LookupCounters>,
    /// How they are found.
    pub options: ResolverOptions,
}

/// Publishes the literal addresses at once and starts looking the names up.
///
/// It does not wait for the first answer: until there is one, a set has the literals only, or is
/// empty. With literals alone there is nothing to look up and no thread.
///
/// What `say_end` returns is dropped when the thread ends, however that ends; without a thread it is not called.
///
/// # Errors
/// If a name is malformed, or the system refuses a thread or its event loop.
pub(crate) fn spawn<'a, E: Send + 'static>(
    jobs: impl IntoIterator<Item = Job<'a>>,
    say_end: impl Fn() -> E + Send + 'static,
) -> Result<ResolverHandle, ResolverError> {
    let mut tasks = Vec::new();
    let jobs: Vec<_> = jobs.into_iter().collect();
    let slots = Arc::new(Semaphore::new(lookups_max(jobs.len())));
    for job in jobs {
        let now = Instant::now();
        let names = Names::new(job.backends, job.options.times, now)?;
        // Those that a predecessor knew stay until the names are answered.
        let has_addresses = !job.published.load().endpoints().is_empty();
        let is_literal = names.is_literal();
        if is_literal || !has_addresses {
            job.published.publish(names.endpoints(), SystemTime::now());
        }
        if !is_literal {
            let mut task = Task::new(names, job, Arc::clone(&slots));
            task.succeeds_by = has_addresses.then(|| now + SUCCESSION_MAX);
            tasks.push(task);
        }
    }
    let mut handle = ResolverHandle {
        running: None,
        slots,
        say_end: Box::new(move || Box::new(say_end())),
    };
    if !tasks.is_empty() {
        handle.running = Some(handle.start(tasks)?);
    }
    Ok(handle)
}

/// Whether these names can be looked up at all.
///
/// # Errors
/// The first that cannot.
pub(crate) fn check_names(backends: &[Backend]) -> Result<(), ResolverError> {
    Names::new(backends, RefreshTimes::default(), Instant::now()).map(drop)
}

/// Whose drop says that the thread has ended.
type SayEnd = Box<dyn Send>;

/// The running resolver; dropping it ends the thread.
#[must_use = "dropping the handle stops the resolver"]
pub(crate) struct ResolverHandle {
    /// `None` when there is nothing to look up.
    running: Option<Running>,
    slots: Arc<Semaphore>,
    say_end: Box<dyn Fn() -> SayEnd + Send>,
}

struct Running {
    /// The thread ends when this is dropped.
    orders: UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

/// What the thread is told to do.
enum Order {
    /// Does this from now on, and nothing else for the same route.
    Follow(Box<Task>),
    /// Does nothing for this route any more. What was published stays.
    Forget(RouteName),
}

impl ResolverHandle {
    /// Looks up what this job says, instead of what one for the same route has said before. Until all of it is
    /// answered, or has had as long as [`SUCCESSION_MAX`], the addresses of the old one stay, and after that until
    /// there is an address.
    ///
    /// # Errors
    /// If a name is malformed, or the system refuses a thread or its event loop; then nothing changes.
    pub(crate) fn follow(&mut self, job: Job<'_>) -> Result<(), ResolverError> {
        let now = Instant::now();
        let names = Names::new(job.backends, job.options.times, now)?;
        if names.is_literal() && self.running.is_none() {
            job.published.publish(names.endpoints(), SystemTime::now());
            return Ok(());
        }
        let has_addresses = !job.published.load().endpoints().is_empty();
        let mut task = Task::new(names, job, Arc::clone(&self.slots));
        task.succeeds_by = has_addresses.then(|| now + SUCCESSION_MAX);
        match &self.running {
            Some(running) => running.order(Order::Follow(Box::new(task))),
            None => self.running = Some(self.start(vec![task])?),
        }
        Ok(())
    }

    /// Can look names up from now on, if there are any among these backends.
    ///
    /// # Errors
    /// If the system refuses a thread or its event loop.
    pub(crate) fn prepare<'a>(
        &mut self,
        mut backends: impl Iterator<Item = &'a Backend>,
    ) -> Result<(), ResolverError> {
        let is_name = |backend: &Backend| {
            !matches!(
                backend.address,
                BackendAddress::Literal(_) | BackendAddress::Unix(_)
            )
        };
        if self.running.is_none() && backends.any(is_name) {
            self.running = Some(self.start(Vec::new())?);
        }
        Ok(())
    }

    /// Looks up nothing for this route any more.
    pub(crate) fn forget(&self, route: &RouteName) {
        if let Some(running) = &self.running {
            running.order(Order::Forget(route.clone()));
        }
    }

    /// There are so many routes from now on. More of them have more lookups at one time; fewer keep what there is.
    pub(crate) fn expect(&self, routes: usize, before: usize) {
        let more = lookups_max(routes).saturating_sub(lookups_max(before));
        self.slots.add_permits(more);
    }

    fn start(&self, tasks: Vec<Task>) -> Result<Running, ResolverError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            // For the C library's lookups.
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()
            .map_err(ResolverError::Runtime)?;
        let (orders, ordered) = unbounded_channel();
        let say_end = (self.say_end)();
        let thread = thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                let _say_end = say_end;
                run(runtime, tasks, ordered);
            })
            .map_err(ResolverError::Thread)?;
        Ok(Running { orders, thread })
    }
}

impl Running {
    fn order(&self, order: Order) {
        // A thread that has ended has said so, and the daemon ends.
        let _ = self.orders.send(order);
    }
}

impl Drop for ResolverHandle {
    /// Ends the thread and waits for it, which is a matter of milliseconds even while a name server
    /// is silent or the C library hangs. What was published stays.
    fn drop(&mut self) {
        if let Some(Running { orders, thread }) = self.running.take() {
            drop(orders);
            if thread.join().is_err() {
                tracing::error!("stop the resolver: its thread had panicked (this is a bug)");
            }
        }
    }
}

/// The thread. Everything that is still under way when it returns ends with the runtime, except calls
/// of the C library: nobody can end those, and nobody waits for them.
fn run(runtime: Runtime, tasks: Vec<Task>, mut orders: UnboundedReceiver<Order>) {
    runtime.block_on(async {
        let mut running = Tasks::default();
        tasks.into_iter().for_each(|task| running.follow(task));
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Follow(task)) => running.follow(*task),
                    Some(Order::Forget(route)) => running.forget(&route),
                    None => return,
                },
                Some(ended) = running.all.join_next() => tell_panic(ended),
            }
        }
    });
    runtime.shutdown_background();
}

/// One for each route that has names.
#[derive(Default)]
struct Tasks {
    all: JoinSet<()>,
    by_route: HashMap<RouteName, AbortHandle>,
}

impl Tasks {
    /// A set has one writer: what was done for the route before is not done any more.
    fn follow(&mut self, task: Task) {
        let route = task.published.route().clone();
        self.forget(&route);
        if task.names.is_literal() {
            let mut task = task;
            task.publish(Vec::new());
            return;
        }
        self.by_route.insert(route, self.all.spawn(task.run()));
    }

    fn forget(&mut self, route: &RouteName) {
        if let Some(task) = self.by_route.remove(route) {
            task.abort();
        }
    }
}

/// Tasks run until they are forgotten. One that panics leaves its route with the addresses that it has,
/// and the others alone.
fn tell_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("look names up: {error} (this is a bug; the addresses stay as they are)");
    }
}

/// The resolver's work for one route: asks what is due, takes the answers in, publishes.
struct Task {
    names: Names,
    published: Arc<Published>,
    counters: Arc<LookupCounters>,
    options: ResolverOptions,
    stamps: Stamps,
    sources: Arc<Sources>,
    /// For all tasks: each lookup holds one.
    slots: Arc<Semaphore>,
    lookups: JoinSet<Answer>,
    /// Which question each of `lookups` is about.
    asked: HashMap<task::Id, Question>,
    /// The addresses of another job stay until all names are answered, or until this time at most, and after that
    /// until there is an address.
    succeeds_by: Option<Instant>,
    /// Marks of failed connects are not looked at before this time.
    heed_after: Instant,
    randomness: RandomState,
    /// Answers so far: what makes each jitter another one.
    answers: u64,
}

impl Task {
    fn new(names: Names, job: Job<'_>, slots: Arc<Semaphore>) -> Self {
        let Job {
            published,
            lookups: counters,
            options,
            ..
        } = job;
        let stamps = Stamps::take(&options);
        let sources = Arc::new(Sources::new(&options));
        Self {
            names,
            published,
            counters,
            options,
            stamps,
            sources,
            slots,
            lookups: JoinSet::new(),
            asked: HashMap::new(),
            succeeds_by: None,
            heed_after: Instant::now(),
            randomness: RandomState::new(),
            answers: 0,
        }
    }

    /// Runs until it is dropped.
    async fn run(mut self) {
        // What another job has left there is over.
        self.counters.failing_since.set(None);
        loop {
            let now = Instant::now();
            self.read_changed_files(now);
            self.heed_suspects(now);
            if let Some(notes) = self.names.expire(now) {
                self.publish(notes);
            } else if self.succeeds_by.is_some_and(|by| by <= now) {
                self.publish(Vec::new());
            }
            self.ask_due(now);
            let wake = self.wake_at(now);
            tokio::select! {
                Some(ended) = self.lookups.join_next_with_id() => self.take(ended),
                () = marked(self.published.refresher(), self.heed_after) => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn wake_at(&self, now: Instant) -> Instant {
        // Without room for another lookup, the end of one is what to wait for.
        let has_room = self.lookups.len() < LOOKUPS_MAX;
        let next_due = self.names.next_due().filter(|_| has_room);
        let succeeds_by = self.succeeds_by.filter(|by| *by > now);
        let wakes = [next_due, self.names.next_expiry(), succeeds_by];
        let files_check = now + FILES_CHECK_INTERVAL;
        wakes.into_iter().flatten().fold(files_check, Instant::min)
    }

    /// After a change of the files all is asked again, and what was being asked is forgotten: its
    /// answer would be one of the old sources.
    fn read_changed_files(&mut self, now: Instant) {
        let stamps = Stamps::take(&self.options);
        if stamps == self.stamps {
            return;
        }
        let route = self.published.route();
        tracing::info!(%route, "resolver configuration changed, looking all names up again");
        self.stamps = stamps;
        if let Sources::Dns(_) = *self.sources {
            self.sources = Arc::new(Sources::new(&self.options));
        }
        self.lookups = JoinSet::new();
        self.asked.clear();
        self.names.ask_again(now);
    }

    /// Connects have failed, or a session has nowhere to go.
    fn heed_suspects(&mut self, now: Instant) {
        if now < self.heed_after {
            return;
        }
        if let Some(suspects) = self.published.refresher().take() {
            self.names.hasten(suspects, now);
            self.heed_after = now + SUSPECTS_INTERVAL;
        }
    }

    fn ask_due(&mut self, now: Instant) {
        let room = LOOKUPS_MAX.saturating_sub(self.lookups.len());
        for question in self.names.ask_due(now, room) {
            let (sources, asked) = (Arc::clone(&self.sources), question.clone());
            let slots = Arc::clone(&self.slots);
            let lookup = async move {
                let slot = slots.acquire().await.expect("it is never closed");
                let answer = sources.look_up(&asked).await;
                drop(slot);
                answer
            };
            let id = self.lookups.spawn(lookup).id();
            self.asked.insert(id, question);
        }
    }

    fn take(&mut self, ended: Result<(task::Id, Answer), JoinError>) {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Ok(answer)),
            Err(err) => (err.id(), Err(Cause::Other(err.to_string()))),
        };
        let question = self
            .asked
            .remove(&id)
            .expect("every lookup is entered when it is spawned");
        // A panic inside the library, over bytes from the network: no answer, like any other.
        let answer = answer.unwrap_or_else(|cause| Answer::none(&question, cause));
        let counters = &self.counters;
        match answer.failure() {
            None => counters.answers.add(1),
            Some(failure) => {
                let route = self.published.route();
                tracing::debug!(%route, "look up {question}: {failure}");
                match failure {
                    Failure::Nothing => counters.denials.add(1),
                    Failure::NoAnswer(_) => counters.failures.add(1),
                }
            }
        }
        let (now, jitter) = (Instant::now(), self.jitter(&question));
        let notes = self.names.answered(&question, answer, now, jitter);
        let age = |at| now.saturating_duration_since(at);
        let age = self.names.answered_at().map(age);
        // First, so that whoever is served by an answer is told how old it is.
        self.published
            .confirm(age.map(|age| SystemTime::now() - age));
        self.publish(notes);
    }

    fn publish(&mut self, notes: Vec<Note>) {
        let failing_since = self.names.failing_since();
        self.counters.failing_since.set(failing_since);
        let endpoints = self.names.endpoints();
        if self
            .succeeds_by
            .is_none_or(|by| self.has_come(by, &endpoints))
        {
            self.succeeds_by = None;
            self.published.publish(endpoints, SystemTime::now());
        }
        for (name, event) in notes {
            self.log(&name, event);
        }
    }

    /// Whether these can take the place of the addresses of another job.
    fn has_come(&self, by: Instant, endpoints: &[Endpoint]) -> bool {
        let is_time = self.names.are_all_answered() || by <= Instant::now();
        is_time && (!endpoints.is_empty() || self.names.is_literal())
    }

    fn jitter(&mut self, question: &Question) -> Jitter {
        self.answers = self.answers.wrapping_add(1);
        Jitter::from_hash(self.randomness.hash_one((question, self.answers)))
    }

    fn log(&self, name: &str, event: Event) {
        let route = self.published.route();
        match event {
            Event::Changed { old, new, age } => tracing::info!(
                %route,
                old = %Listed(&old),
                new = %Listed(&new),
                version = self.published.load().version(),
                "look up {name}: {name} → {} (last good answer: {})",
                Leads(&new),
                Age(age)
            ),
            Event::Retargeted { old, new, age } => tracing::info!(
                %route,
                old = %Listed(&old),
                new = %Listed(&new),
                "look up {name}: its targets are {} (last good answer: {})",
                Leads(&new),
                Age(age)
            ),
            Event::Failing { failure, kept, age } => tracing::warn!(
                %route,
                "look up {name}: {failure}; what was found before stays in use: {kept} (last good \
                 answer: {}; check the name and the name servers: {})",
                Age(age),
                name_servers(&self.options)
            ),
            Event::Recovered { after } => {
                tracing::info!(%route, "look up {name}: resolves again after {} s", after.as_secs());
            }
        }
    }
}

/// Waits for a mark, and no less than until `after`.
async fn marked(refresher: &Refresher, after: Instant) {
    tokio::time::sleep_until(after.into()).await;
    refresher.marked().await;
}

/// The first few of some addresses or targets.
struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, hidden) = self.0.split_at(self.0.len().min(LOGGED_ADDRESSES_MAX));
        let shown = shown.iter().map(T::to_string);
        write!(f, "[{}]", shown.collect::<Vec<_>>().join(", "))?;
        if hidden.is_empty() {
            return Ok(());
        }
        write!(f, " and {} more", hidden.len())
    }
}

/// The same in the words of a message.
struct Leads<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Leads<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nothing"),
            [only] => only.fmt(f),
            all => Listed(all).fmt(f),
        }
    }
}

/// Which name servers are asked, for the log: what is configured, or what the file says now.
fn name_servers(options: &ResolverOptions) -> String {
    /// As many as the C library uses (resolv.conf(5), MAXNS).
    const SHOWN_MAX: usize = 3;
    if let Some(configured) = &options.name_servers {
        let shown = configured.iter().take(SHOWN_MAX);
        let shown: Vec<_> = shown.map(ToString::to_string).collect();
        return shown.join(", ");
    }
    let path = &options.paths.resolv_conf;
    // Those that are asked: its search domains are of no interest here.
    let file = std::fs::read(path).unwrap_or_default();
    let servers = resolv_conf::ResolvConf::parse(&file, b"").servers;
    let listed: Vec<_> = servers.iter().map(ToString::to_string).collect();
    match listed.is_empty() {
        true => format!("none in {}", path.display()),
        false => format!("{} of {}", listed.join(", "), path.display()),
    }
}

/// How old an answer is.
struct Age(Option<Duration>);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(age) => write!(f, "{} s ago", age.as_secs()),
            None => f.write_str("none yet"),
        }
    }
}
