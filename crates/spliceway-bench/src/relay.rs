//! `spliceway-bench relay`: the relay that a Rust user would write with tokio-uring, as a baseline.
//!
//! One thread, a task for each connection, two loops that copy through owned buffers. It is written
//! as well as that library allows and no better: nothing here is shared with what it is compared
//! with, except how the socket is bound.
//!
//! tokio-uring 0.5.0 is from 2024 and has had no maintainer since; it is here to be measured, and
//! nothing else in this package may use it. Its own Unix listener sets SO_REUSEPORT, which newer
//! kernels refuse for AF_UNIX (EOPNOTSUPP on 6.18), so accepting goes through tokio's readiness, and
//! all else through the ring.

use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::unix::net as std_unix;
use std::time::Duration;

use anyhow::Context as _;
use spliceway::cli::values;
use spliceway::config::{Access, UnixAddress};
use spliceway::daemon::listener::{self, Listener};
use spliceway_common::sys::process;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio_uring::BufResult;
use tokio_uring::buf::{BoundedBuf as _, Slice};
use tokio_uring::net::{TcpStream, UnixStream};

/// The largest buffer: what a pipe of the proxy holds is a quarter of it.
const BUFFER_BYTES_MAX: u64 = 1 << 20;

/// How long accepting pauses when there is no descriptor for another client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What `relay` can be told.
#[derive(clap::Args)]
pub(crate) struct RelayArgs {
    /// Where clients connect
    #[arg(long, value_name = "unix:PATH")]
    listen: UnixAddress,
    /// The backend; its name is resolved once
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Of each of a connection's two buffers
    #[arg(long, value_name = "SIZE", default_value = "16KiB",
          value_parser = values::size(BUFFER_BYTES_MAX))]
    buffer_bytes: u64,
}

/// Relays until told to stop.
pub(crate) fn run(args: &RelayArgs) -> anyhow::Result<()> {
    let backend = resolve(&args.to)?;
    let buffer_bytes = usize::try_from(args.buffer_bytes)?;
    anyhow::ensure!(buffer_bytes > 0, "--buffer-bytes must be at least 1");
    process::raise_descriptors_max().context("raise the limit of open descriptors")?;
    let access = Access {
        mode: Access::MODE_DEFAULT,
        owner: None,
        group: None,
    };
    // Dropped last: that removes the socket file.
    let mut listener = listener::bind(&args.listen, &access)?;
    listener.listen()?;
    let relay = Relay {
        backend,
        buffer_bytes,
    };
    tokio_uring::start(relay.serve(&listener)).context("relay")
}

fn resolve(backend: &str) -> anyhow::Result<SocketAddr> {
    let unusable = || format!("--to {backend}: not an address that can be used");
    let mut addresses = backend.to_socket_addrs().with_context(unusable)?;
    addresses.next().with_context(unusable)
}

/// What every connection needs.
#[derive(Clone, Copy)]
struct Relay {
    backend: SocketAddr,
    buffer_bytes: usize,
}

impl Relay {
    /// Serves until a signal says stop. What runs then is cut.
    async fn serve(self, listener: &Listener) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            ended = self.accept_all(listener) => ended,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    }

    async fn accept_all(self, listener: &Listener) -> io::Result<()> {
        let listener = std_unix::UnixListener::from(listener.fd().try_clone_to_owned()?);
        #[allow(
            deprecated,
            reason = "its successor is unsafe for types that may lie about their descriptor; the \
                      standard library's do not"
        )]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        loop {
            let mut ready = listener.readable().await?;
            match ready.try_io(|listener| listener.get_ref().accept()) {
                Ok(Ok((client, _))) => {
                    tokio_uring::spawn(self.session(client));
                }
                Ok(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
                Err(_would_block) => {}
            }
        }
    }

    /// One connection. A failure is told to its two peers by closing, and to nobody else.
    async fn session(self, client: std_unix::UnixStream) {
        let client = UnixStream::from_std(client);
        let Ok(backend) = TcpStream::connect(self.backend).await else {
            return;
        };
        if backend.set_nodelay(true).is_err() {
            return;
        }
        let both = tokio::try_join!(self.copy(&client, &backend), self.copy(&backend, &client),);
        if both.is_err() {
            // The other direction's op is still in flight and keeps its socket open until it ends.
            let _ = client.shutdown(Shutdown::Both);
            let _ = backend.shutdown(Shutdown::Both);
        }
    }

    /// One direction, to its end, which is passed on.
    async fn copy(self, from: &impl Stream, to: &impl Stream) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(self.buffer_bytes);
        loop {
            let (result, received) = from.read(buffer).await;
            let count = result?;
            if count == 0 {
                return to.shutdown_write();
            }
            let (result, sent) = to.write_all(received.slice(..count)).await;
            result?;
            buffer = sent.into_inner();
        }
    }
}

/// What the library's two kinds of streams have in common.
trait Stream {
    async fn read(&self, buffer: Vec<u8>) -> BufResult<usize, Vec<u8>>;
    async fn write_all(&self, bytes: Slice<Vec<u8>>) -> BufResult<(), Slice<Vec<u8>>>;
    fn shutdown_write(&self) -> io::Result<()>;
}

macro_rules! impl_stream {
    ($($stream:ty),+) => {
        $(impl Stream for $stream {
            async fn read(&self, buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
                <$stream>::read(self, buffer).await
            }

            async fn write_all(&self, bytes: Slice<Vec<u8>>) -> BufResult<(), Slice<Vec<u8>>> {
                <$stream>::write_all(self, bytes).await
            }

            fn shutdown_write(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        })+
    };
}

impl_stream!(UnixStream, TcpStream);
