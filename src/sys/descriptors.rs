//! Descriptors that go from one process to another with the bytes of a Unix socket (SCM_RIGHTS, unix(7)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::{Errno, check_len};

/// Descriptors that one receive can bring. A sender of ours sends one at a time; more than fit are closed by the
/// kernel, and told as an error.
const RECEIVED_MAX: usize = 8;

/// A buffer for control messages: the kernel wants it aligned like their header.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

// SAFETY: CMSG_SPACE computes with its argument and touches no memory.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(FDS_BYTES) } as usize;

#[expect(clippy::cast_possible_truncation, reason = "some 32 bytes")]
const FDS_BYTES: u32 = (RECEIVED_MAX * size_of::<RawFd>()) as u32;

/// Sends bytes, and a descriptor with the first of them. Returns how many bytes went out; with them, if any did, the
/// descriptor has. Never waits: EAGAIN says that there is no room now.
///
/// # Errors
/// Those of sendmsg(2): among them ETOOMANYREFS if too many descriptors are on their way.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<usize, Errno> {
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; CONTROL_BYTES]);
    let mut message = message(&mut iov);
    if let Some(descriptor) = descriptor {
        put(&mut message, &mut control, descriptor);
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the message points to `iov`, the bytes and the control buffer, which all live until the call returns,
    // and the kernel only reads them.
    check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// Receives bytes and the descriptors that come with them, which are close-on-exec. Never waits. 0 bytes are the end.
///
/// # Errors
/// Those of recvmsg(2), and if there were more descriptors than fit: then some are lost.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    descriptors: &mut impl Extend<OwnedFd>,
) -> io::Result<usize> {
    let mut iov = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let mut control = Control([0; CONTROL_BYTES]);
    let mut message = message(&mut iov);
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message points to `iov`, the bytes and the control buffer, which are ours alone until the call
    // returns, and which have the lengths that it says.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let received = check_len(received)?;
    descriptors.extend(take(&message));
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other(
            "descriptors that were sent did not arrive (raise the limit of open descriptors)",
        ));
    }
    Ok(received)
}

fn message(iov: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: msghdr is plain integers and pointers, for which all-zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = iov;
    message.msg_iovlen = 1;
    message
}

/// Has the message carry a descriptor. The control buffer must outlive it.
fn put(message: &mut libc::msghdr, control: &mut Control, descriptor: BorrowedFd<'_>) {
    #[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
    const ONE: u32 = size_of::<RawFd>() as u32;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: it computes with its argument and touches no memory.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(ONE) } as _;
    // SAFETY: the control buffer is aligned, zeroed, and longer than one header.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    assert!(!header.is_null(), "there is room for a header");
    let raw = libc::cmsghdr {
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
        // SAFETY: it computes with its argument and touches no memory.
        cmsg_len: unsafe { libc::CMSG_LEN(ONE) } as _,
    };
    // SAFETY: `header` points into the control buffer, which nobody else refers to meanwhile.
    unsafe { header.write(raw) };
    // SAFETY: as for `header`, which it only adds to.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: CMSG_SPACE of one descriptor has room for it behind the header; it may not be aligned.
    unsafe { data.cast::<RawFd>().write_unaligned(descriptor.as_raw_fd()) };
}

/// The descriptors of a message that was received.
fn take(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: the kernel has written the headers of this message and their length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: it is a header of this message, aligned by the kernel.
        let head = unsafe { header.read() };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: as for `header`, which it only adds to.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: it computes with its argument and touches no memory.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (head.cmsg_len as usize).saturating_sub(overhead) / size_of::<RawFd>();
            for number in 0..count {
                // SAFETY: the header says that so many descriptors stand behind it; the address is computed within them.
                let at: *const RawFd = unsafe { data.cast::<RawFd>().add(number) };
                // SAFETY: as above; they may not be aligned.
                let descriptor = unsafe { ptr::read_unaligned(at) };
                // SAFETY: the kernel has just made it for this process, and nobody else knows it.
                taken.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
        // SAFETY: both are the kernel's, as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_comes_with_the_first_byte() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        file.rewind().unwrap();
        assert_eq!(send(ours.as_fd(), b"before", None), Ok(6));
        assert_eq!(send(ours.as_fd(), b"with", Some(file.as_fd())), Ok(4));
        assert_eq!(send(ours.as_fd(), b"after", None), Ok(5));
        drop(file);
        let (mut bytes, mut descriptors) = (Vec::<u8>::new(), Vec::new());
        let mut firsts = Vec::new();
        while bytes.len() < 15 {
            let mut buffer = [0; 3];
            let before = descriptors.len();
            let received = receive(theirs.as_fd(), &mut buffer, &mut descriptors).unwrap();
            if descriptors.len() > before {
                firsts.push(bytes.len());
            }
            bytes.extend(&buffer[..received]);
        }
        assert_eq!(bytes, b"beforewithafter");
        assert_eq!(firsts, [6], "with the bytes that it was sent with");
        let mut content = String::new();
        let mut received = File::from(descriptors.remove(0));
        received.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        assert!(descriptors.is_empty());
        drop(ours);
        let end = receive(theirs.as_fd(), &mut [0; 3], &mut descriptors);
        assert_eq!(end.unwrap(), 0);
    }

    #[test]
    fn nobody_waits() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let nothing = receive(theirs.as_fd(), &mut [0; 3], &mut Vec::new());
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let full = loop {
            match send(ours.as_fd(), &[0; 65536], None) {
                Ok(_) => {}
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno(libc::EAGAIN));
    }
}
