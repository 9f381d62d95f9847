//! Where the daemon can be asked how it is: the control socket and the metrics address.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::config::{Access, Config, UnixAddress};
use crate::observe::Observed;
use crate::observe::server::{Listening, serve};
use crate::sys::{Errno, net};

use super::listener::{self, ListenError, Listener};

/// Whoever may open the control socket learns the addresses of all backends, and later may do more
/// than ask: that is for the daemon's own user.
const CONTROL_MODE: u32 = 0o600;

/// Both, if they are configured.
pub(super) struct Sites {
    control: Option<Listener>,
    metrics: Option<TcpListener>,
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
    /// Listens. To be called before threads start, as [`listener::bind`] is.
    pub(super) fn bind(config: &Config) -> Result<Self, SiteError> {
        let control = config.control.as_ref().map(|path| {
            let access = Access {
                mode: CONTROL_MODE,
                ..Access::default()
            };
            listener::bind(&UnixAddress::Path(path.clone()), &access)
        });
        let metrics = config.metrics.map(|address| {
            TcpListener::bind(address).map_err(|error| SiteError::Metrics {
                address,
                cause: error.into(),
            })
        });
        let sites = Self {
            control: control.transpose().map_err(SiteError::Control)?,
            metrics: metrics.transpose()?,
        };
        if let Some(control) = &sites.control {
            tracing::info!("control socket: {}", control.address());
        }
        if let Some(Ok(address)) = sites.metrics.as_ref().map(TcpListener::local_addr) {
            tracing::info!("metrics on http://{address}/metrics");
        }
        Ok(sites)
    }

    /// Answers for as long as the runtime runs. The control socket's file goes with `self`.
    pub(super) fn serve(
        &mut self,
        runtime: &Runtime,
        observed: &Arc<Observed>,
    ) -> Result<(), SiteError> {
        let _inside = runtime.enter();
        let wait = |site| move |source| SiteError::Wait { site, source };
        if let Some(listener) = &self.control {
            let listener = net::duplicate(listener.fd())
                .map(UnixListener::from)
                .and_then(tokio::net::UnixListener::from_std)
                .map_err(wait("the control socket"))?;
            runtime.spawn(serve(Listening::Control(listener), Arc::clone(observed)));
        }
        if let Some(listener) = self.metrics.take() {
            let listener = listener
                .set_nonblocking(true)
                .and_then(|()| tokio::net::TcpListener::from_std(listener))
                .map_err(wait("the metrics address"))?;
            runtime.spawn(serve(Listening::Metrics(listener), Arc::clone(observed)));
        }
        Ok(())
    }
}
