//! The system calls that the standard library does not offer, and what a child process does between
//! fork and exec. The only place of the tests with unsafe code.

#![allow(unsafe_code)]

pub(crate) mod pty;
pub(crate) mod traced;

use super::wait::uninterrupted;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

mod confinement;

pub(crate) use confinement::{Confinement, Mount, Network};

/// What a child does to itself before it becomes the program.
#[derive(Clone, Default)]
pub(crate) struct ChildSetup {
    /// The signal that the kernel sends when the test dies before its guards could run.
    pub(crate) death_signal: libc::c_int,
    /// Soft and hard limit of open descriptors.
    pub(crate) nofile: Option<u64>,
    pub(crate) umask: Option<libc::mode_t>,
    /// The errno with which the three io_uring calls fail.
    pub(crate) io_uring_errno: Option<libc::c_int>,
    /// The errno with which splice(2) fails.
    pub(crate) splice_errno: Option<libc::c_int>,
    /// The network that it is in; left out, ours.
    pub(crate) network: Option<Network>,
    /// Where else it is to be, and as whom.
    pub(crate) confinement: Option<Confinement>,
    /// What the child finds open from number 3 on, in this order. They are to stay open until it runs.
    pub(crate) passed: Vec<RawFd>,
}

impl ChildSetup {
    /// Puts the child into a process group of its own and has it apply the rest before exec.
    pub(crate) fn prepare(self, command: &mut Command) {
        command.process_group(0);
        let io_uring = self.io_uring_errno.map(deny_io_uring);
        let splice = self
            .splice_errno
            .map(|errno| deny(&[libc::SYS_splice], errno));
        let apply = move || {
            if let Some(network) = &self.network {
                network.enter()?;
            }
            // Before the death signal, which a change of the user clears.
            if let Some(confinement) = &self.confinement {
                confinement.enter()?;
            }
            // The standard library runs this after it changed the user, which would have cleared
            // the death signal.
            call(|| {
                // SAFETY: this prctl takes one integer and touches no memory of ours.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, self.death_signal) }
            })?;
            close_on_exec_from(3)?;
            // A shell has its background jobs ignore these, and the program would go on doing so.
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                // SAFETY: this sets no handler, and touches no memory.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            if let Some(mask) = self.umask {
                // SAFETY: umask takes an integer, touches no memory and cannot fail.
                unsafe { libc::umask(mask) };
            }
            if let Some(limit) = self.nofile {
                set_own_nofile(limit, limit)?;
            }
            let filters = self.confinement.iter().flat_map(Confinement::filters);
            for filter in filters.chain(&io_uring).chain(&splice) {
                seccompiler::apply_filter(filter).map_err(io::Error::other)?;
            }
            // Last, because the standard library's own pipe may have one of the numbers.
            pass(&self.passed)
        };
        // SAFETY: between fork and exec only system calls are made: prctl, close_range, signal, umask,
        // setrlimit, seccomp, fcntl and dup2, and those of a confinement. Nothing takes a lock; memory is
        // allocated only on the way to an error.
        unsafe { command.pre_exec(apply) };
    }
}

/// What the test runner was given by its own parent is no business of the program's: it would take
/// numbers below a descriptor limit that a test sets.
fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: three integers; descriptors are only marked, none is closed under its owner's feet.
    call_long(|| unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
}

/// Puts descriptors where a service manager does: from 3 on, open after exec.
fn pass(descriptors: &[RawFd]) -> io::Result<()> {
    const FIRST: RawFd = 3;
    let mut out_of_the_way = [-1; 16];
    let end = FIRST + RawFd::try_from(out_of_the_way.len()).unwrap_or(RawFd::MAX);
    for (copy, &fd) in out_of_the_way.iter_mut().zip(descriptors) {
        // SAFETY: three integers; the copy is the child's own.
        *copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, end) };
        call(|| *copy)?;
    }
    for (to, &copy) in (FIRST..).zip(&out_of_the_way[..descriptors.len()]) {
        // SAFETY: two integers. What has the number now is closed, and is of no use after exec.
        call(|| unsafe { libc::dup2(copy, to) })?;
    }
    Ok(())
}

/// Allows everything but io_uring, as container runtimes do.
fn deny_io_uring(errno: libc::c_int) -> BpfProgram {
    let calls = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    deny(&calls, errno)
}

fn deny(calls: &[libc::c_long], errno: libc::c_int) -> BpfProgram {
    SeccompFilter::new(
        calls.iter().map(|&call| (call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH
            .try_into()
            .expect("a known architecture"),
    )
    .and_then(BpfProgram::try_from)
    .expect("the filter is well formed")
}

/// Sends `signal` to one process.
pub(crate) fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = pid_of(pid);
    // SAFETY: kill takes two integers and touches no memory.
    call(|| unsafe { libc::kill(pid, signal) })
}

/// Sends `signal` to the group that `leader` leads.
pub(crate) fn signal_group(leader: u32, signal: libc::c_int) -> io::Result<()> {
    let leader = pid_of(leader);
    // SAFETY: killpg takes two integers and touches no memory.
    call(|| unsafe { libc::killpg(leader, signal) })
}

/// Sets the soft limit of open descriptors of another process.
pub(crate) fn set_soft_nofile(pid: u32, soft: u64) -> io::Result<()> {
    let pid = pid_of(pid);
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    call(|| {
        // SAFETY: a null new limit asks for the current one; `limit` is writable for the call.
        unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) }
    })?;
    limit.rlim_cur = soft;
    call(|| {
        // SAFETY: `limit` is initialised and readable; a null old limit is not written to.
        unsafe {
            libc::prlimit(
                pid,
                libc::RLIMIT_NOFILE,
                &raw const limit,
                std::ptr::null_mut(),
            )
        }
    })
}

/// Raises our own soft limit of open descriptors to the hard one: clients and backends live here.
pub(crate) fn raise_own_nofile() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        call(|| {
            // SAFETY: `limit` is writable for the call.
            unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }
        })
        .and_then(|()| set_own_nofile(limit.rlim_max, limit.rlim_max))
        .expect("the soft limit may always be raised to the hard one");
    });
}

fn set_own_nofile(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    call(|| {
        // SAFETY: `limit` is initialised and readable for the call.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }
    })
}

/// The user that the tests run as.
pub(crate) fn own_uid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Makes a named pipe.
pub(crate) fn make_fifo(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a live C string.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens for reading; neither this nor a read waits for a writer.
pub(crate) fn open_nonblocking(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// What ends a test that cannot go on without root. Not a failure, see [`as_permitted`].
struct NeedsRoot;

/// Ends the test, unless it is run by root.
pub(crate) fn demand_root() {
    if lacks_root() {
        // No message of a panic, and no trace.
        panic::resume_unwind(Box::new(NeedsRoot));
    }
}

/// Whether this is not root. Says so where it is seen although the test passes.
pub(crate) fn lacks_root() -> bool {
    if is_root() {
        return false;
    }
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // The harness keeps what the macros print. Nobody may be there to read this.
    drop(writeln!(io::stderr(), "{name}: needs root: skipped"));
    true
}

/// Runs a test, which is over without a failure where it takes root and this is not.
pub(crate) fn as_permitted(test: impl FnOnce()) {
    if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(test))
        && !cause.is::<NeedsRoot>()
    {
        panic::resume_unwind(cause);
    }
}

pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Runs `act` on a thread with another identity and no further groups. Linux keeps credentials per
/// thread; the C library's wrappers would change all of them, so these are the bare calls.
pub(crate) fn as_user<T: Send>(uid: u32, gid: u32, act: impl FnOnce() -> T + Send) -> T {
    as_member(uid, gid, &[], act)
}

/// The same with these supplementary groups.
pub(crate) fn as_member<T: Send>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    act: impl FnOnce() -> T + Send,
) -> T {
    demand_root();
    let act = move || {
        become_user(uid, gid, groups).expect("root may become anybody");
        act()
    };
    thread::scope(|scope| {
        scope
            .spawn(act)
            .join()
            .expect("the other user's part passes")
    })
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the count are those of a live slice, which is only read.
    call_long(|| unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: three integers, no memory.
    call_long(|| unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: three integers, no memory.
    call_long(|| unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Runs `act` on a thread whose network is its own: loopback and nothing else, with settings that
/// nobody else sees. The threads and the programs that `act` starts are in it as well.
pub(crate) fn in_own_network<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    demand_root();
    let act = move || {
        // SAFETY: unshare(2) takes an integer; a network namespace is one thread's own.
        call(|| unsafe { libc::unshare(libc::CLONE_NEWNET) }).expect("root may have a network");
        set_loopback(true).expect("it is ours");
        act()
    };
    thread::scope(|scope| {
        scope
            .spawn(act)
            .join()
            .expect("what happens in the network passes")
    })
}

/// Turns this thread's loopback on or off. Nothing comes through while it is off.
pub(crate) fn set_loopback(up: bool) -> io::Result<()> {
    let flags = if up { libc::IFF_UP } else { 0 };
    let mut request = loopback();
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).expect("the lowest bit");
    change_interface(libc::SIOCSIFFLAGS, &request)
}

/// The largest packets that go through this thread's loopback.
pub(crate) fn set_loopback_mtu(bytes: impl Into<libc::c_int>) -> io::Result<()> {
    let mut request = loopback();
    request.ifr_ifru.ifru_mtu = bytes.into();
    change_interface(libc::SIOCSIFMTU, &request)
}

fn loopback() -> libc::ifreq {
    // SAFETY: an ifreq is integers and an address of integers, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request
}

fn change_interface(how: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    let socket = socket(libc::AF_INET)?;
    call(|| {
        // SAFETY: the request reads one ifreq, which is initialised and outlives the call.
        unsafe { libc::ioctl(socket.as_raw_fd(), how, &raw const *request) }
    })
}

/// The next close of a TCP socket sends a reset instead of a FIN.
pub(crate) fn reset_on_close(stream: &impl AsRawFd) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let size = socklen_of::<libc::linger>();
    call(|| {
        // SAFETY: `linger` is readable for the `size` bytes that are named, and outlives the call.
        unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size,
            )
        }
    })
}

/// Sends one urgent byte (`MSG_OOB`).
pub(crate) fn send_urgent(socket: RawFd, byte: u8) -> io::Result<()> {
    // SAFETY: `byte` is one readable byte and outlives the call.
    let sent = unsafe { libc::send(socket, (&raw const byte).cast(), 1, libc::MSG_OOB) };
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the kernel refuse descriptors that are passed to this socket. False: it is older than Linux 6.16.
pub(crate) fn refuse_descriptors(stream: &UnixStream) -> bool {
    const SO_PASSRIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    // SAFETY: the pointer is to a live integer of the length that is passed.
    let code = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            4,
        )
    };
    code == 0
}

/// Sends bytes with a descriptor passed along (`SCM_RIGHTS`): that of the stream itself.
pub(crate) fn send_with_descriptor(stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    send_with(stream, bytes, stream)
}

/// The same with another descriptor.
pub(crate) fn send_with(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: &impl AsRawFd,
) -> io::Result<()> {
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = [0; CONTROL_WORDS];
    let message = message(&mut part, &mut control);
    // SAFETY: the control data has room for one header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    let filled = libc::cmsghdr {
        // SAFETY: CMSG_LEN computes a number.
        cmsg_len: unsafe { libc::CMSG_LEN(4) } as usize,
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    // SAFETY: the header lies in `control`.
    unsafe { header.write(filled) };
    // SAFETY: the header is whole, and room follows it.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the data has room for one descriptor, still in `control`.
    unsafe { data.cast::<RawFd>().write_unaligned(descriptor.as_raw_fd()) };
    // SAFETY: the message leads to live memory, and the kernel only reads it.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(sent) => assert_eq!(sent, bytes.len(), "a few bytes are sent as a whole"),
        Err(_) => return Err(io::Error::last_os_error()),
    }
    Ok(())
}

/// Receives what is there, and a descriptor if one came along.
pub(crate) fn receive_with(
    stream: &UnixStream,
    into: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut part = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let mut control = [0; CONTROL_WORDS];
    let mut message = message(&mut part, &mut control);
    let received = uninterrupted(|| {
        let flags = libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the message leads to live memory of the lengths that it says, which is ours alone.
        let received = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, flags) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    })?;
    // SAFETY: the kernel has written the headers of the message and their length.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok((received, None));
    }
    // SAFETY: the header is whole, and its data follow it.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: nothing but descriptors comes along with what tests receive, one at the least.
    let fd = unsafe { data.cast::<RawFd>().read_unaligned() };
    // SAFETY: the kernel has just opened it for us.
    Ok((received, Some(unsafe { OwnedFd::from_raw_fd(fd) })))
}

/// Room for a header with one descriptor, aligned like a cmsghdr.
const CONTROL_WORDS: usize = 3;

fn message(part: &mut libc::iovec, control: &mut [u64; CONTROL_WORDS]) -> libc::msghdr {
    // SAFETY: msghdr is integers and pointers, for which all-zero bytes mean none.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE computes a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as usize;
    message
}

/// The process at the other end: for a client, the one that called listen(2) (unix(7)).
pub(crate) fn peer_pid(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).expect("a few bytes");
    // SAFETY: both pointers are to live values, and the length is that of the first.
    call(|| unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    u32::try_from(peer.pid).map_err(io::Error::other)
}

/// Processes whose parents have ended are this one's children from now on, instead of some other reaper's.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: this prctl takes one integer and touches no memory of ours.
    call(|| unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) })
}

/// Waits for bytes and leaves them unread; says whether there are any, or the stream has ended.
pub(crate) fn wait_for_bytes(stream: &impl AsRawFd) -> io::Result<bool> {
    let mut byte = 0u8;
    uninterrupted(|| {
        // SAFETY: `byte` is writable for the one byte that is named, and outlives the call.
        let count = unsafe {
            libc::recv(
                stream.as_raw_fd(),
                (&raw mut byte).cast(),
                1,
                libc::MSG_PEEK,
            )
        };
        match count {
            -1 => Err(io::Error::last_os_error()),
            count => Ok(count > 0),
        }
    })
}

/// Ends the sending direction of a stream socket of any family.
pub(crate) fn half_close(stream: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `stream` is borrowed.
    call(|| unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_WR) })
}

/// Makes a thread that waits in `accept` return.
pub(crate) fn stop_accepting(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `listener` is borrowed.
    call(|| unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) })
}

/// What was sent on this Unix socket and the other side has not read yet, in bytes of the kernel's memory
/// (unix(7), SIOCOUTQ): more than were sent, and 0 once all is read.
pub(crate) fn unread(stream: &UnixStream) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and `count` is what the request
    // writes to.
    call(|| unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) })?;
    usize::try_from(count).map_err(io::Error::other)
}

/// What has come on this stream and was not read yet, in bytes.
pub(crate) fn readable(stream: &UnixStream) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and `count` is what the request
    // writes to.
    call(|| unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    usize::try_from(count).map_err(io::Error::other)
}

/// Changes the backlog of a listener that listens already.
pub(crate) fn set_backlog(listener: &impl AsRawFd, backlog: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `listener` is borrowed.
    call(|| unsafe { libc::listen(listener.as_raw_fd(), backlog) })
}

/// Limits what a listener's connections hold unread; the kernel doubles it for its own needs.
pub(crate) fn set_receive_buffer(listener: &TcpListener, bytes: libc::c_int) -> io::Result<()> {
    call(|| {
        // SAFETY: `bytes` is readable for the size that is named, and outlives the call.
        unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw const bytes).cast(),
                socklen_of::<libc::c_int>(),
            )
        }
    })
}

/// A loopback port that nobody else can take and on which nobody listens: it refuses, for as long
/// as the descriptor is kept.
pub(crate) fn refusing_port() -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = socket(libc::AF_INET)?;
    let mut address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("a small constant"),
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be(),
        },
        sin_zero: [0; 8],
    };
    let mut size = socklen_of::<libc::sockaddr_in>();
    call(|| {
        // SAFETY: `address` is an initialised sockaddr_in of `size` bytes.
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) }
    })?;
    call(|| {
        // SAFETY: `address` has room for `size` bytes and `size` is writable.
        unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut size) }
    })?;
    let port = u16::from_be(address.sin_port);
    Ok((socket, (Ipv4Addr::LOCALHOST, port).into()))
}

/// What [`refusing_port`] gave listens from now on.
pub(crate) fn listen(socket: OwnedFd) -> io::Result<TcpListener> {
    /// The largest that the kernel gives.
    const BACKLOG: libc::c_int = 4096;
    call(|| {
        // SAFETY: listen takes two integers and touches no memory.
        unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) }
    })?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(false)?;
    Ok(listener)
}

/// Connects without waiting, as nginx does: a full backlog is `WouldBlock`. The stream that comes
/// back blocks.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let socket = socket(libc::AF_UNIX)?;
    let mut address = libc::sockaddr_un {
        sun_family: libc::sa_family_t::try_from(libc::AF_UNIX).expect("a small constant"),
        sun_path: [0; 108],
    };
    let name = OsStr::as_bytes(path.as_os_str());
    assert!(
        name.len() < address.sun_path.len(),
        "the temporary path fits"
    );
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    call(|| {
        // SAFETY: `address` is an initialised sockaddr_un, NUL-terminated, of the size named.
        unsafe {
            libc::connect(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                socklen_of::<libc::sockaddr_un>(),
            )
        }
    })?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A nonblocking stream socket.
fn socket(family: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three integers and touches no memory.
    let fd: RawFd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(system_call: impl FnOnce() -> libc::c_int) -> io::Result<()> {
    match system_call() {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn call_long(system_call: impl FnOnce() -> libc::c_long) -> io::Result<()> {
    match system_call() {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn pid_of(pid: u32) -> libc::pid_t {
    libc::pid_t::try_from(pid).expect("process ids are positive ints")
}

fn socklen_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("addresses are small")
}
