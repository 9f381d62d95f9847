//! A request's search for a connection: one that rests, if it may use such a one, or a new one.

use std::time::Instant;

use crate::backend::Address;
use crate::driver::{Driver, Sock};
use crate::session::connect::{Connecting, Entry, SearchStep};
use crate::session::pool::{Manner, Open};
use crate::session::{Context, Ending, Hands, Hello};

use super::client::{ClientSide, Reading};

/// The search of one request.
pub(super) struct Search(pub(super) Connecting);

/// What it came to in one step.
pub(super) enum Sought {
    /// Nothing yet.
    Waiting,
    /// A connection that has rested; a receive is armed on it.
    Resting(Open),
    /// A new connection.
    New(Open),
    /// There is none in time.
    Failed(Ending),
    /// There was no place for one in time.
    NoPlace,
}

impl Search {
    /// Of a request that no server was given yet. Nothing is tried until [`Search::act`].
    pub(super) fn new<D: Driver>(client: &ClientSide, cx: &Context<'_, D>) -> Self {
        let timeouts = cx.timeouts_of(client.class);
        let (hello, now) = (Hello::default(), cx.hands.now);
        Self(Connecting::new(hello, None, now, timeouts, Entry::Direct).of_class(client.class))
    }

    /// Of a request whose connection has ended, and gives back its place.
    pub(super) fn again<D: Driver>(client: &ClientSide, cx: &Context<'_, D>) -> Self {
        let mut search = Self::new(client, cx);
        search.0.want_new();
        search.0.owe_a_place();
        search
    }

    /// Lets it act, and looks at what came of that.
    pub(super) fn act<D: Driver>(
        &mut self,
        client: &mut ClientSide,
        cx: &mut Context<'_, D>,
        act: impl FnOnce(&mut Connecting, &mut Context<'_, D>) -> SearchStep,
    ) -> Sought {
        let mut found = act(&mut self.0, cx);
        while let SearchStep::Resting(address) = found {
            if let Some(open) = self.take(address, client, cx) {
                return Sought::Resting(open);
            }
            found = self.0.search(true, cx);
        }
        client
            .tally
            .searched(self.0.waits_for_place(cx.balancer), cx.hands.now);
        match found {
            SearchStep::Waiting => {
                if self.0.is_stalled(cx.hands.now) && client.is_watched_from() <= cx.hands.now {
                    client.watch(&mut cx.hands.driver);
                }
                Sought::Waiting
            }
            SearchStep::Open(sock, lease) => self.opened(Open::new(sock, lease), cx),
            SearchStep::Failed(failure) => Sought::Failed(Ending::ConnectFailed(failure)),
            SearchStep::BrokenOff(errno) => Sought::Failed(Ending::BackendReset(errno)),
            SearchStep::QueueTimeout => Sought::NoPlace,
            SearchStep::Resting(_) => unreachable!("each of those was looked at"),
        }
    }

    /// A new connection is open. Where it is to be asked first whether there is a worker for it, the request waits for
    /// whichever comes to rest first.
    fn opened<D: Driver>(&mut self, open: Open, cx: &mut Context<'_, D>) -> Sought {
        if self.0.wants_new() || !cx.pool.asks_first(&open) {
            open.lease.is_not_asked();
            if !open.lease.is_nobodys() {
                return Sought::New(open);
            }
            // It was opened to be asked, and what is known of its server has changed meanwhile.
            cx.abandon(open.sock, open.lease);
        } else {
            cx.prove(open);
        }
        self.0.wait_for_proof();
        Sought::Waiting
    }

    /// When the client is to be watched for leaving, if its request still waits then.
    pub(super) fn watch_at(&self, client: &ClientSide) -> Option<Instant> {
        let is_unwatched = self.0.is_between_attempts() && client.reading == Reading::Idle;
        is_unwatched.then(|| client.is_watched_from())
    }

    /// A connection that rests, if this request may use one. Else it wants a new one, for which one that rests
    /// makes way if no other place is free.
    fn take<D: Driver>(
        &mut self,
        address: Address,
        client: &ClientSide,
        cx: &mut Context<'_, D>,
    ) -> Option<Open> {
        let may_use = match cx.pool.manner(address) {
            Manner::Unknown { .. } | Manner::InTurn { .. } | Manner::AnyTime { .. } => true,
            // It is tried again.
            Manner::Silent { .. } | Manner::Closes { .. } => client.method_is_repeatable(),
        };
        if self.0.wants_new() {
            cx.pool.drop_resting(address, cx.hands);
            self.0.owe_a_place();
            return None;
        }
        let open = may_use
            .then(|| cx.pool.take(address, client.class))
            .flatten();
        if open.is_none() {
            self.0.want_new();
        }
        open
    }

    /// Closes what is open. Returns a socket that the driver has yet to join, if there is one.
    pub(super) fn close<D: Driver>(self, hands: &mut Hands<D>) -> Option<Sock> {
        self.0.close(hands)
    }
}
