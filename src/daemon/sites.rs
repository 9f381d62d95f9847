//! Where the daemon can be asked how it is: the control socket, where it also takes commands, and the metrics
//! address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time;

use crate::commands::Commander;
use crate::config::{Access, Config, UnixAddress};
use crate::observe::Observed;
use crate::observe::server::{SiteListener, serve};
use crate::sys::{Errno, net};

use super::helpers::Helpers;
use super::listener::{self, ListenError, Listener, SocketFile};
use super::privileges::Identity;
use super::succession::{Offered, Takes};

/// Whoever may open the control socket learns the addresses of all backends: that is for the user as whom the
/// daemon runs, to whom it is given. The same user, and root, may command.
const CONTROL_MODE: u32 = 0o600;

/// How long a daemon whose place was taken goes on answering those who have come to it, when it has nothing else to do:
/// as long as the head of a request may take, and a moment for the answer.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections to the metrics address that may wait, as with the standard library.
const METRICS_BACKLOG: u32 = 128;

/// Both, if they are configured.
pub(super) struct Sites {
    control: Option<Listener>,
    metrics: Option<Metrics>,
    /// Whether what clients send is shown there.
    status_details: bool,
    /// Where that listens: the kernel may have chosen the port.
    metrics_at: Option<SocketAddr>,
    /// Its socket, for a successor.
    metrics_socket: Option<OwnedFd>,
    /// Told when the daemon is not to be asked any more.
    open: Option<watch::Sender<()>>,
    /// The same of the control socket, which may be replaced.
    control_open: Option<watch::Sender<()>>,
    /// Of those where nobody new is let in: closed when all who have come are answered.
    closing: Vec<watch::Sender<()>>,
    /// Where the control socket's commands go.
    commander: Commander,
}

/// Bound, and later listening.
enum Metrics {
    Bound(TcpSocket, SocketAddr),
    /// It listens already, as another process's.
    TakenOver(OwnedFd, SocketAddr),
    Listening(TcpListener),
}

/// Why the daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SiteError {
    #[error("the control socket")]
    Control(#[source] ListenError),
    #[error("bind {address} for metrics: {cause} ({remedy})", remedy = remedy(*cause))]
    Metrics { address: SocketAddr, cause: Errno },
    #[error("wait for connections to {site}")]
    Wait {
        site: &'static str,
        source: io::Error,
    },
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno(libc::EADDRINUSE) => "another program has this port; stop it or choose another one",
        Errno(libc::EADDRNOTAVAIL) => "this machine does not have that address",
        Errno(libc::EACCES) => "choose a port from 1024 on",
        _ => "choose another --metrics address",
    }
}

impl Sites {
    /// Binds, and listens on nothing yet. To be called before threads start, as [`listener::bind`] is.
    pub(super) fn bind(
        config: &Config,
        identity: Option<&Identity>,
        commander: Commander,
        offered: &mut Offered,
    ) -> Result<Self, SiteError> {
        let control = config.control.as_ref().map(|path| {
            let access = Access {
                mode: CONTROL_MODE,
                ..Access::default()
            };
            let access = match identity {
                Some(identity) => identity.own(access),
                None => access,
            };
            let address = UnixAddress::Path(path.clone());
            match offered.take_control(&address, &access) {
                Some(control) => Ok(control),
                None => listener::bind(&address, &access),
            }
        });
        let metrics = config
            .metrics
            .map(|address| match offered.take_metrics(address) {
                Some(socket) => Ok(Metrics::TakenOver(socket, address)),
                None => bind_metrics(address),
            });
        Ok(Self {
            control: control.transpose().map_err(SiteError::Control)?,
            metrics: metrics.transpose()?,
            status_details: config.status_details,
            metrics_at: None,
            metrics_socket: None,
            open: None,
            control_open: None,
            closing: Vec::new(),
            commander,
        })
    }

    /// Lets in who asks.
    pub(super) fn listen(&mut self, runtime: &Runtime) -> Result<(), SiteError> {
        if let Some(control) = &mut self.control {
            control.listen().map_err(SiteError::Control)?;
        }
        let _inside = runtime.enter();
        let listener = match self.metrics.take() {
            Some(Metrics::Bound(socket, address)) => {
                let listening = socket.listen(METRICS_BACKLOG);
                Some(listening.map_err(|error| metrics_error(address, error))?)
            }
            Some(Metrics::TakenOver(socket, address)) => {
                let listener = std::net::TcpListener::from(socket);
                let listening = listener.set_nonblocking(true);
                let listening = listening.and_then(|()| TcpListener::from_std(listener));
                Some(listening.map_err(|error| metrics_error(address, error))?)
            }
            Some(Metrics::Listening(listener)) => Some(listener),
            None => None,
        };
        if let Some(listener) = &listener {
            let socket = net::duplicate(listener.as_fd());
            self.metrics_at = listener.local_addr().ok();
            self.metrics_socket = Some(socket.map_err(|source| SiteError::Wait {
                site: "the metrics address",
                source,
            })?);
        }
        self.metrics = listener.map(Metrics::Listening);
        Ok(())
    }

    /// Says where they are.
    pub(super) fn announce(&self) {
        if let Some(control) = &self.control {
            tracing::info!("control socket: {}", control.address());
        }
        if let Some(address) = self.metrics_at {
            tracing::info!(
                "metrics on http://{address}/metrics, and the status page on http://{address}/"
            );
        }
    }

    /// Answers until [`Sites::give_up`]. The control socket's file goes with `self`.
    pub(super) fn serve(
        &mut self,
        runtime: &Runtime,
        observed: &Arc<Observed>,
        helpers: &Helpers,
    ) -> Result<(), SiteError> {
        let _inside = runtime.enter();
        if let Some(listener) = &self.control {
            let open = serve_control(listener, observed, &self.commander, helpers);
            self.control_open = Some(open.map_err(|source| SiteError::Wait {
                site: "the control socket",
                source,
            })?);
        }
        if let Some(Metrics::Listening(listener)) = self.metrics.take() {
            let (open, is_open) = watch::channel(());
            self.open = Some(open);
            let listening = SiteListener::Metrics(listener, self.status_details);
            let answers = serve(listening, Arc::clone(observed), is_open);
            helpers.spawn("the task that answers on the metrics address", answers);
        }
        Ok(())
    }

    /// The control socket's file, to look after it.
    pub(super) fn control_file(&self) -> Option<&SocketFile> {
        self.control.as_ref().and_then(Listener::socket_file)
    }

    /// Another control socket at the same path takes the place of the one before, which answers those who have
    /// connected to it. To be called on the runtime.
    ///
    /// # Errors
    /// If there is no descriptor for it: then its path is free again.
    pub(super) fn replace_control(
        &mut self,
        listener: Listener,
        observed: &Arc<Observed>,
        helpers: &Helpers,
    ) -> io::Result<()> {
        let open = serve_control(&listener, observed, &self.commander, helpers)?;
        if let Some(old) = self.control.replace(listener) {
            old.retire();
        }
        self.control_open = Some(open);
        Ok(())
    }

    /// A control socket that was taken over is ours from now on.
    pub(super) fn own(&mut self) {
        self.control.iter_mut().for_each(Listener::own);
    }

    /// The control socket, if there is one.
    pub(super) fn control(&self) -> Option<&Listener> {
        self.control.as_ref()
    }

    /// The socket of the metrics address, if there is one, and where it listens.
    pub(super) fn metrics(&self) -> Option<(SocketAddr, BorrowedFd<'_>)> {
        let socket = self.metrics_socket.as_ref()?;
        Some((self.metrics_at?, socket.as_fd()))
    }

    /// Another process has some of both from now on: they stay as they are, and who asks already is answered.
    pub(super) fn hand_over(&mut self, takes: &Takes) {
        if takes.control
            && let Some(control) = self.control.take()
        {
            control.leave();
        }
        self.give_up();
    }

    /// Another process was about to have some of both, and has not come to that.
    pub(super) fn take_back(&mut self, takes: &Takes) {
        if let Some(control) = &mut self.control
            && takes.control
        {
            control.take_back();
        }
    }

    /// A successor may have both places from now on: nobody new is let in, and who asks already is answered.
    pub(super) fn give_up(&mut self) {
        if let Some(control) = &mut self.control {
            control.unlink_if_ours();
            control.refuse_newcomers();
        }
        self.metrics_socket = None;
        let both = [self.open.take(), self.control_open.take()];
        for open in both.into_iter().flatten() {
            open.send_replace(());
            self.closing.push(open);
        }
    }

    /// After [`Sites::hand_over`]: returns when all who had come here are answered, or have taken too long.
    pub(super) async fn give_last_answers(&self) {
        let answered = async {
            for open in &self.closing {
                open.closed().await;
            }
        };
        if time::timeout(LAST_ANSWERS_TIMEOUT, answered).await.is_err() {
            tracing::debug!("not all who asked how the daemon is took their answers in time");
        }
    }
}

/// Answers there until what it returns is dropped. To be called on the runtime.
fn serve_control(
    listener: &Listener,
    observed: &Arc<Observed>,
    commander: &Commander,
    helpers: &Helpers,
) -> io::Result<watch::Sender<()>> {
    let listener = net::duplicate(listener.fd())
        .map(UnixListener::from)
        .and_then(tokio::net::UnixListener::from_std)?;
    let (open, is_open) = watch::channel(());
    let listening = SiteListener::Control(listener, commander.clone());
    let answers = serve(listening, Arc::clone(observed), is_open);
    helpers.spawn("the task that answers on the control socket", answers);
    Ok(open)
}

/// As the standard library does it, but for the last step: a port may be taken again at once after its last
/// owner's end.
fn bind_metrics(address: SocketAddr) -> Result<Metrics, SiteError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    match bind() {
        Ok(socket) => Ok(Metrics::Bound(socket, address)),
        Err(error) => Err(metrics_error(address, error)),
    }
}

fn metrics_error(address: SocketAddr, error: io::Error) -> SiteError {
    SiteError::Metrics {
        address,
        cause: error.into(),
    }
}
