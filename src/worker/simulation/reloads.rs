//! Routes and their rules come, change and go while workers run: at any step of them, several changes at one time or
//! one after the other, also in a drain. The world is told what is changed, and when a worker hears of it.

use std::mem;
use std::os::fd::AsRawFd as _;

use super::kinds::order_with;
use super::several::run_in_turns;
use super::*;
use crate::access_log::{Queue, RequestLogs, SlowLog};
use crate::driver::Driver;
use crate::driver::sim::{Census, GENERATIONS_MAX, ListenerAt, MARK, marked, marker};
use crate::session::Introduction;
use crate::worker::orders::Order;
use crate::worker::{
    Amendment, Backlog, ListenerChange, ListenerOf, Rest, RouteChange, Sharing, Spread,
};

/// What backends of routes without FastCGI are told.
const INTRODUCTION: &[u8] = b"PROXY UNKNOWN #\r\n";

/// Once in so many steps of the workers, something is changed.
const CHANGES_IN: u64 = 12;

/// Turns in which a worker has to forget a route of which nothing is left.
const FORGOTTEN_IN: u32 = 3;

/// A route of which workers are told.
struct Reloaded {
    planned: Planned,
    choices: Choices,
    /// By worker, those that do not serve it included.
    counters: Vec<ShareCounters>,
    /// Who serves it, in the order of its shards, and what of its limit each has.
    serving: Vec<(usize, Option<Limit>)>,
    generation: usize,
    /// Those that clients come to: their numbers, and their backlogs.
    listeners: Vec<(usize, usize)>,
    /// The number of the next one.
    next_listener: usize,
    life: Life,
    is_logged: bool,
    /// What is long for its slow log, if it has one.
    slow_after: Option<Duration>,
    /// Rules for its users that others took the place of.
    past: Vec<Arc<Who>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// It is served later, if ever.
    ToCome,
    Served,
    Retired,
    Cut,
}

/// As soon as a request has begun, while it waits or is answered, after most are over, or never.
fn slow_after(dice: &mut Dice) -> Option<Duration> {
    let millis = dice.pick(&[None, Some(1), Some(20), Some(500)]);
    millis.map(Duration::from_millis)
}

/// Who makes the changes, and sees what becomes of them.
struct Reloader {
    sim: Sim,
    mailboxes: Vec<Arc<Mailbox>>,
    routes: Vec<Reloaded>,
    connections_max: u32,
    calm: bool,
    /// So many times something is changed, at the most.
    left: u64,
    /// By worker: what it is going to be told at one time.
    changes: Vec<Vec<RouteChange>>,
    /// By worker and route: turns in a row in which nothing was left of a route that is retired.
    empty_for: Vec<Vec<u32>>,
}

pub(super) fn run(mut dice: Dice, engine: SimEngine, trace: bool, keep: &mut Option<Sim>) {
    let workers = match engine {
        SimEngine::Completions => count(dice.between(1, 3)),
        SimEngine::Epoll => 1,
    };
    let calm = dice.one_in(2);
    let connections_max: u32 = dice.pick(&[3, 5, 8, 12, 100, 100]);
    let mailboxes: Vec<_> = (0..workers).map(|_| mailbox()).collect();
    let shared = shared(
        mailboxes.clone(),
        connections_max,
        dice.below(1 << 16),
        None,
    );
    let at_first = count(dice.between(1, 2));
    let to_come = count(dice.between(0, 3));
    let mut spread = Spread::new(workers);
    let routes = (0..at_first + to_come).map(|number| {
        let choices = choices(calm, &mut dice);
        Reloaded::new(number, choices, (workers, &mut spread), &mut dice)
    });
    let routes: Vec<_> = routes.collect();
    let scenario = {
        let planned: Vec<_> = routes.iter().map(|route| route.planned(workers)).collect();
        let speak_fastcgi = planned.iter().any(|route| route.fastcgi.is_some());
        let most = if speak_fastcgi { 16 } else { 25 };
        let clients = count(dice.between(3, most));
        Scenario {
            mailboxes: mailboxes.clone(),
            trace,
            marks_rules: true,
            routes_at_first: at_first,
            ..scenario(clients, planned, (calm, None), connections_max, &mut dice)
        }
    };
    let left = dice.between(1, 12);
    let sim = Sim::new(scenario, dice);
    *keep = Some(sim.clone());
    let mut reloader = Reloader {
        empty_for: vec![vec![0; routes.len()]; workers],
        changes: (0..workers).map(|_| Vec::new()).collect(),
        sim: sim.clone(),
        mailboxes,
        routes,
        connections_max,
        calm,
        left,
    };
    let shared = Arc::new(shared);
    let counted: Vec<Arc<WorkerCounters>> = (0..workers).map(|_| Arc::default()).collect();
    let shares = reloader.first_shares(at_first);
    match engine {
        SimEngine::Completions => {
            let shares = shares.into_iter().enumerate();
            let all = shares.map(|(number, shares)| {
                let mailbox = Arc::clone(&reloader.mailboxes[number]);
                let counters = Arc::clone(&counted[number]);
                let driver = sim.of_worker(number);
                Worker::new(
                    number,
                    driver,
                    shares,
                    Arc::clone(&shared),
                    mailbox,
                    counters,
                )
            });
            let all = all.collect();
            run_in_turns(&sim, all, &mut reloader);
        }
        SimEngine::Epoll => {
            let driver = sim.under_epoll(reloader.mailboxes[0].waker());
            let shares = shares.into_iter().flatten().collect();
            let mailbox = Arc::clone(&reloader.mailboxes[0]);
            let counters = Arc::clone(&counted[0]);
            let worker = Worker::new(0, driver, shares, Arc::clone(&shared), mailbox, counters);
            run_under_epoll(&sim, worker, &mut reloader);
        }
    }
    sim.judge_end();
    judge_shared(&shared, &sim, &counted);
    reloader.routes.iter().for_each(Reloaded::judge_end);
}

/// What is chosen of a route.
fn choices(calm: bool, dice: &mut Dice) -> Choices {
    let backends = dice.pick(&[
        Backends::Tcp,
        Backends::Limited,
        Backends::Limited,
        Backends::Fastcgi,
        Backends::Fastcgi,
    ]);
    let limit = backends.limit(dice);
    Choices {
        backends,
        ejection: ejection(dice),
        listeners: 1,
        limit: limit.map(|limit| Limit {
            queue_max: if calm { 100 } else { limit.queue_max },
            ..limit
        }),
        pool: (backends == Backends::Fastcgi).then(|| pool_options(backends, dice)),
        users: dice
            .one_in(4)
            .then(|| Backends::Users.users(dice))
            .flatten(),
        calm,
    }
}

/// Marks rules with their number.
fn mark(policy: &mut Policy, generation: usize) {
    policy.tcp = marked(generation);
    if let Protocol::Fastcgi(options) = &mut policy.protocol {
        let guard = Guard::new(&GuardOptions {
            strip: vec![marker(generation)],
            ..GuardOptions::default()
        });
        options.guard = Some(guard.expect("a name that a parameter can have"));
    }
}

/// What backends are told by these rules.
fn introduction(generation: usize) -> Introduction {
    let letter = b'a' + u8::try_from(generation).expect("they are few");
    let of_this = |byte: &u8| if *byte == MARK { letter } else { *byte };
    Introduction::Fixed(INTRODUCTION.iter().map(of_this).collect())
}

impl Reloaded {
    fn new(
        number: usize,
        choices: Choices,
        (workers, spread): (usize, &mut Spread),
        dice: &mut Dice,
    ) -> Self {
        let crowd = Crowd::new(dice.pick(&[None, None, Some(1), Some(3)]));
        let known_as = u32::try_from(number).expect("a few");
        let mut planned = choices.route(known_as, crowd, dice);
        let policy = Arc::get_mut(&mut planned.policy).expect("nobody else has it");
        mark(policy, 0);
        let shards = shards(workers, choices.limit, dice);
        Self {
            planned,
            counters: (0..workers).map(|_| ShareCounters::default()).collect(),
            serving: spread.serving(choices.limit, shards),
            choices,
            generation: 0,
            listeners: vec![(0, number)],
            next_listener: 1,
            life: Life::ToCome,
            is_logged: dice.one_in(2),
            slow_after: slow_after(dice),
            past: Vec::new(),
        }
    }

    fn is_fastcgi(&self) -> bool {
        self.choices.pool.is_some()
    }

    /// Where order is judged there is none: a backend that has ended is found by it, and another one is connected to.
    fn introduces(&self) -> bool {
        let is_in_order = self.choices.calm && self.choices.limit.is_some();
        !self.is_fastcgi() && !is_in_order
    }

    fn introduction(&self) -> Introduction {
        match self.introduces() {
            true => introduction(self.generation),
            false => Introduction::None,
        }
    }

    fn number(&self) -> RouteNumber {
        self.planned.route.number
    }

    fn index(&self) -> usize {
        self.number().0 as usize
    }

    /// As the world is to know it.
    fn planned(&self, workers: usize) -> PlannedRoute {
        let mut limits = vec![None; workers];
        for (worker, limit) in &self.serving {
            limits[*worker] = *limit;
        }
        let endpoints = self.choices.backends.endpoints_of(self.index());
        let planned = self
            .choices
            .planned(&self.planned, endpoints, &limits, &self.counters);
        let users = &self.choices.users;
        let in_effect = planned.in_effect.into_iter().map(|in_effect| InEffect {
            users: users.clone(),
            ..in_effect
        });
        PlannedRoute {
            introduction: if self.introduces() { INTRODUCTION } else { b"" },
            in_effect: in_effect.collect(),
            ..planned
        }
    }

    /// How one worker listens there.
    fn listening(&self, backlog: usize, sim: &Sim) -> Listening {
        let mut listening = self.choices.backends.listening();
        listening.introduction = self.introduction();
        if self.serving.len() > 1 && self.choices.limit.is_some() {
            listening.sharing = Sharing::InTurns;
        }
        assert!(listening.backlog == Backlog::Ours);
        let at = ListenerAt {
            route: self.index(),
            backlog,
        };
        sim.announce(listening.fd.as_raw_fd(), at);
        listening
    }

    fn rules(&self, limit: Option<Limit>) -> ShareRules {
        ShareRules {
            policy: Arc::clone(&self.planned.policy),
            who: self.planned.who.clone(),
            balance: self.planned.balance,
            limit,
            logs: RequestLogs {
                access: self.is_logged.then(Queue::unread),
                slow: self.slow_after.map(|after| SlowLog {
                    queue: Queue::unread(),
                    after,
                }),
            },
        }
    }

    fn share(&self, worker: usize, limit: Option<Limit>, sim: &Sim) -> Share {
        let listeners = self.listeners.iter();
        Share {
            route: Arc::clone(&self.planned.route),
            listeners: listeners
                .map(|(number, backlog)| (*number, self.listening(*backlog, sim)))
                .collect(),
            rules: self.rules(limit),
            counters: self.counters[worker].clone(),
            shared: None,
        }
    }

    fn judge_end(&self) {
        judge_route(&self.planned, &self.counters);
        for who in &self.past {
            assert_eq!(
                who.seated().unwrap_or_default(),
                0,
                "INVARIANT all_returned: seats are left where they were counted before"
            );
        }
    }
}

/// No more than there are workers, or permits for each of them.
fn shards(workers: usize, limit: Option<Limit>, dice: &mut Dice) -> usize {
    let Some(limit) = limit else {
        return 1;
    };
    let permits = limit
        .per_endpoint_max
        .map_or(u32::MAX, |max| max.least().get());
    let most = workers.min(permits as usize);
    count(dice.between(1, most as u64))
}

impl Reloader {
    /// What workers begin with.
    fn first_shares(&mut self, routes: usize) -> Vec<Vec<Share>> {
        let mut shares: Vec<Vec<Share>> = self.mailboxes.iter().map(|_| Vec::new()).collect();
        for route in &mut self.routes[..routes] {
            route.life = Life::Served;
            for (worker, limit) in &route.serving {
                shares[*worker].push(route.share(*worker, *limit, &self.sim));
            }
        }
        shares
    }

    // --- changes ------------------------------------------------------------------------------

    /// All workers wait: changes something, or nothing.
    fn act(&mut self) {
        let sim = self.sim.clone();
        if self.left == 0 || sim.is_cut() || !sim.choose(|dice| dice.one_in(CHANGES_IN)) {
            return;
        }
        self.left -= 1;
        let changes = sim.choose(|dice| dice.between(1, 3));
        for _ in 0..changes {
            self.change_one();
            if sim.choose(|dice| dice.one_in(2)) {
                self.send();
            }
        }
        self.send();
    }

    /// Tells workers what is to be told at one time.
    fn send(&mut self) {
        for (changes, mailbox) in self.changes.iter_mut().zip(&self.mailboxes) {
            if !changes.is_empty() {
                mailbox.order(Order::Reconfigure(mem::take(changes)));
            }
        }
    }

    fn change_one(&mut self) {
        match self.sim.choose(|dice| dice.below(16)) {
            0..7 => self.some(Life::Served).map(|route| self.amend(route)),
            7 | 8 => self.some(Life::ToCome).map(|route| self.add(route)),
            9 | 10 => self.some(Life::ToCome).and_then(|to| self.supersede(to)),
            11 | 12 => self.some(Life::Served).and_then(|route| self.retire(route)),
            13 => self.some(Life::Served).map(|route| self.replace(route)),
            14 => self.some(Life::Served).map(|route| self.relisten(route)),
            _ => self.some(Life::Retired).map(|route| self.cut(route)),
        };
    }

    /// One of the routes of which this is so.
    fn some(&self, life: Life) -> Option<usize> {
        let all = self.routes.iter().enumerate();
        let all: Vec<_> = all.filter(|(_, route)| route.life == life).collect();
        match all[..] {
            [] => None,
            _ => {
                let place = self.sim.choose(|dice| dice.below(all.len() as u64));
                Some(all[count(place)].0)
            }
        }
    }

    /// Somebody else is to serve clients that come.
    fn is_last(&self) -> bool {
        let served = self.routes.iter().filter(|r| r.life == Life::Served);
        served.count() == 1
    }

    /// Tells the world how each of a route's workers is to serve it.
    fn order(&self, route: usize, change: impl Fn(&mut InEffect, Option<Limit>)) {
        for (worker, limit) in &self.routes[route].serving {
            let mut after = self.sim.told(*worker, route);
            change(&mut after, *limit);
            self.sim.order(*worker, route, after);
        }
    }

    fn add(&mut self, number: usize) {
        self.sim.note(|| format!("route {number} is added"));
        let sim = &self.sim;
        for (_, backlog) in &self.routes[number].listeners {
            sim.hand_over(*backlog, number);
        }
        self.order(number, |_, _| {});
        let route = &mut self.routes[number];
        route.life = Life::Served;
        for (worker, limit) in &route.serving {
            let share = route.share(*worker, *limit, sim);
            self.changes[*worker].push(RouteChange::Add(share));
        }
    }

    /// A route takes the place of another one that is served, and has some of its listeners.
    fn supersede(&mut self, to: usize) -> Option<()> {
        if !self.sim.is_serving() {
            // Nobody could be left to serve who waits.
            return None;
        }
        let is_fastcgi = self.routes[to].is_fastcgi();
        let from = self.some(Life::Served)?;
        if self.routes[from].is_fastcgi() != is_fastcgi {
            return None;
        }
        self.sim
            .note(|| format!("route {to} takes the place of route {from}"));
        let (mut handed, mut rest) = (Vec::new(), Vec::new());
        for listener in mem::take(&mut self.routes[from].listeners) {
            let is_handed = handed.is_empty() || self.sim.choose(|dice| dice.one_in(2));
            match is_handed {
                true => handed.push(listener),
                false => rest.push(listener),
            }
        }
        let was_first = self.sim.choose(|dice| dice.one_in(2));
        let backlogs = handed.iter().map(|(_, backlog)| *backlog).enumerate();
        self.routes[to].listeners = backlogs.collect();
        self.routes[to].next_listener = handed.len();
        let listeners = handed.len() * self.mailboxes.len();
        self.sim.plan(to, |planned| planned.listeners = listeners);
        if was_first {
            self.add(to);
        }
        for (worker, _) in &self.routes[from].serving {
            let handed = handed.iter().map(|(number, _)| *number);
            let handed = handed.map(ListenerChange::HandOver).collect();
            let number = self.routes[from].number();
            let relisten = RouteChange::Relisten(number, handed);
            self.changes[*worker].push(relisten);
        }
        self.routes[from].listeners = rest;
        self.go(from);
        if !was_first {
            self.add(to);
        }
        Some(())
    }

    fn retire(&mut self, number: usize) -> Option<()> {
        if self.is_last() {
            return None;
        }
        self.go(number);
        Some(())
    }

    fn go(&mut self, number: usize) {
        self.sim.note(|| format!("route {number} is retired"));
        let route = &mut self.routes[number];
        route.life = Life::Retired;
        for (_, backlog) in mem::take(&mut route.listeners) {
            self.sim.close_backlog(backlog);
        }
        for (worker, _) in &route.serving {
            self.changes[*worker].push(RouteChange::Retire(route.number()));
        }
        self.sim.plan(number, |planned| planned.is_retired = true);
        self.order(number, |in_effect, _| in_effect.is_retired = true);
    }

    fn cut(&mut self, number: usize) {
        self.sim.note(|| format!("route {number} is cut"));
        // Behind what they were told before.
        self.send();
        let route = &mut self.routes[number];
        route.life = Life::Cut;
        for (worker, _) in &route.serving {
            self.mailboxes[*worker].order(Order::Cut(route.number()));
        }
        self.sim.plan(number, |planned| planned.is_cut = true);
        self.order(number, |in_effect, _| in_effect.is_cut = true);
    }

    /// A listener takes the place of one that nobody can find any more.
    fn replace(&mut self, number: usize) {
        self.send();
        let sim = self.sim.clone();
        let route = &mut self.routes[number];
        let place = count(sim.choose(|dice| dice.below(route.listeners.len() as u64)));
        let (listener, before) = route.listeners[place];
        let backlog = sim.open_backlog(number);
        sim.note(|| format!("listener {listener} of route {number} is replaced"));
        sim.close_backlog(before);
        route.listeners[place].1 = backlog;
        for (worker, _) in &route.serving {
            let of = ListenerOf {
                route: route.number(),
                number: listener,
            };
            let listening = route.listening(backlog, &sim);
            self.mailboxes[*worker].order(Order::Replace(of, listening));
        }
        sim.plan(number, |planned| planned.listeners += route.serving.len());
    }

    /// A listener comes or goes, by the same rules.
    fn relisten(&mut self, number: usize) {
        for (worker, changes) in self.listener_changes(number) {
            let number = self.routes[number].number();
            let relisten = RouteChange::Relisten(number, changes);
            self.changes[worker].push(relisten);
        }
    }

    /// By worker.
    fn listener_changes(&mut self, number: usize) -> Vec<(usize, Vec<ListenerChange>)> {
        let sim = self.sim.clone();
        let route = &mut self.routes[number];
        let workers = route.serving.iter().map(|(worker, _)| *worker);
        if route.listeners.len() > 1 && sim.choose(|dice| dice.one_in(2)) {
            let (listener, backlog) = route.listeners.remove(0);
            sim.note(|| format!("listener {listener} of route {number} goes"));
            sim.close_backlog(backlog);
            let retire = |worker| (worker, vec![ListenerChange::Retire(listener)]);
            return workers.map(retire).collect();
        }
        let (listener, backlog) = (route.next_listener, sim.open_backlog(number));
        sim.note(|| format!("listener {listener} of route {number} comes"));
        route.next_listener += 1;
        route.listeners.push((listener, backlog));
        sim.plan(number, |planned| planned.listeners += route.serving.len());
        let add = |worker| {
            let listening = route.listening(backlog, &sim);
            (worker, vec![ListenerChange::Add(listener, listening)])
        };
        workers.map(add).collect()
    }

    fn amend(&mut self, number: usize) {
        let sim = self.sim.clone();
        let mut listening = match sim.choose(|dice| dice.one_in(4)) {
            true => self.listener_changes(number),
            false => Vec::new(),
        };
        // Two limits on the way to a worker are taken over in one turn, of which the world sees no more than the end.
        let is_pending = sim.is_pending(number);
        let (connections_max, calm) = (self.connections_max, self.calm);
        let route = &mut self.routes[number];
        route.generation = (route.generation + 1).min(GENERATIONS_MAX - 1);
        sim.choose(|dice| {
            if !is_pending {
                route.amend_limit(calm, dice);
            }
            route.amend_rules(dice);
            route.amend_users(dice);
        });
        let crowd = sim.choose(|dice| {
            let crowds = [None, Some(1), Some(2), Some(5), Some(connections_max)];
            dice.one_in(2).then(|| dice.pick(&crowds))
        });
        if let Some(max) = crowd {
            route.planned.route.crowd.limit(max);
        }
        let generation = route.generation;
        sim.note(|| format!("route {number} is amended, and goes by rules {generation}"));
        let introduction = route.introduction();
        for (worker, limit) in &route.serving {
            let introduced = 0..route.next_listener;
            let introduce = |listener| ListenerChange::Introduce(listener, introduction.clone());
            let added = listening.iter_mut().filter(|(of, _)| of == worker);
            let mut listeners: Vec<_> = added.flat_map(|(_, all)| mem::take(all)).collect();
            listeners.extend(introduced.map(introduce));
            self.changes[*worker].push(RouteChange::Amend(Amendment {
                route: route.number(),
                rules: route.rules(*limit),
                listeners,
            }));
        }
        let route = &self.routes[number];
        let whole = route.choices.limit.and_then(most_places);
        let timeouts = route.planned.policy.timeouts;
        sim.plan(number, |planned| {
            planned.idle_timeout |= timeouts.idle.is_some();
            planned.removed_are_cut |= timeouts.removed.is_some();
            planned.per_endpoint_max = planned.per_endpoint_max.zip(whole).map(|(a, b)| a.max(b));
            if let Some(max) = crowd {
                planned.sessions_max = max;
            }
        });
        let (pool, users) = (route.choices.pool, route.choices.users.clone());
        self.order(number, |in_effect, limit| {
            in_effect.generation = generation;
            in_effect.places = limit.and_then(most_places);
            in_effect.sheds = limit.and_then(|limit| limit.order);
            in_effect.pool = pool;
            in_effect.users = users.clone();
        });
    }

    // --- judging ------------------------------------------------------------------------------

    /// A worker has done all that it can do.
    fn judge<D: Driver>(&mut self, worker: &Worker<D>) {
        let sim = self.sim.of_worker(worker.number);
        for (number, route) in self.routes.iter().enumerate() {
            let key = worker.routes.find(route.number());
            let (census, in_effect) = (sim.census(number), sim.in_effect(number));
            if in_effect.is_cut {
                let has = Census {
                    waiting: 0,
                    ..census
                };
                assert!(
                    has.is_empty(),
                    "INVARIANT retired_is_forgotten: worker {} has {has:?} of route {number}, which was cut",
                    worker.number
                );
            }
            let is_left = census.clients + census.others > 0;
            assert!(
                key.is_some() || !is_left,
                "INVARIANT retired_is_forgotten: worker {} has forgotten route {number}, and has {census:?} of it",
                worker.number
            );
            let empty_for = &mut self.empty_for[worker.number][number];
            let is_over = in_effect.is_retired && !is_left && key.is_some();
            *empty_for = if is_over { *empty_for + 1 } else { 0 };
            assert!(
                *empty_for <= FORGOTTEN_IN,
                "INVARIANT retired_is_forgotten: worker {} keeps route {number}, of which nothing is left",
                worker.number
            );
        }
    }

    /// Those who share a count have heard of all changes.
    fn judge_counts<D: Driver>(&self, workers: &[Option<Worker<D>>]) {
        for (number, route) in self.routes.iter().enumerate() {
            if self.sim.is_pending(number) {
                continue;
            }
            let of_worker = |worker: &Worker<D>| {
                let key = worker.routes.find(route.number());
                key.map_or(0, |key| worker.routes[key].sessions.len())
            };
            let sessions: usize = workers.iter().flatten().map(of_worker).sum();
            let crowd = &route.planned.route.crowd;
            let is_limited = crowd.max().is_some();
            assert!(
                crowd.count() == sessions || !is_limited && crowd.count() < sessions,
                "INVARIANT changes_are_counted: route {number} has {sessions} sessions, and {} are counted",
                crowd.count()
            );
            let seated = route.planned.who.as_deref().and_then(Who::seated);
            assert!(
                seated.is_none_or(|seated| seated as usize == sessions),
                "INVARIANT changes_are_counted: route {number} has {sessions} sessions, and {seated:?} seats are \
                 taken"
            );
        }
    }
}

impl Reloaded {
    fn amend_limit(&mut self, calm: bool, dice: &mut Dice) {
        let Some(limit) = &mut self.choices.limit else {
            return;
        };
        let shards = self.serving.len();
        if dice.one_in(2) {
            let is_bounded = self.choices.pool.is_none() || dice.below(4) > 0;
            let most = u32::try_from(shards).expect("a few");
            let max = NonZeroU32::new(dice.pick(&[1, 2, 3, 5]).max(most));
            limit.per_endpoint_max = max.filter(|_| is_bounded).map(EndpointMax::Fixed);
        }
        if !calm && dice.one_in(2) {
            limit.queue_max = dice.pick(&[0, 2, 100]);
        }
        if self.choices.pool.is_some() {
            limit.order = order_with(limit.per_endpoint_max);
        }
        let parts = Spread::new(shards).serving(Some(*limit), shards);
        for ((_, part), (_, after)) in self.serving.iter_mut().zip(parts) {
            *part = after;
        }
    }

    fn amend_rules(&mut self, dice: &mut Dice) {
        if let Some(pool) = &mut self.choices.pool
            && dice.one_in(2)
        {
            *pool = pool_options(self.choices.backends, dice);
        }
        let (mut policy, balance) = self.choices.rules(dice);
        mark(&mut policy, self.generation);
        if !self.choices.calm && dice.one_in(4) {
            policy.timeouts.removed = Some(Duration::from_millis(30));
        }
        self.is_logged ^= dice.one_in(4);
        if dice.one_in(4) {
            self.slow_after = slow_after(dice);
        }
        self.planned.policy = Arc::new(policy);
        self.planned.balance = balance;
    }

    fn amend_users(&mut self, dice: &mut Dice) {
        if !dice.one_in(2) {
            return;
        }
        let users = Backends::Users.users(dice).filter(|_| dice.one_in(2));
        let before = self.planned.who.take();
        let who = users
            .as_ref()
            .and_then(|users| who_in_place_of(before.as_deref(), users));
        self.planned.who = who.map(Arc::new);
        self.past.extend(before);
        self.choices.users = users;
    }
}

impl several::Beside for Reloader {
    fn before_wait(&mut self, workers: &[Option<Worker<Sim>>]) {
        self.judge_counts(workers);
        self.act();
    }

    fn before_turn(&mut self, worker: &Worker<Sim>) {
        self.sim.of_worker(worker.number).hears();
    }

    fn after_turn(&mut self, worker: &Worker<Sim>) {
        self.judge(worker);
    }
}

/// As [`Worker::run`] does it.
fn run_under_epoll<D: Driver>(sim: &Sim, worker: Worker<D>, reloader: &mut Reloader) {
    let mut workers = [Some(worker)];
    loop {
        sim.hears();
        let worker = workers[0].as_mut().expect("it has not ended");
        let Rest::Until(date) = worker.do_what_is_due() else {
            break;
        };
        reloader.judge(worker);
        reloader.judge_counts(&workers);
        reloader.act();
        let worker = workers[0].as_mut().expect("it has not ended");
        let turned = worker.hands.driver.turn(date);
        turned.expect("the simulated kernel does not fail");
        worker.take_completions();
    }
    drop(workers);
    sim.worker_ended();
}
