//! Two workers that could be of two processes: the first one lets its clients go at any moment, and drains then or
//! goes on, and the second one takes them on. What they send each other takes its time.

use std::mem;
use std::sync::Mutex;

use super::several::Beside;
use super::*;
use crate::worker::{Arrived, Leave, LeavingClient, Notice, Order};

/// Who lets clients go, and who takes them on.
const BEFORE: usize = 0;
const AFTER: usize = 1;

/// The way from one worker to the other.
pub(super) struct Succession {
    sim: Sim,
    mailboxes: Vec<Arc<Mailbox>>,
    /// Routes that both workers serve, and those that were let go.
    routes: Vec<RouteNumber>,
    /// Whether clients bring what was read of their next request.
    takes_read: bool,
    /// Whether the first one was told to drain.
    drains: bool,
    on_the_way: Arc<Mutex<Vec<LeavingClient>>>,
    /// How many have come to the second worker.
    pub(super) arrived: usize,
}

impl Succession {
    pub(super) fn new(sim: &Sim, mailboxes: &[Arc<Mailbox>], routes: Vec<RouteNumber>) -> Self {
        Self {
            sim: sim.clone(),
            mailboxes: mailboxes.to_vec(),
            routes,
            takes_read: sim.lets_go_with_bytes(),
            drains: false,
            on_the_way: Arc::default(),
            arrived: 0,
        }
    }

    /// Has the first worker do the next thing, in its order.
    fn act(&mut self) {
        if self.drains || !self.sim.is_serving() || !self.sim.choose(|dice| dice.one_in(12)) {
            return;
        }
        if let Some(route) = self.routes.pop() {
            self.sim.note(|| format!("clients of {route:?} are let go"));
            self.sim.lets_go(BEFORE, route.0 as usize);
            let on_the_way = Arc::clone(&self.on_the_way);
            let take = move |client| on_the_way.lock().expect("whole").push(client);
            let leave = Leave::new(self.takes_read, take);
            self.mailboxes[BEFORE].order(Order::LetGo(route, leave));
            // The drain comes right behind it, or later.
            if !self.routes.is_empty() || self.sim.choose(|dice| dice.one_in(2)) {
                return;
            }
        }
        if self.routes.is_empty() {
            self.sim.note(|| String::from("the first worker drains"));
            self.mailboxes[BEFORE].post(Notice::Drain);
            self.drains = true;
        }
    }

    /// Brings those that have left to the second worker. One that has ended serves nobody.
    fn carry(&mut self, is_there: bool) {
        for client in mem::take(&mut *self.on_the_way.lock().expect("whole")) {
            if !is_there {
                self.sim.loses(&client.fd);
                continue;
            }
            self.arrived += 1;
            let arrived = Arrived {
                fd: client.fd,
                listener: client.listener,
                introduction: Introduction::None,
                read: client.read,
            };
            self.mailboxes[AFTER].order(Order::Admit(client.route, arrived));
        }
    }

    /// All workers have ended.
    pub(super) fn end(mut self) {
        self.carry(false);
    }
}

impl Beside for Succession {
    fn before_wait(&mut self, workers: &[Option<Worker<Sim>>]) {
        self.act();
        self.carry(workers[AFTER].is_some());
    }

    fn before_turn(&mut self, _worker: &Worker<Sim>) {}

    fn after_turn(&mut self, _worker: &Worker<Sim>) {}
}
