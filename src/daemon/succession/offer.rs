//! What the daemon has for a successor, and how its workers leave it, or take it back.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::backend::{PermitCounts, SharedPermits};
use crate::config::{Access, RouteName};
use crate::sys::net;
use crate::worker::{ListenerChange, Mailbox, Notice, Order, RouteChange, RouteNumber};

use super::super::listener::SocketFile;
use super::super::listening::ListeningSocket;
use super::super::routes::ServedRoute;
use super::super::service::Service;
use super::super::sites::Sites;
use super::super::sockets::SocketId;
use super::line::Said;
use super::wire::{
    ByHandOffer, EndpointOffer, FileOffer, Held, HeldEndpoint, Message, Purpose, RouteOffer,
    SocketOffer,
};

/// A socket that was offered.
#[derive(Clone, Debug)]
pub(super) enum OfferedSocket {
    Clients(SocketId, Option<SocketFile>),
    Control,
    Metrics,
}

/// All that is offered, by number.
#[derive(Default)]
pub(super) struct Offer {
    pub(super) sockets: Vec<OfferedSocket>,
    pub(super) said: Vec<Said>,
}

/// Which of the daemon's sockets a successor takes.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Takes {
    pub(in super::super) clients: Vec<SocketId>,
    pub(in super::super) control: bool,
    pub(in super::super) metrics: bool,
}

/// What has the workers take the sockets back: all that could fail has been done.
pub(super) struct WayBack(Vec<(usize, RouteChange)>);

impl Offer {
    /// With descriptors of all sockets.
    ///
    /// # Errors
    /// If there are none left for that.
    pub(super) fn of(service: &Service, sites: &Sites) -> io::Result<Self> {
        let mut offer = Self::default();
        for route in &service.routes {
            for socket in &route.sockets {
                offer.add_clients(socket.id, &socket.socket, &route.config.access)?;
            }
        }
        for socket in &service.unclaimed {
            offer.add_clients(socket.id, &socket.socket, &Access::default())?;
        }
        if let Some(control) = sites.control() {
            let file = control.socket_file();
            let access = Access::default();
            offer.add(
                OfferedSocket::Control,
                (Purpose::Control, control.address().to_string()),
                file.map(|file| file_offer(file, &access)),
                (None, net::duplicate(control.fd())?),
            );
        }
        if let Some((address, socket)) = sites.metrics() {
            let socket = net::duplicate(socket)?;
            let place = format!("tcp:{address}");
            let purpose = (Purpose::Metrics, place);
            offer.add(OfferedSocket::Metrics, purpose, None, (None, socket));
        }
        let routes = service.routes.iter().map(route_offer);
        offer
            .said
            .extend(routes.map(|route| (Message::Route(route), None)));
        offer.said.push((Message::Offered, None));
        Ok(offer)
    }

    fn add_clients(
        &mut self,
        id: SocketId,
        socket: &ListeningSocket,
        access: &Access,
    ) -> io::Result<()> {
        let (file, name) = match socket {
            ListeningSocket::Bound(listener) => (listener.socket_file(), None),
            ListeningSocket::Inherited(inherited) => (None, Some(inherited.name().to_owned())),
        };
        self.add(
            OfferedSocket::Clients(id, file.cloned()),
            (Purpose::Clients, socket.place().to_string()),
            file.map(|file| file_offer(file, access)),
            (name, net::duplicate(socket.fd())?),
        );
        Ok(())
    }

    fn add(
        &mut self,
        socket: OfferedSocket,
        (purpose, place): (Purpose, String),
        file: Option<FileOffer>,
        (passed_as, descriptor): (Option<String>, OwnedFd),
    ) {
        let number = u32::try_from(self.sockets.len()).expect("each has a descriptor");
        let offer = SocketOffer {
            number,
            purpose,
            place,
            file,
            passed_as,
        };
        self.sockets.push(socket);
        self.said.push((Message::Socket(offer), Some(descriptor)));
    }
}

impl Takes {
    /// Those of these numbers, if they are what they were. One that was bound again meanwhile is another one: it
    /// ends with the daemon, and the successor binds its path.
    pub(super) fn of(numbers: &[u32], offered: &[OfferedSocket], service: &Service) -> Self {
        let mut takes = Self::default();
        for &number in numbers {
            match usize::try_from(number).ok().and_then(|n| offered.get(n)) {
                Some(OfferedSocket::Clients(id, file)) => {
                    let socket = service.sockets().find(|socket| socket.id == *id);
                    let is_same = socket.is_some_and(|socket| match &socket.socket {
                        ListeningSocket::Bound(listener) => {
                            listener.socket_file().map(SocketFile::id)
                                == file.as_ref().map(SocketFile::id)
                        }
                        ListeningSocket::Inherited(_) => true,
                    });
                    takes.clients.extend(is_same.then_some(*id));
                }
                Some(OfferedSocket::Control) => takes.control = true,
                Some(OfferedSocket::Metrics) => takes.metrics = true,
                None => {}
            }
        }
        takes
    }
}

fn file_offer(file: &SocketFile, access: &Access) -> FileOffer {
    let ((device, inode), (mode, user, group)) = (file.id(), file.access());
    FileOffer {
        device,
        inode,
        mode,
        user,
        group,
        owner_option: access.owner.as_ref().map(ToString::to_string),
        group_option: access.group.as_ref().map(ToString::to_string),
    }
}

fn route_offer(route: &ServedRoute) -> RouteOffer {
    let published = &route.route.published;
    let endpoints = published.endpoints_told();
    let by_hand = published.by_hand().into_iter();
    RouteOffer {
        route: route.config.name.to_string(),
        endpoints: endpoints
            .iter()
            .map(|endpoint| EndpointOffer {
                address: endpoint.address.into(),
                priority: endpoint.priority,
                weight: endpoint.weight,
            })
            .collect(),
        by_hand: by_hand
            .map(|(address, adjustment)| ByHandOffer {
                address: address.into(),
                drained: adjustment.is_drained,
                weight: adjustment.weight.map(Into::into),
            })
            .collect(),
        down: published.is_out(),
    }
}

pub(super) fn held(route: &RouteName, counts: &PermitCounts) -> Held {
    let endpoints = counts.of.iter().map(|(address, count)| HeldEndpoint {
        address: (*address).into(),
        count: *count,
    });
    Held {
        route: route.to_string(),
        of_others: counts.of_others,
        endpoints: endpoints.collect(),
    }
}

impl Service {
    /// Has the workers leave these sockets to a successor. Accepts that are in flight may still bring them clients;
    /// once all workers have acknowledged it, none is.
    ///
    /// # Errors
    /// If there are no descriptors for the way back: then nothing has changed.
    pub(super) fn leave_sockets(&self, takes: &Takes) -> io::Result<WayBack> {
        let mut leave: Vec<(usize, RouteChange)> = Vec::new();
        let mut back = Vec::new();
        for route in &self.routes {
            let of_route = route.sockets.iter();
            let taken = of_route.filter(|socket| takes.clients.contains(&socket.id));
            for socket in taken {
                for share in &route.shares {
                    let listening = route.listening(&socket.socket);
                    let listening = listening.map_err(io::Error::other)?;
                    let (number, of) = (route.route.number, socket.number);
                    let change = |change| RouteChange::Relisten(number, vec![change]);
                    leave.push((share.worker, change(ListenerChange::HandOver(of))));
                    back.push((share.worker, change(ListenerChange::Add(of, listening))));
                }
            }
        }
        self.order_all(leave);
        Ok(WayBack(back))
    }

    /// Has them serve them again.
    pub(super) fn take_sockets_back(&mut self, takes: &Takes, WayBack(back): WayBack) {
        self.order_all(back);
        let sockets = self.routes.iter_mut().flat_map(|route| &mut route.sockets);
        let sockets = sockets.filter(|socket| takes.clients.contains(&socket.id));
        sockets.for_each(|socket| socket.socket.take_back());
    }

    fn order_all(&self, changes: Vec<(usize, RouteChange)>) {
        for (worker, change) in changes {
            self.mailboxes[worker].order(Order::Reconfigure(vec![change]));
        }
    }

    /// Counts the connections of each route over all who have some of it, those that only finish what they have
    /// included. Once all workers have acknowledged it, the counts are complete.
    pub(super) fn count_permits(&mut self) {
        self.is_leaving = true;
        let mut before: HashMap<RouteName, Vec<(usize, RouteNumber)>> = HashMap::new();
        for route in &self.routes {
            let number = route.route.number;
            let shares = route.shares.iter().map(|share| (share.worker, number));
            let of_name = before.entry(route.config.name.clone()).or_default();
            of_name.extend(shares);
        }
        for retired in &self.retired {
            let number = retired.route.number;
            let shares = retired.workers.iter().map(|worker| (*worker, number));
            let of_name = before.entry(retired.route.name.clone()).or_default();
            of_name.extend(shares);
        }
        for (name, shares) in before {
            let mut routes = self.routes.iter_mut();
            let mut route = routes.find(|route| route.config.name == name);
            if route.as_ref().is_some_and(|route| route.shared.is_some()) {
                continue;
            }
            let max = route.as_ref();
            let max = max.and_then(|route| route.config.limits.per_endpoint_max);
            let max = max.map_or(u32::MAX, |max| max.most().get());
            let wake = wake(&self.mailboxes, &self.permits_freed);
            let permits = Arc::new(SharedPermits::new(max, shares.len(), wake));
            for (worker, number) in shares {
                let share = RouteChange::Share(number, Some(Arc::clone(&permits)));
                self.mailboxes[worker].order(Order::Reconfigure(vec![share]));
            }
            match &mut route {
                Some(route) => route.shared = Some(permits),
                None => self.of_retired.push((name, permits)),
            }
        }
    }

    /// It has come to nothing: each route has its permits for itself again.
    pub(super) fn count_permits_no_more(&mut self) {
        self.is_leaving = false;
        let of_routes = self.routes.iter().filter_map(|route| route.shared.as_ref());
        let of_retired = self.of_retired.iter().map(|(_, permits)| permits);
        of_routes
            .chain(of_retired)
            .for_each(|permits| permits.withdraw_no_more());
        self.of_retired.clear();
        self.end_sharing();
    }

    /// What the daemon keeps of each route's permits from now on, for its sessions.
    pub(super) fn keep_permits(&self) -> Vec<(RouteName, PermitCounts)> {
        let of_routes = self.routes.iter().filter_map(|route| {
            let permits = route.shared.as_ref()?;
            Some((&route.config.name, permits))
        });
        let of_retired = self
            .of_retired
            .iter()
            .map(|(name, permits)| (name, permits));
        let keep = |(name, permits): (&RouteName, &Arc<SharedPermits>)| {
            (name.clone(), permits.withdraw(self.sessions_of(name)))
        };
        of_routes.chain(of_retired).map(keep).collect()
    }

    /// Sessions of all routes of this name that may still want a place, those included that only finish. Not those that
    /// will want none any more, of routes whose clients leave: of no others these are counted.
    fn sessions_of(&self, name: &RouteName) -> u32 {
        let mut sessions = 0;
        for route in self
            .routes
            .iter()
            .filter(|route| route.config.name == *name)
        {
            let shares = route.shares.iter().map(|share| &share.counters);
            let earlier = route.earlier.iter().map(|earlier| &earlier.counters);
            sessions += shares
                .chain(earlier)
                .map(|of| of.route.wanting())
                .sum::<u64>();
        }
        for retired in self.retired.iter().filter(|r| r.route.name == *name) {
            let shares = retired
                .observed
                .iter()
                .flat_map(|observed| &observed.shares);
            sessions += shares.map(|of| of.route.wanting()).sum::<u64>();
        }
        u32::try_from(sessions).unwrap_or(u32::MAX)
    }
}

/// Tells all workers that there may be a place, and the main thread that there may be one for a successor.
pub(in super::super) fn wake(
    mailboxes: &[Arc<Mailbox>],
    permits_freed: &Arc<Notify>,
) -> impl Fn() + Send + Sync + 'static {
    let (mailboxes, permits_freed) = (mailboxes.to_vec(), Arc::clone(permits_freed));
    move || {
        mailboxes
            .iter()
            .for_each(|mailbox| mailbox.post(Notice::Places));
        permits_freed.notify_one();
    }
}
