//! Stream sockets: open, accept, connect, move bytes, end.

mod address;
mod option;
mod peer;
mod tcp;
mod transfer;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Errno, check, check_len};
use option::set_option;

pub use address::{RawAddress, UnixKind, UnixName};
pub use option::socklen;
pub use peer::{
    Addresses, Nature, PeerCredentials, addresses, is_unix, local_address, nature,
    peer_credentials, peer_groups,
};
pub use tcp::{
    Keepalive, Source, TcpOptions, acknowledge, acknowledged, configure_tcp, delay_handshake,
    forbid_lingering, has_nodelay, reset_on_close, set_nodelay, tcp_socket,
};
pub use transfer::{
    discard, peek, queued, recv, recv_and_leave, recv_and_tell, send, send_now, unread,
};

/// A new Unix socket that is connected to `name`: non-blocking and close-on-exec. It never waits:
/// EAGAIN says that the listener's backlog is full.
pub fn unix_connected(name: UnixName) -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    refuse_descriptors(socket.as_fd())?;
    connect(&socket, &name.into())?;
    Ok(socket)
}

/// Has the kernel refuse descriptors that a peer of this Unix socket sends with its bytes: the send fails with
/// EPERM. What a listener accepts is like the listener.
///
/// Whoever drops the last reference to a descriptor does what closing it takes, and that can be to wait for as
/// long as the sender likes (a TCP socket with SO_LINGER). Nothing but the kernel keeps that away from who
/// receives. False: this one cannot, it is older than Linux 6.16.
pub fn refuse_descriptors(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    /// `SO_PASSRIGHTS` of asm-generic/socket.h, which x86 and ARM use; the C library's headers lack it.
    const SO_PASSRIGHTS: libc::c_int = 83;
    if !can_refuse_descriptors() {
        return Ok(false);
    }
    match set_option(socket, libc::SOL_SOCKET, SO_PASSRIGHTS, &0_i32) {
        Ok(()) => Ok(true),
        Err(Errno(libc::ENOPROTOOPT)) => {
            CANNOT_REFUSE.store(true, Ordering::Relaxed);
            Ok(false)
        }
        Err(errno) => Err(errno),
    }
}

/// Written once it is known. It only spares a call that would fail again: no other memory depends on it.
static CANNOT_REFUSE: AtomicBool = AtomicBool::new(false);

/// Whether [`refuse_descriptors`] has worked so far.
pub fn can_refuse_descriptors() -> bool {
    !CANNOT_REFUSE.load(Ordering::Relaxed)
}

/// Gives a listener another backlog; `net.core.somaxconn` bounds it.
pub fn set_backlog(listener: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::listen(listener.as_raw_fd(), backlog) }).map(drop)
}

/// Takes one connection from a non-blocking listener. The new socket is non-blocking and
/// close-on-exec.
pub fn accept(listener: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: null addresses tell the kernel not to write the peer's.
    let fd = check(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Starts a connect on a non-blocking socket: `EINPROGRESS` means that writability will tell.
pub fn connect(socket: &OwnedFd, address: &RawAddress) -> Result<(), Errno> {
    // SAFETY: `address` is a live sockaddr of the length that it reports.
    check(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr(), address.socklen()) })
        .map(drop)
}

/// How a connect that was in progress stands: `None` while it still is.
pub fn connect_outcome(socket: &OwnedFd) -> Option<Result<(), Errno>> {
    match poll_now(socket, libc::POLLOUT) {
        0 => None,
        libc::POLLOUT => Some(Ok(())),
        _ => Some(take_error(socket)),
    }
}

/// The error that a socket has pending, if any; reading it clears it.
pub fn take_error(socket: &OwnedFd) -> Result<(), Errno> {
    let mut errno: libc::c_int = 0;
    let mut len = socklen::<libc::c_int>();
    // SAFETY: both pointers are to live locals, and `len` is the size of the first.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut errno).cast(),
            &raw mut len,
        )
    })?;
    if errno == 0 {
        Ok(())
    } else {
        Err(Errno(errno))
    }
}

/// Tells the peer that nothing more comes; the other direction goes on.
pub fn shutdown_write(socket: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// What [`dismiss`] throws away at the most. A client that has more in its buffer, of 208 KiB by default
/// (`net.core.wmem_default`), meets a reset instead of an end.
const DISMISSED_BYTES_MAX: usize = 1 << 20;

/// Takes no more from a peer and throws away what it has sent: AF_UNIX makes a reset of a close with
/// bytes unread. Nothing can come in between, because the peer cannot send any more.
pub fn dismiss(socket: &OwnedFd) {
    let mut waste = [0_u8; 16 * 1024];
    // SAFETY: the call takes no pointers. It fails only for a peer that is gone.
    let _ = check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) });
    let mut left = DISMISSED_BYTES_MAX;
    while left > 0 {
        // SAFETY: the pointer and the length are those of a live array.
        let received = check_len(unsafe {
            libc::recv(
                socket.as_raw_fd(),
                waste.as_mut_ptr().cast(),
                waste.len(),
                libc::MSG_DONTWAIT,
            )
        });
        match received {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}

/// Whether the peer of an AF_UNIX socket has closed it altogether. After an end of stream this
/// tells a half-close from a peer that is gone.
pub fn peer_is_gone(socket: &OwnedFd) -> bool {
    poll_now(socket, 0) & libc::POLLHUP != 0
}

/// Whether the peer sends no more, and there is no failure to be told of.
pub fn has_ended_in_order(socket: &OwnedFd) -> bool {
    let seen = poll_now(socket, libc::POLLRDHUP);
    seen & libc::POLLRDHUP != 0 && seen & libc::POLLERR == 0
}

/// Whether a receive would find something, an end or an error included.
pub fn is_readable(socket: &OwnedFd) -> bool {
    poll_now(socket, libc::POLLIN) != 0
}

/// Which of these events, or an error or a hang-up, there are now.
fn poll_now(socket: &OwnedFd, events: libc::c_short) -> libc::c_short {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: the pointer is to one live pollfd; a timeout of 0 never waits.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if ready == 1 { poll.revents } else { 0 }
}

/// Refuses further connects; what waits in the backlog can still be accepted.
pub fn stop_listening(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RD) }).map(drop)
}

/// An independent descriptor of the same socket.
pub fn duplicate(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    socket.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_dismissed_with_bytes_under_way_sees_a_clean_end() {
        use std::io::{Read, Write};
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.write_all(&[1; 100_000]).unwrap();
        let ours = OwnedFd::from(ours);
        dismiss(&ours);
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        let error = theirs.write(&[1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
