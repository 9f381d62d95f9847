//! Stream sockets: open, accept, connect, move bytes, end.

use std::fmt;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Errno, check, check_len};

/// A socket address in the form that system calls take.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl RawAddress {
    /// Where the kernel reads the address from. Valid while this value stays where it is.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// How many bytes of it count.
    pub fn socklen(&self) -> libc::socklen_t {
        self.len
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: sockaddr_storage is plain integers, for which all-zero bytes are a valid value.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is defined to be large enough and aligned for every
                // address type, and nothing else refers to `storage`.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
                socklen::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: family(libc::AF_INET6),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above, for the larger of the two types.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
                socklen::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len }
    }
}

/// The name of a Unix socket to connect to. Names come from the configuration, and each lives as long
/// as the process: so it can be copied like an address, on a path where nothing is allocated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnixName(&'static [u8]);

impl UnixName {
    /// The name of a path, or of an abstract socket (without its leading NUL), which both must fit
    /// into an address: at most 107 bytes.
    ///
    /// # Panics
    /// If it does not fit; whoever reads names from the user has refused it.
    pub fn new(name: &[u8], kind: UnixKind) -> Self {
        assert!(name.len() < UNIX_NAME_BYTES, "it fits into an address");
        let mut bytes = name.to_vec();
        match kind {
            // A path ends with a NUL, an abstract name begins with one.
            UnixKind::Path => bytes.push(0),
            UnixKind::Abstract => bytes.insert(0, 0),
        }
        Self(Box::leak(bytes.into_boxed_slice()))
    }
}

/// Where a Unix socket's name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnixKind {
    /// In the file system.
    Path,
    /// In Linux's abstract namespace.
    Abstract,
}

/// `unix:/path` or `unix:@name`
impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [0, name @ ..] => write!(f, "unix:@{}", name.escape_ascii()),
            [path @ .., _] => write!(f, "unix:{}", path.escape_ascii()),
            [] => unreachable!("it has its NUL at least"),
        }
    }
}

impl fmt::Debug for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The room for a name with its NUL (unix(7)).
const UNIX_NAME_BYTES: usize = 108;

impl From<UnixName> for RawAddress {
    fn from(name: UnixName) -> Self {
        let mut raw = libc::sockaddr_un {
            sun_family: family(libc::AF_UNIX),
            sun_path: [0; UNIX_NAME_BYTES],
        };
        for (to, from) in raw.sun_path.iter_mut().zip(name.0) {
            *to = from.cast_signed();
        }
        // SAFETY: sockaddr_storage is plain integers, for which all-zero bytes are a valid value.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        // SAFETY: sockaddr_storage is defined to be large enough and aligned for every address type,
        // and nothing else refers to `storage`.
        unsafe { (&raw mut storage).cast::<libc::sockaddr_un>().write(raw) };
        let len = mem::offset_of!(libc::sockaddr_un, sun_path) + name.0.len();
        let len = libc::socklen_t::try_from(len).expect("at most 110");
        Self { storage, len }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the address families are 1, 2 and 10"
)]
const fn family(family: libc::c_int) -> libc::sa_family_t {
    family.cast_unsigned() as libc::sa_family_t
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses and option values are a few bytes"
)]
pub(super) const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// What TCP sockets towards backends are given besides TCP_NODELAY. Each thing that is `None` is
/// left to the kernel, and costs no system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Probes of an idle connection (tcp(7), SO_KEEPALIVE).
    pub keepalive: Option<Keepalive>,
    /// How long sent bytes may stay without acknowledgement (tcp(7), TCP_USER_TIMEOUT), to the
    /// millisecond.
    pub user_timeout: Option<Duration>,
    /// Where connections come from.
    pub source: Source,
}

/// When an idle connection is probed, and given up. The kernel counts in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// Without a byte for this long, the first probe is sent.
    pub idle_seconds: u16,
    /// The time between probes.
    pub interval_seconds: u16,
    /// So many probes without an answer, and the connection is broken.
    pub count: u16,
}

/// The local address of connections, for each family. Neither: the kernel chooses for both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// Towards IPv4 endpoints.
    pub v4: Option<Ipv4Addr>,
    /// Towards IPv6 endpoints.
    pub v6: Option<Ipv6Addr>,
}

impl Source {
    /// Whether a connection to `endpoint` can come from here: who gives an address of one family
    /// only means that connections come from no other.
    pub fn reaches(self, endpoint: &SocketAddr) -> bool {
        self == Self::default() || self.towards(endpoint).is_some()
    }

    fn towards(self, endpoint: &SocketAddr) -> Option<SocketAddr> {
        let ip = match endpoint {
            SocketAddr::V4(_) => self.v4.map(IpAddr::from),
            SocketAddr::V6(_) => self.v6.map(IpAddr::from),
        };
        ip.map(|ip| SocketAddr::new(ip, 0))
    }
}

/// A new TCP socket for the family of `like`: non-blocking, close-on-exec, without Nagle's delay
/// (a relay that holds small writes back adds 40 ms to a request that was sent in two parts).
pub fn tcp_socket(like: &SocketAddr, options: &TcpOptions) -> Result<OwnedFd, Errno> {
    let family = match like {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, libc::IPPROTO_TCP) })?;
    // SAFETY: the kernel just gave this descriptor to us and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)?;
    configure_tcp(socket.as_fd(), like, options)?;
    Ok(socket)
}

/// Gives an unconnected socket of [`tcp_socket`], made without options for the family of `like`, these.
pub fn configure_tcp(
    socket: BorrowedFd<'_>,
    like: &SocketAddr,
    options: &TcpOptions,
) -> Result<(), Errno> {
    if let Some(keepalive) = options.keepalive {
        keep_alive(socket, keepalive)?;
    }
    if let Some(timeout) = options.user_timeout {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        set_option(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &millis)?;
    }
    match options.source.towards(like) {
        Some(source) => bind_source(socket, source),
        None => Ok(()),
    }
}

fn keep_alive(socket: BorrowedFd<'_>, keepalive: Keepalive) -> Result<(), Errno> {
    for (name, value) in [
        (libc::TCP_KEEPIDLE, keepalive.idle_seconds),
        (libc::TCP_KEEPINTVL, keepalive.interval_seconds),
        (libc::TCP_KEEPCNT, keepalive.count),
    ] {
        set_option(socket, libc::IPPROTO_TCP, name, &i32::from(value))?;
    }
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1_i32)
}

/// The port is chosen when the socket connects (IP_BIND_ADDRESS_NO_PORT in ip(7), which IPv6 sockets
/// take as well): one that bind(2) chose would be taken for all destinations at once, and the ports
/// would be used up at some 28,000 connections altogether.
fn bind_source(socket: BorrowedFd<'_>, source: SocketAddr) -> Result<(), Errno> {
    let option = libc::IP_BIND_ADDRESS_NO_PORT;
    set_option(socket, libc::IPPROTO_IP, option, &1_i32)?;
    let address = RawAddress::from(source);
    // SAFETY: `address` is a live sockaddr of the length that it reports.
    check(unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr(), address.socklen()) }).map(drop)
}

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
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
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
pub(crate) fn can_refuse_descriptors() -> bool {
    !CANNOT_REFUSE.load(Ordering::Relaxed)
}

/// A close of what this TCP listener accepts from now on does not wait for bytes to be acknowledged, whoever
/// has asked for that (SO_LINGER is inherited, and a close waits even if the socket is non-blocking).
pub(crate) fn forbid_lingering(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let linger = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    set_option(listener, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// Sends the acknowledgement that is due now and does not delay the next ones (TCP_QUICKACK in tcp(7),
/// which does not last: sending makes the kernel wait again for bytes to send with it).
pub fn acknowledge(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, &1_i32)
}

/// How many bytes of data the peer of a TCP socket has acknowledged. The kernel's counter
/// (`tcpi_bytes_acked`, RFC 4898) counts the SYN as well.
pub fn acknowledged(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    // SAFETY: the struct has only integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = socklen::<libc::tcp_info>();
    // SAFETY: both pointers are to live locals, and `len` is the size of the first.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    })?;
    Ok(info.tcpi_bytes_acked.saturating_sub(1))
}

/// Gives a listener another backlog; `net.core.somaxconn` bounds it.
pub fn set_backlog(listener: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::listen(listener.as_raw_fd(), backlog) }).map(drop)
}

/// Turns Nagle's delay off; what a listener accepts inherits it.
pub fn set_nodelay(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32)
}

/// Whether [`set_nodelay`] has worked.
#[cfg(test)]
pub(crate) fn has_nodelay(socket: &OwnedFd) -> bool {
    int_option_of(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY) == Ok(1)
}

/// Makes the next close of this TCP socket send a reset and throw away what is unsent.
pub fn reset_on_close(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

fn set_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> Result<(), Errno> {
    // SAFETY: `value` is a live T, and the length passed is T's own.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            socklen::<T>(),
        )
    })
    .map(drop)
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

/// Lets the packet that completes the handshake wait for the first bytes that we send, so that both
/// go in one, and the backend is woken once and finds the bytes there. The kernel stops waiting after
/// 200 ms (`TCP_DELACK_MAX`). Before a connect, this is what clearing TCP_QUICKACK does
/// (`tcp_rcv_synsent_state_process`).
///
/// [`acknowledge`] is owed after each send until something was received: what goes out within 40 ms looks
/// like the answer to something that was just received (`tcp_event_data_sent`), so the kernel would wait
/// for bytes to send with its next acknowledgements, for 40 ms each, and a backend without TCP_NODELAY
/// would wait for those before it sent the second piece of its answer.
pub fn delay_handshake(socket: &OwnedFd) -> Result<(), Errno> {
    set_option(
        socket.as_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_QUICKACK,
        &0_i32,
    )
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

/// Receives at most so many bytes into the spare capacity of `bytes`, which must be empty and have it.
/// Returns the count; 0 is the end.
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

/// Tells the peer that nothing more comes; the other direction goes on.
pub fn shutdown_write(socket: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// Who made a connection to a Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCredentials {
    /// The process's effective user; the overflow user for one that has no number here
    /// (user_namespaces(7)).
    pub uid: u32,
    /// Its effective group, in the same way.
    pub gid: u32,
    /// The process; 0 for one that cannot be seen from here (pid_namespaces(7)).
    pub pid: u32,
}

/// What the kernel says of users and groups where there is nothing to say.
const NOBODY_AT_ALL: u32 = u32::MAX;

/// Who made this connection, as it was then (unix(7), `SO_PEERCRED`). `None` where the kernel does not
/// know, as of TCP.
pub fn peer_credentials(socket: &OwnedFd) -> Option<PeerCredentials> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = socklen::<libc::ucred>();
    // SAFETY: the pointers are to a live ucred and to its length, which bounds what is written.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    })
    .ok()?;
    (found.uid != NOBODY_AT_ALL).then(|| PeerCredentials {
        uid: found.uid,
        gid: found.gid,
        pid: u32::try_from(found.pid).unwrap_or(0),
    })
}

/// Both ends of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Who connected.
    pub client: SocketAddr,
    /// What was connected to.
    pub local: SocketAddr,
}

/// Both ends of a connection that was accepted. EAFNOSUPPORT if it is not one over IP, ENOTCONN if it
/// is broken already.
pub fn addresses(socket: &OwnedFd) -> Result<Addresses, Errno> {
    Ok(Addresses {
        client: ip_address(socket.as_fd(), libc::getpeername)?,
        local: ip_address(socket.as_fd(), libc::getsockname)?,
    })
}

/// Where a socket is. EAFNOSUPPORT if it is not one of IP.
pub fn local_address(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    ip_address(socket, libc::getsockname)
}

/// What getsockname(2) and getpeername(2) have in common.
type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn ip_address(socket: BorrowedFd<'_>, call: NameCall) -> Result<SocketAddr, Errno> {
    // SAFETY: sockaddr_storage is plain integers, for which all-zero bytes are a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut len = socklen::<libc::sockaddr_storage>();
    let address = (&raw mut storage).cast::<libc::sockaddr>();
    // SAFETY: both calls write an address of at most `len` bytes, the size of `storage`, which is live.
    check(unsafe { call(socket.as_raw_fd(), address, &raw mut len) })?;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in, and sockaddr_storage is aligned for it.
            let v4 = unsafe { (&raw const storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Ok((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { (&raw const storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok((ip, u16::from_be(v6.sin6_port)).into())
        }
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// What a socket is (socket(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nature {
    /// The address family, such as `AF_UNIX`.
    pub family: i32,
    /// The type, such as `SOCK_STREAM`.
    pub kind: i32,
    /// The protocol, such as `IPPROTO_TCP`; 0 for AF_UNIX.
    pub protocol: i32,
    /// Whether it accepts connections.
    pub listens: bool,
}

/// What a socket is. ENOTSOCK if the descriptor is something else.
pub fn nature(socket: BorrowedFd<'_>) -> Result<Nature, Errno> {
    Ok(Nature {
        family: int_option(socket, libc::SO_DOMAIN)?,
        kind: int_option(socket, libc::SO_TYPE)?,
        protocol: int_option(socket, libc::SO_PROTOCOL)?,
        listens: int_option(socket, libc::SO_ACCEPTCONN)? != 0,
    })
}

/// Whether it is a socket of AF_UNIX.
pub fn is_unix(socket: BorrowedFd<'_>) -> bool {
    int_option(socket, libc::SO_DOMAIN) == Ok(libc::AF_UNIX)
}

fn int_option(socket: BorrowedFd<'_>, name: libc::c_int) -> Result<i32, Errno> {
    int_option_of(socket, libc::SOL_SOCKET, name)
}

fn int_option_of(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> Result<i32, Errno> {
    let (mut value, mut len): (libc::c_int, _) = (0, socklen::<libc::c_int>());
    // SAFETY: both pointers are to live locals, and `len` is the size of the first.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// The most supplementary groups that a process can have (`NGROUPS_MAX` of limits.h).
const GROUPS_MAX: usize = 65_536;

/// As many as most processes have, so that one call is enough for them.
const GROUPS_USUAL: usize = 32;

/// The supplementary groups of who made this connection, as they were then (`SO_PEERGROUPS`).
pub fn peer_groups(socket: &OwnedFd) -> Result<Vec<u32>, Errno> {
    let mut groups = vec![0_u32; GROUPS_USUAL];
    loop {
        let bytes = groups.len() * size_of::<u32>();
        let mut len = libc::socklen_t::try_from(bytes).map_err(|_| Errno(libc::ERANGE))?;
        // SAFETY: the pointers are to live integers and to their length in bytes, which bounds what is
        // written.
        let got = check(unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        });
        let count = len as usize / size_of::<u32>();
        match got {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // The length says how many there are: they belong to the connection and do not change.
            Err(Errno(libc::ERANGE)) if groups.len() < count && count <= GROUPS_MAX => {
                groups.resize(count, 0);
            }
            Err(errno) => return Err(errno),
        }
    }
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

/// What the peer has not read yet, by the kernel's own count (`SIOCOUTQ`): bytes for TCP, memory for
/// AF_UNIX. 0 if the socket cannot say.
pub fn unread(socket: &OwnedFd) -> u64 {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int, to which the pointer leads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result < 0 {
        return 0;
    }
    u64::try_from(count).unwrap_or(0)
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

    fn option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int) -> libc::c_int {
        int_option_of(socket.as_fd(), level, name).unwrap()
    }

    #[test]
    fn by_default_only_the_delay_is_changed() {
        let like = "127.0.0.1:0".parse().unwrap();
        let socket = tcp_socket(&like, &TcpOptions::default()).unwrap();
        assert_eq!(option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
        assert_eq!(option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
        assert_eq!(
            option(&socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
            0
        );
        assert_eq!(
            option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
            0
        );
    }

    #[test]
    fn what_is_asked_for_is_set() {
        let options = TcpOptions {
            keepalive: Some(Keepalive {
                idle_seconds: 60,
                interval_seconds: 20,
                count: 3,
            }),
            user_timeout: Some(Duration::from_millis(1500)),
            source: Source {
                v4: Some(Ipv4Addr::new(127, 0, 0, 9)),
                v6: None,
            },
        };
        let like = "127.0.0.1:0".parse().unwrap();
        let socket = tcp_socket(&like, &options).unwrap();
        assert_eq!(option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        for (name, value) in [
            (libc::TCP_KEEPIDLE, 60),
            (libc::TCP_KEEPINTVL, 20),
            (libc::TCP_KEEPCNT, 3),
            (libc::TCP_USER_TIMEOUT, 1500),
        ] {
            assert_eq!(option(&socket, libc::IPPROTO_TCP, name), value);
        }
        let bound = std::net::TcpStream::from(socket).local_addr().unwrap();
        // The port is chosen when it connects.
        assert_eq!(bound, "127.0.0.9:0".parse().unwrap());
    }

    #[test]
    fn tcp_does_not_tell_who_a_client_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = OwnedFd::from(listener.accept().unwrap().0);
        assert_eq!(peer_credentials(&accepted), None);
        assert!(peer_groups(&accepted).is_err());
        assert!(!is_unix(accepted.as_fd()));
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        assert!(peer_credentials(&ours).is_some() && is_unix(ours.as_fd()));
    }

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

    #[test]
    fn a_source_of_one_family_reaches_no_other() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        let source = Source {
            v4: None,
            v6: Some(Ipv6Addr::LOCALHOST),
        };
        assert!(Source::default().reaches(&v4) && Source::default().reaches(&v6));
        assert!(!source.reaches(&v4) && source.reaches(&v6));
    }
}
