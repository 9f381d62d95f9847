//! A TUN device: an interface whose packets a program reads and writes.
//!
//! It goes when its descriptor is closed, so nothing of it outlives the process. Packets are as large as
//! the sender's TCP makes them (segmentation offload), each behind a [`HEADER_LEN`] bytes long header that
//! says how it is to be cut; what is read from one device can be written to another one as it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{Errno, check, check_len, interface};

/// `struct virtio_net_hdr`, in front of every packet.
pub const HEADER_LEN: usize = 10;

/// The longest packet, with its header.
pub const PACKET_MAX: usize = HEADER_LEN + 65_535;

/// An open device.
#[derive(Debug)]
pub struct Tun(OwnedFd);

impl Tun {
    /// Makes one in the calling thread's network. It is down and has no address.
    ///
    /// # Errors
    /// ENOENT or ENODEV where there is no `/dev/net/tun`, EPERM without the privilege in this network, EBUSY
    /// if the name is taken.
    pub fn create(name: &str) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        let mut request = interface::request_about(name)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the flags are below 32,768, and the kernel's field is 16 bits wide"
        )]
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        request.ifr_ifru.ifru_flags = flags;
        // SAFETY: the request reads name and flags from the live ifreq and writes the name into it.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        check(set)?;
        let offload = libc::c_ulong::from(libc::TUN_F_CSUM | libc::TUN_F_TSO4);
        // SAFETY: the request takes a number by value and touches no memory.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offload) })?;
        let tun = Self(file.into());
        tun.never_block()?;
        Ok(tun)
    }

    fn never_block(&self) -> Result<(), Errno> {
        // SAFETY: the request takes no pointers.
        let flags = check(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETFL) })?;
        let flags = flags | libc::O_NONBLOCK;
        // SAFETY: the request takes a number by value.
        check(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
    }

    /// The next packet that leaves by the interface, if there is one. `buffer` has [`PACKET_MAX`] bytes, or
    /// long packets are cut.
    ///
    /// # Errors
    /// What read(2) gives, other than EAGAIN.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        let fd = self.0.as_raw_fd();
        // SAFETY: the pointer is to live bytes, as many as the length says.
        let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        match check_len(read) {
            Ok(len) => Ok(Some(len)),
            Err(Errno(libc::EAGAIN | libc::EINTR)) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Has a packet arrive at the interface.
    ///
    /// # Errors
    /// What write(2) gives: EINVAL for what is no packet, EIO while the interface is down, ENOMEM.
    pub fn deliver(&self, packet: &[u8]) -> Result<(), Errno> {
        let fd = self.0.as_raw_fd();
        // SAFETY: the pointer is to live bytes, as many as the length says, which are only read.
        let written = unsafe { libc::write(fd, packet.as_ptr().cast(), packet.len()) };
        check_len(written).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
