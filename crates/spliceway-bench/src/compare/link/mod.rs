//! A link with a round trip of its own, between the network that everything runs in and another one.
//!
//! Two networks have a TUN device each, and a thread, the [`line`](mod@line), passes what leaves by the one on to the
//! other when half of the round trip is over. Nothing of it has a name outside of the two networks, which
//! have none themselves: whatever ends this process, the link is gone with it.
//!
//! The line takes no part of what is compared, but of the processors that it is compared on: what it took,
//! and how late it was, is in every sample ([`LinkUse`]).

mod line;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use spliceway_common::sys::tun::Tun;
use spliceway_common::sys::{interface, namespace};

use self::line::Line;
use super::ground;
use super::results::LinkUse;

/// Both ends, of a network that is for documentation (RFC 5737) and so nobody's.
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);

/// The interface, in either network.
const INTERFACE: &str = "link";

/// How many packets may wait for the line, beyond which the kernel drops them: more than all connections of
/// a measurement send at one time.
const INTERFACE_QUEUE: u16 = 10_000;

/// A link, for as long as it lives.
pub(super) struct Link {
    line: Line,
    far: OwnedFd,
}

impl Link {
    /// Makes the other network, and the link to it: from one end to the other and back takes so long.
    ///
    /// # Errors
    /// Where namespaces or TUN devices are not allowed, or not there.
    pub(super) fn open(round_trip: Duration) -> anyhow::Result<Self> {
        let control = ground::congestion_control();
        // A thread that stays there: nothing has to come back if something fails.
        let made = thread::spawn(move || make_far(control.as_deref())).join();
        let (far, far_end) = made.expect("it does not panic")?;
        let near_end = make_end(NEAR)?;
        let line = Line::start([near_end, far_end], round_trip / 2)?;
        Ok(Self { line, far })
    }

    /// Where who listens on every address of the other network is reached.
    pub(super) fn address(port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(FAR), port)
    }

    /// Does `work` in the other network; what is started there stays there.
    pub(super) fn beyond<T>(&self, work: impl FnOnce() -> T) -> anyhow::Result<T> {
        let done = namespace::inside(self.far.as_fd(), work);
        done.context("enter the network behind the link")
    }

    /// What it has done so far.
    pub(super) fn used(&self) -> anyhow::Result<LinkUse> {
        let mut used = self.line.used();
        used.dropped += dropped()? + self.beyond(dropped)??;
        Ok(used)
    }
}

/// A network of its own with its end of the link.
fn make_far(congestion_control: Option<&str>) -> anyhow::Result<(OwnedFd, Tun)> {
    namespace::enter_network().context("make a network for the backend (as root it is allowed)")?;
    namespace::raise_loopback()?;
    ground::furnish(congestion_control);
    let far = namespace::current_network().context("hold the network of the backend")?;
    Ok((far, make_end(FAR)?))
}

/// The link's end in the calling thread's network.
fn make_end(address: Ipv4Addr) -> anyhow::Result<Tun> {
    let tun = Tun::create(INTERFACE).context(
        "make a TUN device (it needs /dev/net/tun: modprobe tun, or give it to the container)",
    )?;
    interface::set_address(INTERFACE, address, MASK).context("give the link an address")?;
    interface::set_queue_len(INTERFACE, INTERFACE_QUEUE).context("set the link's queue")?;
    interface::raise(INTERFACE).context("bring the link up")?;
    Ok(tun)
}

/// Packets that the kernel has dropped on their way to the line, in the calling thread's network.
fn dropped() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").context("read what was dropped")?;
    dropped_of(&text).context("/proc/net/dev has no link")
}

/// A line of /proc/net/dev is a name and sixteen figures, of which the second eight are about what was sent.
fn dropped_of(text: &str) -> Option<u64> {
    const SENT_DROPPED: usize = 8 + 3;
    let mut lines = text.lines();
    let figures =
        lines.find_map(|line| line.trim_start().strip_prefix(INTERFACE)?.strip_prefix(':'))?;
    figures
        .split_ascii_whitespace()
        .nth(SENT_DROPPED)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
