//! What can still fail of a plan, when all that it takes is made: descriptors for the workers, listen(2), threads.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{self, Config, Effective};
use crate::session::{Policy, Protocol};
use crate::worker::{Limit, Listening, RouteNumber, Spread, Who};

use super::super::helpers::SayEnd;
use super::super::listening::ListeningSocket;
use super::super::routes::{self, ServedRoute, limit};
use super::super::service::Service;
use super::super::sockets::{ClientSocket, SocketId};
use super::make::{ChangedFile, Made, MadeRoute, with_causes};
use super::plan::{How, Plan, RoutePlan, SocketPlan};
use super::take_over::Became;
/// All that can fail has been done.
pub(super) struct Staged {
    pub(super) config: Config,
    pub(super) effective: Effective,
    pub(super) routes: Vec<StagedRoute>,
    pub(super) access: Vec<ChangedFile>,
    pub(super) next_number: u32,
    pub(super) spread: Spread,
}

pub(super) struct StagedRoute {
    pub(super) plan: RoutePlan,
    pub(super) config: config::Route,
    pub(super) policy: Arc<Policy>,
    pub(super) who: Option<Arc<Who>>,
    /// If it is given to workers anew: what it is known by from now on.
    pub(super) number: Option<RouteNumber>,
    /// Those that serve it, with how much each may have.
    pub(super) serving: Vec<(usize, Option<Limit>)>,
    /// By the order of the plan.
    pub(super) sockets: Vec<StagedSocket>,
    /// Whether anything of the rules is different.
    pub(super) is_changed: bool,
}

/// Where clients of a route are to come from.
pub(super) struct StagedSocket {
    /// Which of the route's it is.
    pub(super) number: usize,
    pub(super) from: Origin,
    /// For each worker of the route that does not have it yet.
    pub(super) listening: Vec<Listening>,
}

pub(super) enum Origin {
    /// The route has it.
    Own(SocketId),
    /// It is another route's, or one that is divided anew.
    Taken(SocketId),
    New(ListeningSocket),
}

impl Service {
    pub(super) fn stage(&mut self, plan: Plan, made: Made) -> Result<Staged, String> {
        let Plan {
            config,
            effective,
            routes: plans,
            accepting,
        } = plan;
        let mut next_number = self.next_number;
        let mut spread = self.spread.over(accepting);
        let mut bound = made.bound.into_iter();
        let planned = config.routes.iter().zip(plans).zip(made.routes);
        let mut routes = Vec::new();
        for ((config, plan), made) in planned {
            let number = (plan.how == How::Divided).then(|| {
                let number = RouteNumber(next_number);
                next_number += 1;
                number
            });
            let bound = bound.by_ref().map(ListeningSocket::Bound);
            let staged = self.stage_route((config, plan), made, number, (&mut spread, bound))?;
            routes.push(staged);
        }
        for staged in &mut routes {
            for socket in &mut staged.sockets {
                if let Origin::New(socket) = &mut socket.from {
                    socket.listen().map_err(|error| with_causes(&error))?;
                }
            }
        }
        let backends = config.routes.iter().flat_map(|route| &route.backends);
        self.resolver
            .prepare(backends)
            .map_err(|error| with_causes(&error))?;
        for (log, file) in made.logs {
            self.access_logs.add(&log, file);
        }
        let say_end = || self.helpers.say_end("a thread that writes an access log");
        if let Err(error) = self.access_logs.start(say_end, SayEnd::leave) {
            self.access_logs.forget_prepared();
            self.close_unused_logs();
            return Err(with_causes(&error));
        }
        Ok(Staged {
            config,
            effective,
            routes,
            access: made.access,
            next_number,
            spread,
        })
    }

    fn stage_route(
        &self,
        (config, plan): (&config::Route, RoutePlan),
        made: MadeRoute,
        number: Option<RouteNumber>,
        (spread, mut bound): (&mut Spread, impl Iterator<Item = ListeningSocket>),
    ) -> Result<StagedRoute, String> {
        let before = plan.before.map(|before| &self.routes[before]);
        let (policy, who) = successors(before, config, made);
        let serving = match (before, number) {
            (Some(before), None) => before.limits_of(config),
            _ => spread.serving(limit(config), config.limits.shards.get()),
        };
        let mut next_socket = match (before, number) {
            (Some(before), None) => before.next_socket,
            _ => 0,
        };
        let mut sockets = Vec::new();
        for planned in &plan.sockets {
            let own = match (planned, before, number) {
                (SocketPlan::Kept(id), Some(before), None) => {
                    before.sockets.iter().find(|socket| socket.id == *id)
                }
                _ => None,
            };
            if let Some(own) = own {
                sockets.push(StagedSocket {
                    number: own.number,
                    from: Origin::Own(own.id),
                    listening: Vec::new(),
                });
                continue;
            }
            let from = match planned {
                SocketPlan::Kept(id) => Origin::Taken(*id),
                SocketPlan::Bound(_) => {
                    Origin::New(bound.next().expect("all that is wanted was bound"))
                }
            };
            let listening = self.listening(config, &from, serving.len())?;
            sockets.push(StagedSocket {
                number: next_socket,
                from,
                listening,
            });
            next_socket += 1;
        }
        let is_changed = before.is_none_or(|before| {
            before.config != *config
                || !Arc::ptr_eq(&before.policy, &policy)
                || !is_same(before.who.as_ref(), who.as_ref())
        });
        Ok(StagedRoute {
            plan,
            config: config.clone(),
            policy,
            who,
            number,
            serving,
            sockets,
            is_changed,
        })
    }

    /// A socket for each of so many workers.
    fn listening(
        &self,
        config: &config::Route,
        from: &Origin,
        workers: usize,
    ) -> Result<Vec<Listening>, String> {
        let socket = match from {
            Origin::Own(id) | Origin::Taken(id) => &self.socket(*id).socket,
            Origin::New(socket) => socket,
        };
        let for_each = (0..workers).map(|_| routes::listening(config, socket));
        for_each
            .collect::<Result<_, _>>()
            .map_err(|error| with_causes(&error))
    }
}

impl Origin {
    pub(super) fn taken(&self) -> Option<SocketId> {
        match self {
            Self::Taken(id) => Some(*id),
            Self::Own(_) | Self::New(_) => None,
        }
    }
}

impl StagedSocket {
    /// The socket itself, which was taken out of where it was, or is one of those that the route had.
    pub(super) fn take(
        from: Origin,
        number: usize,
        moved: &mut HashMap<SocketId, ClientSocket>,
        own: &mut Vec<ClientSocket>,
    ) -> ClientSocket {
        let found = match from {
            Origin::New(socket) => Some(ClientSocket::new(number, socket)),
            Origin::Taken(id) => moved
                .remove(&id)
                .map(|moved| ClientSocket { number, ..moved }),
            Origin::Own(id) => {
                let at = own.iter().position(|socket| socket.id == id);
                at.map(|at| own.remove(at))
            }
        };
        found.expect("a socket of a plan is kept until the plan is carried out")
    }
}

impl StagedRoute {
    pub(super) fn becomes(&self, old: Option<&ServedRoute>) -> Became {
        match old {
            None => Became::Added,
            Some(_) if self.is_changed => Became::Changed,
            Some(_) => Became::Unchanged,
        }
    }
}

/// Those that come after what the route goes by: the same ones where they say the same.
fn successors(
    before: Option<&ServedRoute>,
    config: &config::Route,
    made: MadeRoute,
) -> (Arc<Policy>, Option<Arc<Who>>) {
    let Some(before) = before else {
        let who = Who::new(made.allowed, config.clients.per_user_max);
        return (Arc::new(made.policy), who.map(Arc::new));
    };
    let policy = match is_same_policy(before, config, &made.policy) {
        true => Arc::clone(&before.policy),
        false => Arc::new(made.policy),
    };
    let (allowed, per_user_max) = (made.allowed, config.clients.per_user_max);
    let who = match &before.who {
        Some(who) if who.says(allowed.as_ref(), per_user_max) => Some(Arc::clone(who)),
        who => Who::in_place_of(who.as_deref(), allowed, per_user_max).map(Arc::new),
    };
    (policy, who)
}

/// Whether sessions are served by the same rules.
fn is_same_policy(before: &ServedRoute, after: &config::Route, made: &Policy) -> bool {
    // Where the links of script roots lead is no part of the configuration.
    let guard = |policy: &Policy| match &policy.protocol {
        Protocol::Fastcgi(options) => options.guard.clone(),
        Protocol::Raw => None,
    };
    before.config.protocol == after.protocol
        && before.config.upstreams == after.upstreams
        && before.config.limits.queue_timeout == after.limits.queue_timeout
        && before.config.connect_timeout == after.connect_timeout
        && before.config.refused_timeout == after.refused_timeout
        && before.config.idle_timeout == after.idle_timeout
        && before.config.half_closed_timeout == after.half_closed_timeout
        && guard(&before.policy) == guard(made)
}

fn is_same(one: Option<&Arc<Who>>, other: Option<&Arc<Who>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}
