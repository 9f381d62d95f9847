//! What peers can tell of a connection's end, and what is left when the worker is gone.

use crate::driver::Close;

use super::super::is_client;
use super::super::peer::{Peer, PlannedEnding, SendSide};
use super::super::world::World;

impl World {
    pub(super) fn judge_close(&self, peer: usize, how: Close) {
        let peer = &self.peers[peer];
        if peer.dismissed {
            rule!(
                "clean_close_loses_nothing",
                how == Close::Graceful && peer.given == 0,
                "{peer:?} was turned away, and sees something else than a clean end"
            );
            return;
        }
        let source_done = self.source_is_done(peer);
        match how {
            Close::Graceful => rule!(
                "clean_close_loses_nothing",
                peer.gone || peer.failure_seen || source_done,
                "{peer:?} sees a clean end; its source is {:?}",
                peer.source.map(|key| self.by_key(key))
            ),
            Close::Reset if is_client(peer.key) => {}
            Close::Reset => {
                // A client that broke off, or bytes that were taken for one and not given to it.
                let lost = |client: &Peer| {
                    client.is_broken() || (client.gone && peer.taken > client.given)
                };
                let client = peer.source.map(|key| self.by_key(key));
                let may_be_its = |p: &Peer| is_client(p.key) && p.route == peer.route;
                let client_failed = client
                    .map_or_else(|| self.peers.iter().any(|p| may_be_its(p) && lost(p)), lost);
                rule!(
                    "reset_needs_proof",
                    client_failed
                        || peer.is_broken()
                        || peer.gone
                        || self.is_cut(peer.route)
                        || self.route_of(peer).idle_timeout
                        || self.route_of(peer).removed_are_cut,
                    "{peer:?} is reset, and nothing was lost; its source is {client:?}"
                );
            }
        }
    }

    pub(super) fn judge_rest_of_run(&self) {
        let (lent, open_pipes) = (self.lent_buffers(), self.open_pipes());
        rule!(
            "all_returned",
            self.open_sockets == 0 && open_pipes == 0 && lent == 0,
            "{} sockets, {open_pipes} pipes and {lent} buffers are left",
            self.open_sockets,
        );
        if self.disturbed {
            return;
        }
        self.judge_answers();
        for client in self.peers.iter().filter(|p| is_client(p.key)) {
            let Some(backend) = client.source.map(|key| self.by_key(key)) else {
                continue;
            };
            let well_behaved = |p: &Peer| {
                matches!(
                    p.plan.ending,
                    PlannedEnding::HalfClose | PlannedEnding::AfterPeer
                ) && p.send_side == SendSide::Fin
                    && p.sent == p.plan.total
            };
            if well_behaved(client) && well_behaved(backend) && !self.is_cut(client.route) {
                rule!(
                    "lossless",
                    client.given == backend.sent && backend.given == client.sent,
                    "{client:?} and {backend:?}"
                );
            }
        }
    }
}
