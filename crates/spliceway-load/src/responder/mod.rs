//! The FastCGI responder: the part that PHP-FPM plays elsewhere.
//!
//! A request says by parameters what it wants: [`PARAM_RESPONSE_BYTES`], [`PARAM_DELAY_US`], and
//! [`PARAM_NONCE`], with which its body is checked as well. A request without them gets 4 KiB at
//! once, whatever its body.
//!
//! Towards its clients it behaves like PHP-FPM ([`Like::Fpm`]): it serves one request at a time on a
//! connection, writes what PHP-FPM would write, each time as much (`fpm`), with Nagle's delay on,
//! keeps the connection if the client asks for it, ends it otherwise by a half-close and waits for
//! the client to close, answers FCGI_GET_VALUES between two requests, in a write of its own, and
//! leaves a body unread that CONTENT_LENGTH has not announced, which on a kept connection makes a
//! reset of its close. Unlike PHP-FPM it serves any number of connections on one thread, unless it is
//! told to be so many workers, and it never tires of a connection that brings no request.
//!
//! [`Like::Plain`] is what a responder could do at best.
//!
//! Answers are sent from a static table and never put together, so that thousands of connections
//! with large answers take little memory.

mod connection;
mod fpm;
mod request;
mod worker;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::Waker;

pub use self::fpm::Print;
pub use super::synthetic::{HEAD_LEN, PARAM_DELAY_US, PARAM_NONCE, PARAM_RESPONSE_BYTES};
use spliceway_common::sys::{net, process};
use worker::{Listener, Shared, Worker};

/// Connections that may wait to be accepted: as many as clients that come at once. The kernel takes
/// less if `net.core.somaxconn` is smaller.
const BACKLOG: i32 = 4096;

/// How a responder is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Listen on this TCP address; port 0 takes a free one.
    pub tcp: Option<SocketAddr>,
    /// Listen on this Unix socket.
    pub unix: Option<PathBuf>,
    /// Threads; one if not given.
    pub threads: Option<NonZeroUsize>,
    /// Behave like PHP-FPM with so many workers: one connection per worker, busy until the peer closes.
    pub workers: Option<NonZeroUsize>,
    /// How it reads, writes and closes.
    pub manner: Manner,
}

/// How connections are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Whom it resembles.
    pub like: Like,
    /// How the script hands its output over, which decides about writes like PHP-FPM's.
    pub print: Print,
}

/// Whom a responder resembles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Like {
    /// PHP-FPM: its records, writes and socket options, what it leaves unread, and how it closes.
    #[default]
    Fpm,
    /// Full records in as few writes as possible, without Nagle's delay; bodies are read to their end.
    Plain,
}

/// What a responder has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were answered.
    pub requests: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// The most connections that were open at one time.
    pub connections_most: usize,
    /// Connections that were closed because what came was not a request.
    pub refused: u64,
    /// What its threads have spent on processors; complete once they have ended.
    pub cpu: Duration,
}

/// One thread's counts. Only that thread writes them; whoever reads them sees each as it was a
/// moment ago, which is all that is promised.
#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    cpu_ns: AtomicU64,
}

impl Tally {
    fn opened(&self) {
        add(&self.connections, 1);
    }

    fn answered(&self, count: u64) {
        add(&self.requests, count);
    }

    fn refused(&self) {
        add(&self.refused, 1);
    }

    fn spent(&self, cpu: Duration) {
        let cpu_ns = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        self.cpu_ns.store(cpu_ns, Ordering::Relaxed);
    }
}

/// Cheaper than an atomic addition, and enough for one writer.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// A running responder; dropping it ends it.
#[derive(Debug)]
pub struct Responder {
    tcp: Option<SocketAddr>,
    unix: Option<PathBuf>,
    shared: Arc<Shared>,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    /// `None` once it was waited for.
    handle: Option<JoinHandle<()>>,
    waker: Arc<Waker>,
    tally: Arc<Tally>,
}

impl Responder {
    /// Starts it on threads of its own.
    ///
    /// # Errors
    /// What binding a socket or starting a thread gives.
    pub fn start(options: &Options) -> io::Result<Self> {
        let like = options.manner.like;
        let tcp = options.tcp.map(|address| listen_tcp(address, like));
        let tcp = tcp.transpose()?;
        let unix = options.unix.as_deref().map(listen_unix).transpose()?;
        let mut responder = Self {
            tcp: tcp.as_ref().map(TcpListener::local_addr).transpose()?,
            unix: options.unix.clone(),
            shared: Arc::new(Shared {
                ended: AtomicBool::new(false),
                open: AtomicUsize::new(0),
                open_most: AtomicUsize::new(0),
                workers: options.workers.map(NonZeroUsize::get),
                manner: options.manner,
            }),
            threads: Vec::new(),
        };
        let count = options.threads.map_or(1, NonZeroUsize::get);
        let workers = (0..count).map(|_| responder.prepare(tcp.as_ref(), unix.as_ref()));
        let workers = workers.collect::<io::Result<Vec<_>>>()?;
        let wakers: Vec<_> = workers
            .iter()
            .map(|(_, waker, _)| Arc::clone(waker))
            .collect();
        for (mut worker, waker, tally) in workers {
            worker.set_wakers(wakers.clone());
            responder.launch(worker, waker, tally)?;
        }
        Ok(responder)
    }

    /// Where it listens, if on TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Where it listens, if on a Unix socket.
    pub fn unix(&self) -> Option<&Path> {
        self.unix.as_deref()
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            connections_most: self.shared.open_most.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for Thread { tally, .. } in &self.threads {
            counts.requests += tally.requests.load(Ordering::Relaxed);
            counts.connections += tally.connections.load(Ordering::Relaxed);
            counts.refused += tally.refused.load(Ordering::Relaxed);
            counts.cpu += Duration::from_nanos(tally.cpu_ns.load(Ordering::Relaxed));
        }
        counts
    }

    /// Ends it, and tells all that it has done.
    #[must_use]
    pub fn stop(mut self) -> Counts {
        self.end();
        self.counts()
    }

    fn prepare(
        &self,
        tcp: Option<&TcpListener>,
        unix: Option<&UnixListener>,
    ) -> io::Result<(Worker, Arc<Waker>, Arc<Tally>)> {
        let tcp = tcp.map(TcpListener::try_clone).transpose()?;
        let unix = unix.map(UnixListener::try_clone).transpose()?;
        let tcp = tcp.map(|tcp| Listener::Tcp(mio::net::TcpListener::from_std(tcp)));
        let unix = unix.map(|unix| Listener::Unix(mio::net::UnixListener::from_std(unix)));
        let listeners = tcp.into_iter().chain(unix).collect();
        let tally = Arc::default();
        let (worker, waker) = Worker::new(listeners, Arc::clone(&self.shared), Arc::clone(&tally))?;
        Ok((worker, waker, tally))
    }

    fn launch(&mut self, worker: Worker, waker: Arc<Waker>, tally: Arc<Tally>) -> io::Result<()> {
        let spent = Arc::clone(&tally);
        let handle = thread::Builder::new()
            .name("responder".to_owned())
            .spawn(move || {
                worker.run();
                spent.spent(process::thread_cpu());
            })?;
        self.threads.push(Thread {
            handle: Some(handle),
            waker,
            tally,
        });
        Ok(())
    }

    fn end(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in &self.threads {
            thread
                .waker
                .wake()
                .expect("an eventfd of our own can be raised");
        }
        for thread in &mut self.threads {
            // A panic was printed by the thread itself; there is nothing to add.
            let _ = thread.handle.take().map(JoinHandle::join);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.end();
        if let Some(path) = &self.unix {
            // Whoever removed it before us did what we want.
            let _ = fs::remove_file(path);
        }
    }
}

fn listen_tcp(address: SocketAddr, like: Like) -> io::Result<TcpListener> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        net::set_backlog(listener.as_fd(), BACKLOG)?;
        match like {
            Like::Fpm => {}
            Like::Plain => net::set_nodelay(listener.as_fd())?,
        }
        Ok(listener)
    };
    listen().map_err(|error| named(&error, &format_args!("tcp:{address}")))
}

fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let listen = || {
        let listener = bind_unix(path)?;
        listener.set_nonblocking(true)?;
        net::set_backlog(listener.as_fd(), BACKLOG)?;
        Ok(listener)
    };
    listen().map_err(|error| named(&error, &format_args!("unix:{}", path.display())))
}

/// Binds it; takes the place of a socket file on which nobody listens.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let error = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound,
    };
    match UnixStream::connect(path) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        Ok(_) | Err(_) => Err(error),
    }
}

fn named(error: &io::Error, object: &impl std::fmt::Display) -> io::Error {
    io::Error::new(error.kind(), format!("listen on {object}: {error}"))
}

#[cfg(test)]
mod tests;
