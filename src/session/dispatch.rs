//! A session of either protocol, for its worker: what it is asked goes to the one that it is.

use std::time::Instant;

use crate::backend::Address;
use crate::counters::Outcome;
use crate::driver::{Done, Driver, Lane, Sock};
use crate::fastcgi::RetryAfter;

use super::{
    Began, Context, End, Ending, Entry, Exchange, Hands, Hello, LetsGo, Policy, Protocol,
    SessionView, Step, Telling, Timeouts, Tunnel, Wish,
};

/// A client and what serves it.
#[allow(
    clippy::large_enum_variant,
    reason = "a box for each tunnel would be an allocation for each client"
)]
pub enum Session<D: Driver> {
    /// Bytes are relayed as they come.
    Tunnel(Tunnel<D>),
    /// Requests are. Boxed, because it is much the larger one, whose size thousands of idle tunnels would
    /// take as well.
    Exchange(Box<Exchange<D>>),
}

impl<D: Driver> Session<D> {
    /// Starts to serve a client, of which another process has read `read`. A socket that was opened for it and is not
    /// needed comes back.
    pub fn start(
        client: Sock,
        (hello, read): (Hello, &[u8]),
        spare: Sock,
        entry: Entry,
        cx: &mut Context<'_, D>,
    ) -> (Self, Step, Option<Sock>) {
        match &cx.policy.protocol {
            Protocol::Raw => {
                let hello = hello.before(read);
                let (tunnel, step) = Tunnel::start(client, hello, spare, entry, cx);
                (Self::Tunnel(tunnel), step, None)
            }
            Protocol::Fastcgi(_) => {
                let (exchange, step) = Exchange::start(client, read, cx);
                (Self::Exchange(Box::new(exchange)), step, Some(spare))
            }
        }
    }

    /// Its route goes by another policy. Whether the session does so from now on as well, with [`Session::go_on`], or
    /// has begun something that it ends as it began.
    pub fn follow(&mut self, policy: &Policy) -> bool {
        match (self, &policy.protocol) {
            (Self::Exchange(exchange), Protocol::Fastcgi(options)) => exchange.follow(options),
            (Self::Tunnel(_), _) | (Self::Exchange(_), Protocol::Raw) => false,
        }
    }

    /// Its route was amended: where lines are written from now on, they tell who the client is.
    pub fn amended(&mut self, cx: &mut Context<'_, D>) -> Step {
        if let Self::Exchange(exchange) = self
            && cx.logs.are_kept()
        {
            exchange.meet_client(cx);
        }
        Step::Continue
    }

    /// It has come to rest between two requests, and goes by another policy from now on.
    pub fn go_on(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(_) => unreachable!("it keeps the policy that it began with"),
            Self::Exchange(exchange) => exchange.go_on(cx),
        }
    }

    /// When [`Session::expire`] is due.
    pub fn deadline(&self, timeouts: Timeouts) -> Option<Instant> {
        match self {
            Self::Tunnel(tunnel) => tunnel.deadline(timeouts),
            Self::Exchange(exchange) => exchange.deadline(timeouts),
        }
    }

    /// From when on it gives its place up where all are taken. `None`: it does not.
    pub fn yields_at(&self, timeouts: Timeouts) -> Option<Instant> {
        match self {
            Self::Tunnel(tunnel) => tunnel.yields_at(timeouts),
            // A request is over when its script is.
            Self::Exchange(_) => None,
        }
    }

    /// What it waits for, if that is a place at an endpoint.
    pub fn wish(&self) -> Option<Wish> {
        match self {
            Self::Tunnel(tunnel) => tunnel.wish(),
            Self::Exchange(exchange) => exchange.wish(),
        }
    }

    /// The client's socket.
    pub fn client(&self) -> Sock {
        match self {
            Self::Tunnel(tunnel) => tunnel.client(),
            Self::Exchange(exchange) => exchange.client(),
        }
    }

    /// The endpoint of an open upstream that is the session's for as long as it lives.
    pub fn endpoint(&self) -> Option<Address> {
        match self {
            Self::Tunnel(tunnel) => tunnel.endpoint(),
            Self::Exchange(_) => None,
        }
    }

    /// An op of one of the session's sockets ended.
    pub fn complete(&mut self, end: End, lane: Lane, done: Done, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.complete(end, lane, done, cx),
            Self::Exchange(exchange) => exchange.complete(end, lane, done, cx),
        }
    }

    /// The deadline has come.
    pub fn expire(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.expire(cx),
            Self::Exchange(exchange) => exchange.expire(cx),
        }
    }

    /// Some endpoint has a place, and it is the turn of this session, which has a [`Session::wish`].
    pub fn place_free(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.place_free(cx),
            Self::Exchange(exchange) => exchange.place_free(cx),
        }
    }

    /// Endpoints get nothing new for a while: what is not on its way to one waits.
    pub fn pause(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.pause(cx),
            Self::Exchange(exchange) => exchange.pause(cx),
        }
    }

    /// That is over. Who waits in the queue has its turn when it comes.
    pub fn resume(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.resume(cx),
            Self::Exchange(exchange) => exchange.resume(cx),
        }
    }

    /// No endpoint takes connections, and nobody is to wait for one.
    pub fn despair(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.despair(cx),
            Self::Exchange(exchange) => exchange.despair(cx),
        }
    }

    /// It has a [`Session::wish`], and the queue is full.
    pub fn refuse(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(_) => Step::End(Ending::of_refusal(cx.balancer)),
            Self::Exchange(exchange) => exchange.refuse(cx),
        }
    }

    /// It has a [`Session::wish`], and has waited for too long where more is asked for than can be done.
    pub fn shed(&mut self, retry_after: RetryAfter, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(_) => unreachable!("only who can be told to come back later is sent away"),
            Self::Exchange(exchange) => exchange.shed(retry_after, cx),
        }
    }

    /// The address set changed.
    pub fn addresses_changed(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.addresses_changed(cx),
            Self::Exchange(exchange) => exchange.addresses_changed(cx),
        }
    }

    /// The endpoint is in the set, or is not: then the session has a while left, unless it comes back.
    pub fn endpoint_is_current(&mut self, current: bool, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.endpoint_is_current(current, cx),
            Self::Exchange(_) => Step::Continue,
        }
    }

    /// The worker takes nothing new on.
    pub fn drain(&mut self, is_last_call: bool, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(_) => Step::Continue,
            Self::Exchange(exchange) => exchange.drain(is_last_call, cx),
        }
    }

    /// Clients are handed over from now on. One that may leave ends as [`Ending::HandedOver`], now or as soon as what
    /// is in flight on its socket has been taken back, and has come to nothing where nothing may have been read.
    pub fn let_go(&mut self, cx: &mut Context<'_, D>) -> Step {
        match self {
            Self::Tunnel(tunnel) => tunnel.let_go(cx),
            Self::Exchange(exchange) => exchange.let_go(cx),
        }
    }

    /// Whether it will want no place at an endpoint any more: its server is done, and its client leaves before its next
    /// request is looked at, unless that ends in the midst of a record (see `RequestReader::is_before_head`).
    pub fn wants_no_place(&self, lets_go: LetsGo) -> bool {
        match self {
            Self::Tunnel(_) => false,
            Self::Exchange(exchange) => exchange.wants_no_place(lets_go),
        }
    }

    /// When it began.
    pub fn began(&self) -> Began {
        match self {
            Self::Tunnel(tunnel) => tunnel.began(),
            Self::Exchange(exchange) => exchange.began(),
        }
    }

    /// What it does at this moment.
    pub fn view(&self, now: Instant) -> SessionView {
        match self {
            Self::Tunnel(tunnel) => tunnel.view(now),
            Self::Exchange(exchange) => exchange.view(now),
        }
    }

    /// What is told of it at its end, before it is closed.
    pub fn tell_end(&mut self, outcome: Outcome, telling: &Telling<'_>) {
        match self {
            Self::Tunnel(_) => {}
            Self::Exchange(exchange) => exchange.tell_end(outcome, telling),
        }
    }

    /// After [`Ending::HandedOver`]: closes whatever it has but the client's socket, on which nothing is in flight, and
    /// returns that, with what was read of the client and is to be acted on by whoever goes on with it.
    pub fn leave(self, hands: &mut Hands<D>) -> (Sock, Vec<u8>) {
        match self {
            Self::Tunnel(tunnel) => (tunnel.leave(hands), Vec::new()),
            Self::Exchange(exchange) => exchange.leave(),
        }
    }

    /// Closes all sockets, each so that its peer learns the truth. Returns one that the driver has yet
    /// to join, if there is one.
    pub fn close(self, ending: Ending, hands: &mut Hands<D>) -> Option<Sock> {
        match self {
            Self::Tunnel(tunnel) => tunnel.close(ending, hands),
            Self::Exchange(exchange) => exchange.close(hands),
        }
    }
}
