//! While both run: what the predecessor still tells, and what the successor is to hear, on the main thread.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time;

use crate::backend::PermitCounts;
use crate::config::RouteName;
use crate::worker::{Arrived, Leave, LeavingClient, Order, RouteNumber};

use super::super::service::Service;
use super::super::upstreams;
use super::course::Succeeded;
use super::offer::held;
use super::predecessor::{ArrivedClient, News, Predecessor};
use super::successor::{Step, Successor};
use super::wire::{ClientOffer, Message, ReadBytes, WireAddress};

/// How long permits that are given back gather until the successor hears of them. A look is an addition for each
/// endpoint, and a message may have all of them.
const GATHER_TIME: Duration = Duration::from_millis(1);

/// How often it is looked at the latest which permits the daemon needs no more: sessions that wait for one may leave
/// without it.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Goes on while the daemon drains: hears the predecessor until that `is_gone`, and tells the successor. It does not
/// come to an end.
pub(in super::super) async fn overlap(
    service: &mut Service,
    predecessor: &mut Option<Predecessor>,
    successor: &mut Option<Succeeded>,
    is_gone: &Notify,
) {
    let mut told: Vec<(RouteName, PermitCounts)> = Vec::new();
    let permits_freed = Arc::clone(&service.permits_freed);
    loop {
        tokio::select! {
            news = next_news(predecessor) => {
                match (news, &*successor) {
                    (News::Client(client), Some(succeeded)) if succeeded.takes(&client) => {
                        pass_on(client, &succeeded.successor);
                    }
                    (news, _) => service.heed(news, predecessor),
                }
                if predecessor.is_none() {
                    is_gone.notify_one();
                }
                // What it needs no more is the successor's, however much it has to say.
                if let Some(succeeded) = &*successor {
                    tell_kept(service, &mut told, &succeeded.successor);
                }
            }
            () = next_look(&permits_freed), if successor.is_some() => {
                if let Some(succeeded) = &*successor {
                    tell_kept(service, &mut told, &succeeded.successor);
                }
            }
            step = next_step(successor) => match step {
                Step::Gone | Step::Failed(_) => {
                    tracing::warn!("the process that took the daemon's place is gone, before this one has drained");
                    *successor = None;
                }
                Step::Met { .. } | Step::Ready(_) | Step::Serving => {}
            },
        }
    }
}

/// Returns when it is worth looking.
async fn next_look(permits_freed: &Notify) {
    let freed = time::timeout(LOOK_INTERVAL, permits_freed.notified()).await;
    if freed.is_ok() {
        time::sleep(GATHER_TIME).await;
    }
}

/// What the predecessor says next; never, if there is none.
pub(in super::super) async fn next_news(predecessor: &mut Option<Predecessor>) -> News {
    match predecessor {
        Some(predecessor) => predecessor.next().await,
        None => pending().await,
    }
}

async fn next_step(successor: &mut Option<Succeeded>) -> Step {
    match successor {
        Some(succeeded) => succeeded.successor.next().await,
        None => pending().await,
    }
}

/// The predecessor's client is the successor's at once: the workers, whose listeners are gone, would not know where it
/// has come to, and may have ended.
fn pass_on(client: ArrivedClient, successor: &Successor) {
    let ArrivedClient {
        route,
        place,
        connection,
        read,
    } = client;
    let offer = ClientOffer {
        route: route.to_string(),
        place: WireAddress::of(&place),
        read: ReadBytes(read),
    };
    successor.say(Message::Client(offer), Some(connection));
}

/// Only what is new.
fn tell_kept(service: &Service, told: &mut Vec<(RouteName, PermitCounts)>, successor: &Successor) {
    let kept = service.keep_permits();
    if kept == *told {
        return;
    }
    for (route, counts) in &kept {
        let before = told.iter().find(|(name, _)| name == route);
        if before.is_none_or(|(_, before)| before != counts) {
            successor.say(Message::Held(held(route, counts)), None);
        }
    }
    *told = kept;
}

impl Service {
    /// The predecessor has said something.
    pub(in super::super) fn heed(&mut self, news: News, predecessor: &mut Option<Predecessor>) {
        match news {
            News::Held(route, counts) => self.leave_elsewhere(route, counts),
            News::Client(client) => self.admit(client),
            News::Gone => {
                *predecessor = None;
                tracing::info!("the daemon that was here before has ended");
                self.elsewhere.clear();
                self.expect_arrivals(false);
                for permits in self.routes.iter().filter_map(|route| route.shared.as_ref()) {
                    permits.leave_to_others(PermitCounts::default());
                }
                self.end_sharing();
            }
        }
    }

    /// Whether the predecessor may have clients for the workers.
    pub(in super::super) fn expect_arrivals(&self, expect: bool) {
        let all = self.mailboxes.iter();
        all.for_each(|mailbox| mailbox.order(Order::ExpectArrivals(expect)));
    }

    /// Another process has so many permits of this route.
    pub(in super::super) fn leave_elsewhere(&mut self, name: RouteName, counts: PermitCounts) {
        let route = self.routes.iter().find(|route| route.config.name == name);
        if let Some(permits) = route.and_then(|route| route.shared.as_ref()) {
            permits.leave_to_others(counts.clone());
        }
        self.elsewhere.insert(name, Arc::new(counts));
    }

    /// The predecessor's client is ours. A route that is not here any more has none: its connection ends.
    fn admit(&mut self, client: ArrivedClient) {
        let ArrivedClient {
            route,
            place,
            connection,
            read,
        } = client;
        let Some(route) = self.routes.iter().find(|r| r.config.name == route) else {
            return;
        };
        let introduced = route.config.upstreams.proxy_protocol.version();
        let sockets = &mut route.sockets.iter();
        let arrived = Arrived {
            fd: connection,
            listener: sockets
                .find(|socket| socket.socket.place() == place)
                .map(|socket| socket.number),
            introduction: upstreams::introduction(introduced, &place),
            read,
        };
        // Each of those that serve the route in its turn.
        self.arrivals = self.arrivals.wrapping_add(1);
        let share = &route.shares[self.arrivals % route.shares.len()];
        self.mailboxes[share.worker].order(Order::Admit(route.route.number, arrived));
    }

    /// Clients without a request, and those that come to be without one, go to the successor. Those of routes that it
    /// does not have stay, with the backlogs of these.
    pub(in super::super) fn let_clients_go(&self, succeeded: &Succeeded) {
        let goes = |name: &RouteName| succeeded.routes.contains(name.as_str());
        let mut names = HashMap::new();
        let mut places = HashMap::new();
        let mut serving: Vec<(usize, RouteNumber, bool)> = Vec::new();
        let reads = |name: &RouteName| succeeded.reads.contains(name.as_str());
        for route in self.routes.iter().filter(|r| goes(&r.config.name)) {
            let number = route.route.number;
            names.insert(number, route.route.name.to_string());
            let sockets = route.sockets.iter();
            places.extend(sockets.map(|socket| ((number, socket.number), socket.socket.place())));
            let takes_read = reads(&route.route.name);
            let workers = route.shares.iter().map(|share| share.worker);
            serving.extend(workers.map(|worker| (worker, number, takes_read)));
        }
        for retired in self.retired.iter().filter(|r| goes(&r.route.name)) {
            let number = retired.route.number;
            names.insert(number, retired.route.name.to_string());
            let takes_read = reads(&retired.route.name);
            let workers = retired.workers.iter();
            serving.extend(workers.map(|worker| (*worker, number, takes_read)));
        }
        let say = succeeded.successor.sayer();
        let take = Arc::new(move |client: LeavingClient| {
            let place = client.listener.and_then(|n| places.get(&(client.route, n)));
            let offer = ClientOffer {
                route: names[&client.route].clone(),
                place: place.and_then(WireAddress::of),
                read: ReadBytes(client.read),
            };
            // A successor that is gone leaves nobody to serve them.
            let _ = say.send((Message::Client(offer), Some(client.fd)));
        });
        for (worker, number, takes_read) in serving {
            let take = Arc::clone(&take);
            let leave = Leave::new(takes_read, move |client| take(client));
            self.mailboxes[worker].order(Order::LetGo(number, leave));
        }
    }
}
