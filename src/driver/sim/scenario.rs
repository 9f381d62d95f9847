//! What a run is made of, as far as the world outside of the worker goes.

use std::sync::Arc;

use crate::backend::{Address, Published};
use crate::driver::IntoUnix;
use crate::worker::{Limit, Mailbox};

use super::fastcgi::FastcgiRules;

/// What may go wrong in a run, and how often: once in so many times, 0 for never.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// Any op or call fails with an errno.
    pub(crate) failure: u64,
    /// A wait ends for nothing.
    pub(crate) spurious: u64,
    /// There is no pipe.
    pub(crate) no_pipe: u64,
    /// There is no buffer, though one is promised.
    pub(crate) no_buffer: u64,
    /// The most descriptors at one time.
    pub(crate) descriptors_max: usize,
}

impl Faults {
    /// Nothing does.
    pub(crate) fn none() -> Self {
        Self {
            failure: 0,
            spurious: 0,
            no_pipe: 0,
            no_buffer: 0,
            descriptors_max: 200,
        }
    }
}

/// A scenario, as far as the world outside of the worker goes.
pub(crate) struct Scenario {
    /// Clients that come, one after the other or many at once.
    pub(crate) clients: usize,
    /// Whether clients, or else backends, may wait for the other side's end.
    pub(crate) patient_clients: bool,
    /// Endpoints that exist.
    pub(crate) endpoints: Vec<Address>,
    /// Whether, now and then, one of them is down for a while: it refuses, or is silent.
    pub(crate) outages: bool,
    /// What goes wrong.
    pub(crate) faults: Faults,
    /// The most sessions: as many have all the buffers that they are promised.
    pub(crate) sessions_max: usize,
    /// The most pipes at one time.
    pub(crate) pipes_max: usize,
    /// Whether clients that are not accepted before a drain are left to others.
    pub(crate) backlog_is_left: bool,
    /// What each backend is told before anything else.
    pub(crate) introduction: &'static [u8],
    /// How bytes get to clients, and to backends that are Unix sockets.
    pub(crate) into_unix: IntoUnix,
    /// Sessions may be ended for being idle.
    pub(crate) idle_timeout: bool,
    /// Sessions are ended when their endpoint has left the set.
    pub(crate) removed_are_cut: bool,
    /// The most connections to an endpoint, and who may wait for one.
    pub(crate) limit: Option<Limit>,
    /// Which users' clients are served, and how many at one time.
    pub(crate) users: Option<Users>,
    /// Peers speak FastCGI, and this is what they may expect.
    pub(crate) fastcgi: Option<FastcgiRules>,
    /// Told of by the world.
    pub(crate) mailbox: Arc<Mailbox>,
    /// Changed by the world.
    pub(crate) published: Arc<Published>,
    /// Record what happens.
    pub(crate) trace: bool,
}

/// Rules for clients. There are three users, 1000 to 1002; the last one is in [`MEMBERS_GROUP`] beside its
/// own group, which has its number.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    /// Those that may connect.
    pub(crate) allowed: Vec<u32>,
    /// The most clients of one user at one time.
    pub(crate) per_user_max: u32,
}

/// The supplementary group of [`Users`].
pub(crate) const MEMBERS_GROUP: u32 = 2000;

/// The user of the client with this key.
pub(super) fn user_of(key: u8) -> u32 {
    1000 + u32::from(key) % 3
}
