//! What a run is made of, as far as the world outside of the workers goes.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Address, Published};
use crate::counters::RouteCounters;
use crate::driver::IntoUnix;
use crate::session::PoolOptions;
use crate::sys::net::TcpOptions;
use crate::worker::{Adaptive, Mailbox};

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

/// A scenario, as far as the world outside of the workers goes.
pub(crate) struct Scenario {
    /// Clients that come, one after the other or many at once.
    pub(crate) clients: usize,
    /// Whether clients, or else backends, may wait for the other side's end.
    pub(crate) patient_clients: bool,
    /// Where clients are led.
    pub(crate) routes: Vec<PlannedRoute>,
    /// So many of them, the first ones, are served from the beginning.
    pub(crate) routes_at_first: usize,
    /// Whether, now and then, an endpoint is down for a while: it refuses, or is silent.
    pub(crate) outages: bool,
    /// What goes wrong.
    pub(crate) faults: Faults,
    /// Nothing goes wrong but what peers do.
    pub(crate) calm: bool,
    /// The most sessions, over all workers: as many have all the buffers that they are promised.
    pub(crate) sessions_max: usize,
    /// The most pipes of a worker at one time.
    pub(crate) pipes_max: usize,
    /// Whether clients that are not accepted before a drain are left to others.
    pub(crate) backlog_is_left: bool,
    /// How bytes get to clients, and to backends that are Unix sockets.
    pub(crate) into_unix: IntoUnix,
    /// Which users' clients are served, and how many at one time.
    pub(crate) users: Option<Users>,
    /// Whether operators change something by hand.
    pub(crate) by_hand: bool,
    /// Told of by the world: the workers', by their number.
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    /// Whether what is served tells by which rules.
    pub(crate) marks_rules: bool,
    /// Record what happens.
    pub(crate) trace: bool,
}

/// A route, as far as the world outside of the workers goes.
pub(crate) struct PlannedRoute {
    /// Its endpoints that exist. No other route has them.
    pub(crate) endpoints: Vec<Address>,
    /// What each backend is told before anything else. In the place of [`MARK`], a letter tells by which rules.
    pub(crate) introduction: &'static [u8],
    /// Sessions may be ended for being idle.
    pub(crate) idle_timeout: bool,
    /// Sessions are ended when their endpoint has left the set.
    pub(crate) removed_are_cut: bool,
    /// The most connections to an endpoint, over all workers.
    pub(crate) per_endpoint_max: Option<NonZeroU32>,
    /// By worker: how it serves the route now.
    pub(crate) in_effect: Vec<InEffect>,
    /// Its workers were told to take no new clients of it, or that its sessions have had their time.
    pub(crate) is_retired: bool,
    pub(crate) is_cut: bool,
    /// Sessions that it had when its part of all sessions was changed, as far as they are left.
    pub(crate) part_floor: usize,
    /// Its part of all sessions, over all workers.
    pub(crate) sessions_max: Option<u32>,
    /// How many listeners its workers have, all of them together.
    pub(crate) listeners: usize,
    /// Peers speak FastCGI, and this is what they may expect.
    pub(crate) fastcgi: Option<FastcgiRules>,
    /// What the workers count of it, by their number.
    pub(crate) counters: Vec<Arc<RouteCounters>>,
    /// Changed by the world.
    pub(crate) published: Arc<Published>,
}

/// How one worker serves a route: by what it was told, and has heard.
#[derive(Clone, Debug)]
pub(crate) struct InEffect {
    /// The number of its rules. Policies carry it: see [`marked`], [`MARK`] and [`marker`].
    pub(crate) generation: usize,
    /// How many connections to one endpoint it may have, where there is a limit.
    pub(crate) places: Option<NonZeroU32>,
    /// When those are sent away who wait while too many do, if anybody is.
    pub(crate) sheds: Option<Adaptive>,
    /// How connections are kept, where peers speak FastCGI.
    pub(crate) pool: Option<PoolOptions>,
    /// Whose clients are served; of this route alone.
    pub(crate) users: Option<Users>,
    pub(crate) is_retired: bool,
    pub(crate) is_cut: bool,
}

/// Where a listener's clients come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListenerAt {
    /// Its route.
    pub(crate) route: usize,
    /// The backlog that it takes them out of.
    pub(crate) backlog: usize,
}

/// Stands in an introduction for the number of the rules, as a letter.
pub(crate) const MARK: u8 = b'#';

/// The most sets of rules that a route has, one after the other.
pub(crate) const GENERATIONS_MAX: usize = 12;

/// What TCP sockets of sessions are given that go by these rules.
pub(crate) fn marked(generation: usize) -> TcpOptions {
    let number = u64::try_from(generation).expect("they are few");
    TcpOptions {
        user_timeout: Some(FIRST_MARK + Duration::from_millis(number)),
        ..TcpOptions::default()
    }
}

/// By which rules a socket was made, if it tells.
pub(super) fn generation_of(options: &TcpOptions) -> Option<usize> {
    let mark = options.user_timeout?.checked_sub(FIRST_MARK)?;
    usize::try_from(mark.as_millis()).ok()
}

const FIRST_MARK: Duration = Duration::from_secs(1);

/// The parameter that is left out by the rules of this number, and by no others.
pub(crate) fn marker(generation: usize) -> String {
    format!("SIM_GENERATION_{generation}")
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
