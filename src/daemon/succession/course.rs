//! The course of a take-over, in the predecessor's main loop.

use std::collections::HashSet;
use std::future::pending;
use std::mem;
use std::time::{Duration, Instant};

use tokio::time;

use crate::commands::{Arrival, Asked, ControlReply};

use super::super::serving::Serving;
use super::offer::{Offer, OfferedSocket, Takes, WayBack, held};
use super::predecessor::ArrivedClient;
use super::successor::{Failure, Step, Successor};
use super::wire::{Message, Ready};

/// How long the connection of a process that has ended may take to end.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);

/// The process that is to take the daemon's place, if there is one.
#[derive(Default)]
pub(in super::super) struct Succession {
    coming: Option<Coming>,
    /// Has come during a reload, and waits for its end.
    waiting: Option<Arrival>,
    /// Commands that have come since it was told how things are.
    postponed: Vec<Asked>,
}

struct Coming {
    successor: Successor,
    pid: u32,
    version: String,
    offered: Vec<OfferedSocket>,
    /// What it takes, and the way back, once the sockets were left to it.
    yielded: Option<(Ready, WayBack)>,
}

/// Another process serves.
pub(in super::super) struct Succeeded {
    pub(super) successor: Successor,
    pub(in super::super) pid: u32,
    pub(in super::super) version: String,
    pub(in super::super) takes: Takes,
    /// The routes whose clients it takes as well, if they wait.
    pub(super) routes: HashSet<String>,
    /// Those of which it takes clients as well of whose next request something was read.
    pub(super) reads: HashSet<String>,
}

impl Succeeded {
    /// Whether it takes this client, which another process has handed over.
    pub(super) fn takes(&self, client: &ArrivedClient) -> bool {
        let (route, has_read) = (client.route.as_str(), !client.read.is_empty());
        self.routes.contains(route) && (!has_read || self.reads.contains(route))
    }

    /// The daemon has come to its end: all that was to be said to the process is said.
    pub(in super::super) async fn part(self) {
        self.successor.part().await;
    }
}

impl Succession {
    /// What the process that comes has come to; never, if none does.
    pub(in super::super) async fn next(&mut self) -> Step {
        match &mut self.coming {
            Some(coming) => coming.successor.next().await,
            None => pending().await,
        }
    }

    /// Why a process that has ended does not come. What it has said before counts no more: it has accepted nobody, as
    /// it was not told that it was heard.
    async fn last_word(&mut self) -> Failure {
        loop {
            match self.next().await {
                Step::Failed(why) => return why,
                Step::Gone => {
                    return Failure::Left("it has ended (see its lines in the log)".to_owned());
                }
                Step::Met { .. } | Step::Ready(_) | Step::Serving => {}
            }
        }
    }

    /// Whether one is under way: it was told how things are, so they are to stay so.
    pub(in super::super) fn is_under_way(&self) -> bool {
        self.coming.is_some()
    }

    /// The command waits for how it ends.
    pub(in super::super) fn postpone(&mut self, asked: Asked) {
        self.postponed.push(asked);
    }
}

impl Serving {
    /// Somebody has come to take the daemon's place.
    pub(in super::super) fn welcome(&mut self, arrival: Arrival) {
        if self.succession.coming.is_some() || self.succession.waiting.is_some() {
            send_away(
                arrival,
                "another process is about to take the daemon's place already (wait for it)",
                &self.helpers,
            );
            return;
        }
        if self.reloading.is_under_way() {
            self.succession.waiting = Some(arrival);
            return;
        }
        let (by, pid) = (arrival.uid, arrival.pid);
        match Successor::meet(arrival.connection, &self.helpers) {
            Ok(successor) => {
                tracing::info!(uid = by, "a process has come to take the daemon's place");
                self.succession.coming = Some(Coming {
                    successor,
                    // One that hangs before it has said who it is is known as well.
                    pid: pid.unwrap_or(0),
                    version: String::new(),
                    offered: Vec::new(),
                    yielded: None,
                });
            }
            Err(error) => tracing::warn!("talk with a successor: {error}: it is sent away"),
        }
    }

    /// A reload has ended.
    pub(in super::super) fn welcome_who_waits(&mut self) {
        if let Some(arrival) = self.succession.waiting.take() {
            self.welcome(arrival);
        }
    }

    /// Goes on with the process that comes. Returns it once it serves.
    pub(in super::super) async fn go_on_with_succession(
        &mut self,
        step: Step,
    ) -> Option<Succeeded> {
        match step {
            Step::Met { pid, version } => self.offer(pid, version),
            Step::Ready(ready) => self.yield_to(ready).await,
            Step::Serving => return self.succeeded(),
            Step::Failed(why) => self.end_succession(&why).await,
            Step::Gone => unreachable!("it has served before"),
        }
        None
    }

    fn offer(&mut self, pid: u32, version: String) {
        let Some(coming) = &mut self.succession.coming else {
            return;
        };
        if coming.pid == 0 {
            coming.pid = pid;
        }
        let pid = coming.pid;
        if let Some(obstacle) = self.service.obstacle_to_succession() {
            coming.successor.refuse(obstacle);
            return;
        }
        match Offer::of(&self.service, &self.sites) {
            Ok(Offer { sockets, said }) => {
                tracing::info!("process {pid}, version {version}, is offered the daemon's place");
                (coming.offered, coming.version) = (sockets, version);
                for (message, descriptor) in said {
                    coming.successor.say(message, descriptor);
                }
            }
            Err(error) => coming.successor.refuse(format!(
                "duplicate the sockets for it: {error} (raise the limit of open descriptors)"
            )),
        }
    }

    /// The successor needs nothing more but the sockets.
    async fn yield_to(&mut self, ready: Ready) {
        let Some(coming) = &mut self.succession.coming else {
            return;
        };
        let takes = Takes::of(&ready.takes, &coming.offered, &self.service);
        let left = self.service.leave_sockets(&takes);
        let way_back = match left {
            Ok(way_back) => way_back,
            Err(error) => {
                coming.successor.refuse(format!(
                    "duplicate the sockets in case that it fails: {error} (raise the limit of open descriptors)"
                ));
                return;
            }
        };
        self.service.count_permits();
        coming.yielded = Some((ready, way_back));
        if !self.workers.have_obeyed().await {
            let line = "a worker does not turn, and may still accept clients (see the log)";
            coming.successor.refuse(line.to_owned());
            return;
        }
        for (route, counts) in self.service.keep_permits() {
            let kept = Message::Held(held(&route, &counts));
            coming.successor.say(kept, None);
        }
        coming.successor.say(Message::Yours, None);
    }

    fn succeeded(&mut self) -> Option<Succeeded> {
        let Coming {
            successor,
            pid,
            version,
            offered,
            yielded,
        } = self.succession.coming.take()?;
        let (ready, ..) = yielded.expect("it serves when the sockets are its own");
        // One may have been bound again meanwhile.
        let takes = Takes::of(&ready.takes, &offered, &self.service);
        successor.say(Message::Relieved, None);
        tracing::info!("process {pid} serves in the daemon's place: draining");
        // Whoever gave them hears that the daemon is about to end, and finds the successor.
        self.succession.postponed.clear();
        Some(Succeeded {
            successor,
            pid,
            version,
            takes,
            routes: ready.clients.into_iter().collect(),
            reads: ready.reads.into_iter().collect(),
        })
    }

    /// The daemon is about to end. Whoever has its sockets already comes to serve, or gives them back; others have come
    /// too late.
    pub(in super::super) async fn settle_succession(&mut self) -> Option<Succeeded> {
        self.succession.postponed.clear();
        self.succession.waiting = None;
        let is_yielded = |coming: &Coming| coming.yielded.is_some();
        if !self.succession.coming.as_ref().is_some_and(is_yielded) {
            // Its connection ends with this.
            self.succession.coming = None;
            return None;
        }
        match self.succession.next().await {
            Step::Serving => self.succeeded(),
            Step::Failed(why) => {
                self.end_succession(&why).await;
                None
            }
            Step::Met { .. } | Step::Ready(_) | Step::Gone => {
                unreachable!("the sockets are left to it once it is ready")
            }
        }
    }

    /// Nobody takes the daemon's place after all.
    async fn end_succession(&mut self, why: &Failure) {
        let Some(coming) = self.succession.coming.take() else {
            return;
        };
        let began = Instant::now();
        let was_yielded = coming.yielded.is_some();
        if let Some((ready, way_back)) = coming.yielded {
            let takes = Takes::of(&ready.takes, &coming.offered, &self.service);
            self.service.take_sockets_back(&takes, way_back);
            self.sites.take_back(&takes);
            self.service.count_permits_no_more();
            // Whoever hears of it finds it so.
            self.workers.have_obeyed().await;
        }
        let pid = coming.pid;
        tracing::error!(
            was_yielded,
            back_after = ?began.elapsed(),
            "process {pid} does not take the daemon's place: {why}; this one goes on as before"
        );
        self.upgrading.was_refused(pid, why);
        for asked in mem::take(&mut self.succession.postponed) {
            self.obey(asked);
        }
    }

    /// The successor that was started here has ended. Whoever wanted it hears why, which may be on its way.
    pub(in super::super) async fn end_upgrade(&mut self, failed: ControlReply) {
        let pid = self.upgrading.started();
        let coming = self.succession.coming.as_ref();
        // The one that comes may be another process, whose steps are none of this one's.
        if coming.is_some_and(|coming| Some(coming.pid) == pid) {
            let last_word = time::timeout(LAST_WORD_TIMEOUT, self.succession.last_word()).await;
            let ended = || Failure::Left("it has ended (see its lines in the log)".to_owned());
            let why = last_word.unwrap_or_else(|_| ended());
            self.end_succession(&why).await;
        }
        self.upgrading.end(&failed);
    }
}

/// It is told why.
fn send_away(arrival: Arrival, why: &str, helpers: &super::super::helpers::Helpers) {
    tracing::warn!("a process that came to take the daemon's place is sent away: {why}");
    if let Ok(successor) = Successor::meet(arrival.connection, helpers) {
        successor.refuse(why.to_owned());
    }
}
