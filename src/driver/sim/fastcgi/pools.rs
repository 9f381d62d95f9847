//! Servers that are pools of a few workers, each of which has one connection until that is closed, as PHP-FPM has. What no
//! worker is free for waits in a backlog, in the order in which it came, and is neither read nor answered.
//!
//! The proxy is to find out how many workers there are (`backend/balance/permits.rs`), and the rules are:
//!
//! - `found_limit_is_kept`: the limit keeps its bounds, and is kept but for one connection that is tried, and for those
//!   that are left when it has fallen. The balancers' own audit has it, after each turn.
//! - `one_waits_in_a_backlog`: of the connections to a pool that were asked whether there is a worker for them, no more than
//!   one waits for it for long. (Those that have a request wait as without `auto`.)
//! - `fence_for_the_proven`: a server that has not served two requests on a connection is asked nothing before it has one.

use std::time::Duration;

use super::super::world::{Kind, World};
use super::{Server, Speech};
use crate::fastcgi::FENCE;

/// How long a connection may wait in a pool's backlog before it is one that does.
const BACKLOG_PATIENCE: Duration = Duration::from_millis(200);

impl World {
    /// Workers of pools that are free take what waits in their backlogs, in the order in which it came.
    pub(in super::super) fn accept_in_pools(&mut self) {
        while let Some(index) = self.next_accepted()
            && let Speech::Server(server) = &mut self.peers[index].speech
        {
            server.in_backlog_since = None;
            self.note(|| format!("backend {index} is accepted"));
        }
    }

    /// Who waits in the backlog of a pool that has a worker for it, and for longest.
    pub(in super::super) fn next_accepted(&self) -> Option<usize> {
        let servers = self.peers.iter().enumerate();
        let servers = servers.filter_map(|(index, peer)| match &peer.speech {
            Speech::Server(server) if !peer.gone && !peer.is_broken() => Some((index, &**server)),
            _ => None,
        });
        let servers: Vec<_> = servers.collect();
        let mut waiting = servers
            .iter()
            .filter(|(_, server)| server.in_backlog_since.is_some());
        let has_worker = |(_, server): &&(usize, &Server)| {
            let is_beside = |other: &Server| {
                let at = |known_as: usize| known_as / self.ledger.workers;
                other.in_backlog_since.is_none() && at(other.endpoint) == at(server.endpoint)
            };
            let taken = servers.iter().filter(|(_, other)| is_beside(other)).count();
            let max = self.ledger.endpoints[server.endpoint].workers_max;
            max.is_none_or(|max| taken < max)
        };
        waiting.find(has_worker).map(|(index, _)| *index)
    }

    /// Where it is found out how many workers there are, no more than one connection waits for another one.
    pub(in super::super) fn judge_backlogs(&self) {
        let waiting = self.own().filter_map(|sock| {
            let socket = self.sockets.peek(sock);
            let (Kind::Upstream(Some(index)), None) = (socket.kind, socket.closing) else {
                return None;
            };
            let peer = &self.peers[index];
            match &peer.speech {
                Speech::Server(server) if peer.given <= FENCE.len() as u64 => {
                    Some((server.endpoint, server.in_backlog_since?))
                }
                _ => None,
            }
        });
        let mut long = waiting.filter(|(_, since)| self.now > *since + BACKLOG_PATIENCE);
        let mut seen = Vec::new();
        rule!(
            "one_waits_in_a_backlog",
            long.all(|(endpoint, _)| !seen.contains(&endpoint) && {
                seen.push(endpoint);
                true
            }),
            "of the connections to {seen:?} several wait for workers that there are not"
        );
    }
}
