//! A network of our own: enter one, bring its loopback up, and do something in another one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};

use super::{Errno, check, interface};

/// Moves the calling thread, and what it starts from now on, into a new network namespace.
///
/// # Errors
/// What unshare(2) gives: EPERM without the privilege, ENOSYS or EINVAL without the feature.
pub fn enter_network() -> Result<(), Errno> {
    unshare(libc::CLONE_NEWNET)
}

/// The same for whoever has no privileges: the network belongs to a new user namespace, in which
/// this process has them until it starts another program. Works only before there are threads.
///
/// # Errors
/// As [`enter_network`]; EINVAL if there are threads already.
pub fn enter_user_and_network() -> Result<(), Errno> {
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)
}

fn unshare(what: libc::c_int) -> Result<(), Errno> {
    // SAFETY: unshare takes flags by value and touches no memory. Of the things that it can unshare
    // only namespaces are asked for, so threads go on sharing memory, descriptors and signals as
    // the runtime expects.
    check(unsafe { libc::unshare(what) }).map(drop)
}

/// The ids that this process acts under: user and group.
#[must_use]
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    let user = unsafe { libc::geteuid() };
    // SAFETY: getegid takes nothing, touches no memory and cannot fail.
    let group = unsafe { libc::getegid() };
    (user, group)
}

/// The network of the calling thread. It exists for as long as this is open, also without processes in it.
///
/// # Errors
/// What opening a file gives.
pub fn current_network() -> io::Result<OwnedFd> {
    File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
}

/// Does `work` with the calling thread in another network, and returns to its own. What is started there
/// stays there.
///
/// # Errors
/// What setns(2) gives, EPERM without the privilege among it; then nothing was done.
///
/// # Panics
/// If the thread cannot return to where it was.
pub fn inside<T>(network: BorrowedFd<'_>, work: impl FnOnce() -> T) -> io::Result<T> {
    let own = current_network()?;
    enter(network)?;
    let done = work();
    enter(own.as_fd()).expect("who may leave a network for another one may come back");
    Ok(done)
}

fn enter(network: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: setns takes its arguments by value and touches no memory. The kind that is asked for can be
    // changed for one thread of several.
    check(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Brings the loopback interface of the calling thread's network up: a new one has it down.
///
/// # Errors
/// What the interface ioctls give, EPERM among it (netdevice(7)).
pub fn raise_loopback() -> io::Result<()> {
    interface::raise("lo")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Runs on a thread of its own, which alone changes over.
    #[test]
    fn a_new_network_has_a_loopback_that_nobody_else_sees() {
        let tried = std::thread::spawn(|| {
            enter_network()?;
            raise_loopback().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            TcpStream::connect(address).unwrap();
            Ok::<_, Errno>((listener, address))
        });
        match tried.join().unwrap() {
            Ok((_listener, address)) => assert!(TcpStream::connect(address).is_err()),
            Err(errno) => assert_ne!(effective_ids().0, 0, "root may not, says {errno:?}"),
        }
    }

    #[test]
    fn what_is_done_inside_another_network_is_done_there_and_the_thread_comes_back() {
        let made = std::thread::spawn(|| {
            enter_network()?;
            raise_loopback().unwrap();
            Ok::<_, Errno>(current_network().unwrap())
        });
        let Ok(other) = made.join().unwrap() else {
            assert_ne!(effective_ids().0, 0, "root may");
            return;
        };
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = inside(other.as_fd(), listen).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(TcpStream::connect(address).is_err());
        let connected = inside(other.as_fd(), || TcpStream::connect(address).is_ok());
        assert!(connected.unwrap());
    }
}
