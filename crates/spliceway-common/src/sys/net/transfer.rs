//! Bytes of a stream: received, looked at, thrown away, sent, counted.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::super::{Errno, check_len};

/// Receives at most so many bytes into the spare capacity of `bytes`, which must be empty and have it.
/// Returns the count; 0 is the end.
#[inline]
pub fn recv(socket: &OwnedFd, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
    assert!(bytes.is_empty() && most > 0, "nothing to receive into");
    let room = &mut bytes.spare_capacity_mut()[..most];
    // SAFETY: the pointer and length are those of the vector's own spare capacity.
    let received = check_len(unsafe {
        libc::recv(
            socket.as_raw_fd(),
            room.as_mut_ptr().cast(),
            room.len(),
            libc::MSG_DONTWAIT,
        )
    })?;
    // SAFETY: the kernel wrote `received` bytes, at most the spare capacity, from its start.
    unsafe { bytes.set_len(received) };
    Ok(received)
}

/// Copies the first bytes that can be received, and leaves them there. Returns the count; 0 is the end.
pub fn peek(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the pointer and length are those of the slice.
    check_len(unsafe {
        libc::recv(
            socket.as_raw_fd(),
            into.as_mut_ptr().cast(),
            into.len(),
            libc::MSG_DONTWAIT | libc::MSG_PEEK,
        )
    })
}

/// As [`recv`], but leaves what it copies where it is.
#[inline]
pub fn recv_and_leave(socket: &OwnedFd, bytes: &mut Vec<u8>, most: usize) -> Result<usize, Errno> {
    assert!(bytes.is_empty() && most > 0, "nothing to receive into");
    let room = &mut bytes.spare_capacity_mut()[..most];
    // SAFETY: the pointer and length are those of the vector's own spare capacity.
    let received = check_len(unsafe {
        libc::recv(
            socket.as_raw_fd(),
            room.as_mut_ptr().cast(),
            room.len(),
            libc::MSG_DONTWAIT | libc::MSG_PEEK,
        )
    })?;
    // SAFETY: the kernel wrote `received` bytes, at most the spare capacity, from its start.
    unsafe { bytes.set_len(received) };
    Ok(received)
}

/// How many bytes wait to be received (`SIOCINQ` in tcp(7), `FIONREAD`); 0 if the socket cannot say.
#[inline]
pub fn queued(socket: &OwnedFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, to which the pointer leads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result < 0 {
        return 0;
    }
    usize::try_from(count).unwrap_or(0)
}

/// As much as most questions have, and little enough for the stack.
const DISCARD_BYTES: usize = 2048;

/// Takes `count` bytes that [`recv_and_leave`] has copied. A failure of the socket is left for the next
/// receive.
#[inline]
pub fn discard(socket: &OwnedFd, count: usize) {
    let mut waste = [0_u8; DISCARD_BYTES];
    let mut left = count;
    while left > 0 {
        // SAFETY: the pointer is to a live array, and the length is at most its own.
        let received = check_len(unsafe {
            libc::recv(
                socket.as_raw_fd(),
                waste.as_mut_ptr().cast(),
                left.min(waste.len()),
                libc::MSG_DONTWAIT,
            )
        });
        match received {
            // None of them are left: what is urgent was taken out of the stream meanwhile.
            Ok(0) | Err(_) => return,
            Ok(received) => left -= received,
        }
    }
}

/// As [`recv`], on a socket of any family. Also tells whether the receive stopped short because the
/// sender had passed descriptors or credentials along, which are dropped: more may be there.
#[inline]
pub fn recv_and_tell(
    socket: &OwnedFd,
    bytes: &mut Vec<u8>,
    most: usize,
) -> Result<(usize, bool), Errno> {
    assert!(bytes.is_empty() && most > 0, "nothing to receive into");
    let room = &mut bytes.spare_capacity_mut()[..most];
    let mut part = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    // SAFETY: msghdr is integers and pointers, for which all-zero bytes mean none.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    // SAFETY: the message leads to one live iovec, and that to the vector's own spare capacity; there
    // is no room for a name or for control data, and the lengths of both say so.
    let received = check_len(unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT)
    })?;
    // SAFETY: the kernel wrote `received` bytes, at most the spare capacity, from its start.
    unsafe { bytes.set_len(received) };
    Ok((received, message.msg_flags & libc::MSG_CTRUNC != 0))
}

/// Sends what fits, without waiting and without a signal.
#[inline]
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and length are those of a live slice.
    check_len(unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    })
}

/// Sends the first bytes of a connection. There is room for some kilobytes at least (the least that
/// SO_SNDBUF can be, socket(7)), so a few hundred bytes go whole or not at all.
pub fn send_now(socket: &OwnedFd, bytes: &[u8]) -> Result<(), Errno> {
    loop {
        match send(socket, bytes) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            // The kernel had no memory for the rest. A part is of no use to the peer.
            Ok(_) => return Err(Errno(libc::ENOBUFS)),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What the peer has not read yet, by the kernel's own count (`SIOCOUTQ`): bytes for TCP, memory for
/// AF_UNIX. 0 if the socket cannot say.
#[inline]
pub fn unread(socket: &OwnedFd) -> u64 {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, to which the pointer leads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result < 0 {
        return 0;
    }
    u64::try_from(count).unwrap_or(0)
}
