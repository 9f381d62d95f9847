//! TCP backends that follow a script, one thread per connection, and keep a ledger of what they saw.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::pattern::{Pattern, usize_of};
use super::sys;
use super::wait::{GUARD, uninterrupted};

/// Scripts keep little on the stack, and a crowd of sessions needs a thread each.
const STACK_BYTES: usize = 256 * 1024;

const BUFFER_BYTES: usize = 64 * 1024;

/// How a connection ended, as the backend saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The script closed the connection without having read an end.
    Closed,
    /// The other side's FIN was read.
    Eof,
    /// ECONNRESET, or ENOTCONN where that was reported already: a reset came while the other side's
    /// direction was still open.
    Reset,
    /// EPIPE: the other side had ended its direction properly, and refused what came afterwards.
    BrokenPipe,
    /// Anything else: a wrong byte, or a wait that never ended.
    Failed(String),
}

/// One finished connection.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// What [`Conversation::keep_until_eof`] and its like kept.
    pub(crate) received: Vec<u8>,
    pub(crate) ending: Ending,
}

/// What a backend has seen so far, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) accepted: usize,
    /// Accepted, and the script has not come to its end. A script that ends the connection first is
    /// taken off before it closes, so that a proxy which opens the next one at once is not wronged.
    pub(crate) open: usize,
    pub(crate) open_most: usize,
    /// Bytes that scripts have handed to the kernel.
    pub(crate) sent: u64,
    /// Bytes that scripts have received.
    pub(crate) received: u64,
    pub(crate) seen: Vec<Seen>,
    /// Permissions to go on that [`Backend::release`] gave and no script has taken yet.
    tickets: usize,
}

type Shared = Arc<(Mutex<Ledger>, Condvar)>;

/// A listening TCP backend.
pub(crate) struct Backend {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Shared,
}

impl Backend {
    /// Runs `script` for every connection; an error from it becomes the connection's ending.
    pub(crate) fn scripted<F>(script: F) -> Self
    where
        F: Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
    {
        Self::scripted_on(Ipv4Addr::LOCALHOST.into(), script).expect("loopback has free ports")
    }

    /// The same on another address of this machine.
    pub(crate) fn scripted_on<F>(address: IpAddr, script: F) -> io::Result<Self>
    where
        F: Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
    {
        Self::scripted_at((address, 0), script)
    }

    /// Echoes at this address and port, if nobody else has it.
    pub(crate) fn echo_at(address: IpAddr, port: u16) -> io::Result<Self> {
        Self::scripted_at((address, port), Conversation::echo)
    }

    /// The same at this address and port, if nobody else has it.
    pub(crate) fn scripted_at<F>(address: impl ToSocketAddrs, script: F) -> io::Result<Self>
    where
        F: Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
    {
        Self::scripted_with(TcpListener::bind(address)?, script)
    }

    fn scripted_with<F>(listener: TcpListener, script: F) -> io::Result<Self>
    where
        F: Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
    {
        sys::raise_own_nofile();
        let listener = Arc::new(listener);
        // A crowd connects faster than threads start; the standard library's 128 would make the
        // kernel drop SYNs, and a second would pass before they are repeated.
        sys::set_backlog(&listener, 4096)?;
        let backend = Self {
            address: listener.local_addr()?,
            listener,
            shared: Shared::default(),
        };
        let (listener, shared) = (Arc::clone(&backend.listener), Arc::clone(&backend.shared));
        thread::spawn(move || accept_all(&listener, &shared, &Arc::new(script)));
        Ok(backend)
    }

    /// Echoing backends on 127.0.0.1, 127.0.0.2 and so on, all with the same port: what one name can
    /// stand for.
    pub(crate) fn fleet(count: u8) -> Vec<Self> {
        let fleet = || -> io::Result<Vec<Self>> {
            let first = Self::echo();
            let port = first.port();
            let others = (2..=count).map(|last| {
                let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port))?;
                Self::scripted_with(listener, Conversation::echo)
            });
            iter::once(Ok(first)).chain(others).collect()
        };
        // Somebody may have the port on one of the other addresses.
        let mut attempts = iter::repeat_with(fleet).take(100);
        attempts.find_map(Result::ok).expect("some port is free")
    }

    /// Sends back what it receives, until the end.
    pub(crate) fn echo() -> Self {
        Self::scripted(Conversation::echo)
    }

    /// Keeps everything that it receives.
    pub(crate) fn sink() -> Self {
        Self::scripted(Conversation::keep_until_eof)
    }

    /// Sends `count` bytes of `pattern`, then FIN, then waits for the other side's end.
    pub(crate) fn source(pattern: Pattern, count: u64) -> Self {
        Self::scripted(move |conversation| {
            conversation.send_pattern(pattern, 0, count)?;
            conversation.half_close()?;
            conversation.keep_until_eof()
        })
    }

    /// Reads an eight-byte seed, answers with `count` bytes of its pattern, then closes as `source`.
    pub(crate) fn seeded_source(count: u64) -> Self {
        Self::scripted(move |conversation| {
            let seed = conversation.receive_seed()?;
            conversation.send_pattern(Pattern::new(seed), 0, count)?;
            conversation.half_close()?;
            conversation.keep_until_eof()
        })
    }

    /// Holds every connection until it is released, then says `done` and closes.
    pub(crate) fn hold() -> Self {
        Self::scripted(|conversation| {
            conversation.wait_for_release()?;
            conversation.send(b"done")
        })
    }

    /// Speaks first, then echoes.
    pub(crate) fn banner(banner: &'static [u8]) -> Self {
        Self::scripted(|conversation| {
            conversation.send(banner)?;
            conversation.echo()
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn ip(&self) -> String {
        self.address.ip().to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets `count` scripts go on that wait for it, now or later.
    pub(crate) fn release(&self, count: usize) {
        self.shared.0.lock().expect("scripts do not panic").tickets += count;
        self.shared.1.notify_all();
    }

    /// A look at the ledger.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.shared)
    }

    /// Waits until the ledger fulfils `condition`.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&Ledger) -> bool) {
        let reached = wait_until(&self.shared, condition).is_some();
        assert!(
            reached,
            "the backend never saw: {what}; {:?}",
            self.summary()
        );
    }

    /// Waits for the `number`th connection (from 0, in the order of their ends) to end.
    #[track_caller]
    pub(crate) fn wait_for_end(&self, number: usize) -> Seen {
        let what = format!("the end of {} connection(s)", number + 1);
        self.wait_until(&what, |ledger| ledger.seen.len() > number);
        self.ledger().seen[number].clone()
    }

    fn summary(&self) -> String {
        let ledger = self.ledger();
        let endings: Vec<_> = ledger.seen.iter().map(|seen| &seen.ending).collect();
        format!(
            "accepted {}, open {}, sent {}, received {}, endings {endings:?}",
            ledger.accepted, ledger.open, ledger.sent, ledger.received
        )
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(out)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = sys::stop_accepting(&self.listener);
    }
}

/// A port that refuses connections for as long as this lives.
pub(crate) struct Refusing {
    address: SocketAddr,
    port: OwnedFd,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let (port, address) = sys::refusing_port().expect("loopback has free ports");
        Self { address, port }
    }

    /// Somebody listens there from now on, and runs `script` for every connection.
    pub(crate) fn recover<F>(self, script: F) -> Backend
    where
        F: Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
    {
        let listener = sys::listen(self.port).expect("the port is ours");
        Backend::scripted_with(listener, script).expect("it listens")
    }
}

impl fmt::Display for Refusing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(out)
    }
}

/// A port on which connects get no answer at all: its backlog is full and nobody accepts.
pub(crate) struct Unanswering {
    listener: TcpListener,
    _fillers: Vec<TcpStream>,
}

impl Unanswering {
    pub(crate) fn new() -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into()).expect("loopback has ports")
    }

    /// The same on another address of this machine.
    pub(crate) fn on(address: IpAddr) -> io::Result<Self> {
        Self::at((address, 0))
    }

    /// The same at this address and port, if nobody else has it.
    pub(crate) fn at(address: impl ToSocketAddrs) -> io::Result<Self> {
        /// On loopback an answer takes microseconds. Too short only means one more filler.
        const ANSWER_WITHIN: Duration = Duration::from_millis(300);

        let listener = TcpListener::bind(address)?;
        sys::set_backlog(&listener, 0).expect("a listener's backlog can be changed");
        let address = listener.local_addr().expect("it is bound");
        let mut fillers = Vec::new();
        let error = loop {
            match TcpStream::connect_timeout(&address, ANSWER_WITHIN) {
                Ok(filler) => fillers.push(filler),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        Ok(Self {
            listener,
            _fillers: fillers,
        })
    }
}

impl fmt::Display for Unanswering {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listener.local_addr().map_err(|_| fmt::Error)?.fmt(out)
    }
}

/// One connection, in the hands of a script.
pub(crate) struct Conversation {
    stream: TcpStream,
    buffer: Vec<u8>,
    kept: Vec<u8>,
    saw_eof: bool,
    left: bool,
    shared: Shared,
}

impl Conversation {
    /// Receives what is there; empty at the other side's end.
    pub(crate) fn receive(&mut self) -> io::Result<&[u8]> {
        let count = uninterrupted(|| self.stream.read(&mut self.buffer))?;
        self.saw_eof = count == 0;
        note(&self.shared, |ledger| ledger.received += count as u64);
        Ok(&self.buffer[..count])
    }

    pub(crate) fn receive_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        note(&self.shared, |ledger| ledger.received += count as u64);
        Ok(bytes)
    }

    /// Where the connection comes from.
    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    pub(crate) fn receive_seed(&mut self) -> io::Result<u64> {
        let bytes = self.receive_exact(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// Receives the first `count` bytes of `pattern`, and nothing but them.
    pub(crate) fn receive_pattern(&mut self, pattern: Pattern, count: u64) -> io::Result<()> {
        pattern.receive(&mut self.stream, count)?;
        note(&self.shared, |ledger| ledger.received += count);
        Ok(())
    }

    pub(crate) fn keep_until_eof(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.receive()?.to_vec();
            if bytes.is_empty() {
                return Ok(());
            }
            self.kept.extend(bytes);
        }
    }

    pub(crate) fn discard_until_eof(&mut self) -> io::Result<()> {
        while !self.receive()?.is_empty() {}
        Ok(())
    }

    pub(crate) fn echo(&mut self) -> io::Result<()> {
        loop {
            let count = self.receive()?.len();
            if count == 0 {
                return self.half_close();
            }
            self.stream.write_all(&self.buffer[..count])?;
            note(&self.shared, |ledger| ledger.sent += count as u64);
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        note(&self.shared, |ledger| ledger.sent += bytes.len() as u64);
        Ok(())
    }

    /// Whether there is something to be read now.
    pub(crate) fn has_bytes(&self) -> io::Result<bool> {
        self.stream.set_nonblocking(true)?;
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        match peeked {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Leaves Nagle's algorithm on, as PHP-FPM does: a write that is less than a segment waits until what was
    /// sent before it is acknowledged.
    pub(crate) fn gather(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(false)
    }

    /// Sends one urgent byte, which is no part of the stream for a peer that does not ask for it.
    pub(crate) fn send_urgent(&mut self) -> io::Result<()> {
        sys::send_urgent(self.stream.as_raw_fd(), b'!')
    }

    /// Sends `count` bytes of `pattern` from position `start`.
    pub(crate) fn send_pattern(
        &mut self,
        pattern: Pattern,
        start: u64,
        count: u64,
    ) -> io::Result<()> {
        let mut chunk = vec![0; BUFFER_BYTES];
        let mut sent = 0;
        while sent < count {
            let room = BUFFER_BYTES.min(usize_of(count - sent));
            pattern.fill(start + sent, &mut chunk[..room]);
            let now = self.stream.write(&chunk[..room])? as u64;
            note(&self.shared, |ledger| ledger.sent += now);
            sent += now;
        }
        Ok(())
    }

    pub(crate) fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// From now on the peer's kernel knows of the end, and bytes that come are refused with a reset.
    pub(crate) fn end_both_ways(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Both)
    }

    /// Scripts begin with Nagle's delay turned off; many programs leave it on.
    pub(crate) fn set_nodelay(&mut self, nodelay: bool) -> io::Result<()> {
        self.stream.set_nodelay(nodelay)
    }

    /// When the script ends, the connection is reset.
    pub(crate) fn reset_on_close(&mut self) -> io::Result<()> {
        sys::reset_on_close(&self.stream)
    }

    /// Waits for one [`Backend::release`] of its own, and counts as gone from then on.
    pub(crate) fn wait_for_release(&mut self) -> io::Result<()> {
        let mut ledger = wait_until(&self.shared, |ledger| ledger.tickets > 0)
            .ok_or_else(|| io::Error::other("never released"))?;
        ledger.tickets -= 1;
        if !self.left {
            self.left = true;
            ledger.open -= 1;
        }
        drop(ledger);
        self.shared.1.notify_all();
        Ok(())
    }

    fn ending(&self, result: io::Result<()>) -> Ending {
        match result {
            Ok(()) if self.saw_eof => Ending::Eof,
            Ok(()) => Ending::Closed,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::NotConnected => Ending::Reset,
                ErrorKind::BrokenPipe => Ending::BrokenPipe,
                ErrorKind::UnexpectedEof => Ending::Eof,
                _ => Ending::Failed(error.to_string()),
            },
        }
    }
}

/// The bytes as they come, for readers that know where to end.
impl Read for Conversation {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.saw_eof = count == 0;
        note(&self.shared, |ledger| ledger.received += count as u64);
        Ok(count)
    }
}

fn accept_all<F>(listener: &TcpListener, shared: &Shared, script: &Arc<F>)
where
    F: Fn(&mut Conversation) -> io::Result<()> + Send + Sync + 'static,
{
    while let Ok((stream, _)) = listener.accept() {
        note(shared, |ledger| {
            ledger.accepted += 1;
            ledger.open += 1;
            ledger.open_most = ledger.open_most.max(ledger.open);
        });
        let (shared, script) = (Arc::clone(shared), Arc::clone(script));
        let converse = move || converse(stream, shared, script.as_ref());
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn(converse).expect("a thread can be started");
    }
}

fn converse<F>(stream: TcpStream, shared: Shared, script: &F)
where
    F: Fn(&mut Conversation) -> io::Result<()>,
{
    let mut conversation = Conversation {
        stream,
        buffer: vec![0; BUFFER_BYTES],
        kept: Vec::new(),
        saw_eof: false,
        left: false,
        shared,
    };
    let result = prepare(&conversation.stream).and_then(|()| script(&mut conversation));
    let seen = Seen {
        ending: conversation.ending(result),
        received: std::mem::take(&mut conversation.kept),
    };
    note(&conversation.shared, |ledger| {
        ledger.open -= usize::from(!conversation.left);
        ledger.seen.push(seen);
    });
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GUARD))?;
    stream.set_write_timeout(Some(GUARD))
}

fn note(shared: &Shared, change: impl FnOnce(&mut Ledger)) {
    change(&mut lock(shared));
    shared.1.notify_all();
}

fn wait_until(
    shared: &Shared,
    condition: impl Fn(&Ledger) -> bool,
) -> Option<MutexGuard<'_, Ledger>> {
    let deadline = Instant::now() + GUARD;
    let mut ledger = lock(shared);
    while !condition(&ledger) {
        let left = deadline.checked_duration_since(Instant::now())?;
        let waited = shared.1.wait_timeout(ledger, left);
        ledger = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
    }
    Some(ledger)
}

fn lock(shared: &Shared) -> MutexGuard<'_, Ledger> {
    // A test that fails while it looks at the ledger poisons it; the figures are whole all the same.
    shared
        .0
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
