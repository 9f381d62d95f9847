//! Several routes, several workers, or both, in one world. Workers have their turns one after the other, in any order:
//! what they share sees no two of them at one time, but any order of what they do.

use super::successions::Succession;
use super::*;
use crate::driver::sim::Waiting;
use crate::worker::{Rest, Sharing, Spread};

/// A route, and who serves it.
struct Served {
    planned: Planned,
    /// By worker, those that do not serve it included.
    counters: Vec<ShareCounters>,
}

/// What one worker is started with.
#[derive(Default)]
struct Assignment {
    shares: Vec<Share>,
    /// The routes of their listeners.
    listeners: Vec<usize>,
}

/// What is chosen for all routes.
struct Common {
    workers: usize,
    routes: usize,
    connections_max: u32,
    calm: bool,
    users: Option<Users>,
    /// The second worker is to serve what the first one does.
    has_successor: bool,
}

impl Common {
    fn new(backends: Backends, dice: &mut Dice) -> Self {
        let (workers, routes) = match backends {
            Backends::Workers => (dice.between(2, 3), dice.between(1, 2)),
            Backends::Successions => (2, dice.between(1, 2)),
            _ => (1, dice.between(2, 3)),
        };
        let connections_max = dice.pick(&[1, 2, 3, 5, 8, 12, 100]);
        let has_users = routes == 1 && dice.one_in(4);
        Self {
            workers: count(workers),
            routes: count(routes),
            // With several listeners, one permit of each worker can be unused. No daemon gives them less.
            connections_max: match routes {
                1 => connections_max,
                _ => connections_max.max(u32::try_from(workers).expect("a few")),
            },
            calm: dice.one_in(2),
            users: has_users.then(|| Backends::Users.users(dice)).flatten(),
            has_successor: backends == Backends::Successions,
        }
    }

    fn choices(&self, dice: &mut Dice) -> Choices {
        let backends = dice.pick(&[Backends::Tcp, Backends::Limited, Backends::Fastcgi]);
        let mut limit = backends.limit(dice);
        if let (true, Some(limit)) = (self.has_successor, &mut limit) {
            // One for each worker at least, so that both serve the route.
            let permits = limit.per_endpoint_max.and_then(EndpointMax::fixed);
            let permits = permits.and_then(|max| NonZeroU32::new(max.get().max(2)));
            limit.per_endpoint_max = permits.map(EndpointMax::Fixed);
        }
        Choices {
            backends,
            ejection: ejection(dice),
            listeners: 1,
            limit: limit.map(|limit| Limit {
                queue_max: if self.calm { 100 } else { limit.queue_max },
                ..limit
            }),
            pool: (backends == Backends::Fastcgi).then(|| pool_options(backends, dice)),
            users: self.users.clone(),
            calm: self.calm,
        }
    }

    /// No more than there are workers, or permits for each of them.
    fn shards(&self, limit: Option<Limit>, dice: &mut Dice) -> usize {
        let Some(limit) = limit else {
            return 1;
        };
        let permits = limit
            .per_endpoint_max
            .map_or(u32::MAX, |max| max.least().get());
        let most = self.workers.min(permits as usize);
        if self.has_successor {
            return most;
        }
        count(dice.between(1, most as u64))
    }

    /// Chooses the routes, and gives them to the workers.
    fn divide(&self, dice: &mut Dice) -> (Vec<Served>, Vec<PlannedRoute>, Vec<Assignment>) {
        let assignments = (0..self.workers).map(|_| Assignment::default());
        let mut assignments: Vec<_> = assignments.collect();
        let mut spread = Spread::new(self.workers);
        let (mut served, mut planned) = (Vec::new(), Vec::new());
        for number in 0..self.routes {
            let choices = self.choices(dice);
            let crowd = Crowd::new(Crowd::part(Part::Most, self.connections_max, self.routes));
            let known_as = u32::try_from(number).expect("a few");
            let route = choices.route(known_as, crowd, dice);
            let counters = (0..self.workers).map(|_| ShareCounters::default());
            let counters: Vec<_> = counters.collect();
            let shards = self.shards(choices.limit, dice);
            let serving = spread.serving(choices.limit, shards);
            let mut limits = vec![None; self.workers];
            for (worker, limit) in serving {
                limits[worker] = limit;
                let mut listening = choices.backends.listening();
                if shards > 1 {
                    listening.sharing = Sharing::InTurns;
                }
                assignments[worker].listeners.push(number);
                let share = route.share(vec![listening], limit, &counters[worker]);
                assignments[worker].shares.push(share);
            }
            let endpoints = choices.backends.endpoints_of(number);
            planned.push(choices.planned(&route, endpoints, &limits, &counters));
            served.push(Served {
                planned: route,
                counters,
            });
        }
        (served, planned, assignments)
    }
}

pub(super) fn run(
    mut dice: Dice,
    (backends, by_hand): (Backends, bool),
    trace: bool,
    keep: &mut Option<Sim>,
) {
    let common = Common::new(backends, &mut dice);
    let mailboxes: Vec<_> = (0..common.workers).map(|_| mailbox()).collect();
    let seed = dice.below(1 << 16);
    let shared = Arc::new(shared(
        mailboxes.clone(),
        common.connections_max,
        seed,
        common.users.as_ref(),
    ));
    let (served, planned, assignments) = common.divide(&mut dice);
    let speak_fastcgi = planned.iter().any(|route| route.fastcgi.is_some());
    let most = if speak_fastcgi { 14 } else { 25 };
    let clients = count(dice.between(1, most));
    let scenario = Scenario {
        by_hand,
        mailboxes: mailboxes.clone(),
        trace,
        ..scenario(
            clients,
            planned,
            (common.calm, common.users.clone()),
            common.connections_max,
            &mut dice,
        )
    };
    let sim = Sim::new(scenario, dice);
    *keep = Some(sim.clone());
    let counted = mailboxes.iter().map(|_| Arc::default());
    let counted: Vec<Arc<WorkerCounters>> = counted.collect();
    let workers = assignments.into_iter().zip(&mailboxes).enumerate();
    let workers = workers.map(|(number, (assignment, mailbox))| {
        let driver = sim.of_worker(number);
        driver.expect_listeners(assignment.listeners);
        Worker::new(
            number,
            driver,
            assignment.shares,
            Arc::clone(&shared),
            Arc::clone(mailbox),
            Arc::clone(&counted[number]),
        )
    });
    let workers = workers.collect();
    if common.has_successor {
        let routes = served.iter().map(|route| route.planned.route.number);
        let mut succession = Succession::new(&sim, &mailboxes, routes.collect());
        run_in_turns(&sim, workers, &mut succession);
        succession.end();
    } else {
        run_in_turns(&sim, workers, &mut Nobody);
    }
    sim.judge_end();
    judge_shared(&shared, &sim, &counted);
    for Served { planned, counters } in &served {
        judge_route(planned, counters);
    }
}

/// Who is there beside the workers.
pub(super) trait Beside {
    /// All of them wait.
    fn before_wait(&mut self, workers: &[Option<Worker<Sim>>]);

    /// A worker is about to read its mailbox, and to do what it can.
    fn before_turn(&mut self, worker: &Worker<Sim>);

    /// It has done all that, and has not ended.
    fn after_turn(&mut self, worker: &Worker<Sim>);
}

struct Nobody;

impl Beside for Nobody {
    fn before_wait(&mut self, _workers: &[Option<Worker<Sim>>]) {}

    fn before_turn(&mut self, _worker: &Worker<Sim>) {}

    fn after_turn(&mut self, _worker: &Worker<Sim>) {}
}

/// Gives all of them turns until each has ended.
pub(super) fn run_in_turns(sim: &Sim, workers: Vec<Worker<Sim>>, beside: &mut impl Beside) {
    let mut workers: Vec<_> = workers.into_iter().map(Some).collect();
    let begun = workers.iter_mut();
    let mut waiting: Vec<_> = begun
        .filter_map(|worker| begin_wait(worker, beside))
        .collect();
    while !waiting.is_empty() {
        beside.before_wait(&workers);
        let woken = waiting.swap_remove(sim.end_wait(&waiting));
        let worker = &mut workers[woken.worker];
        let running = worker.as_mut().expect("only who runs waits");
        running.take_completions();
        waiting.extend(begin_wait(worker, beside));
    }
}

/// Lets a worker do what it can. `None`: it has ended, and is gone.
fn begin_wait(worker: &mut Option<Worker<Sim>>, beside: &mut impl Beside) -> Option<Waiting> {
    let running = worker.as_mut().expect("it was seen to wait");
    let sim = running.hands.driver.clone();
    beside.before_turn(running);
    match running.do_what_is_due() {
        Rest::Until(date) => {
            beside.after_turn(running);
            Some(sim.begin_wait(date))
        }
        Rest::Finished => {
            *worker = None;
            sim.worker_ended();
            None
        }
    }
}
