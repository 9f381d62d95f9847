//! From the configuration of upstreams to what the data path uses of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::backend::Published;
use crate::checks::{self, Checks, Consequence};
use crate::config;
use crate::proxy_protocol::{self, Version};
use crate::session::Introduction;
use crate::sys::Errno;
use crate::sys::net::{self, Keepalive, Source, TcpOptions};

use super::helpers::Helpers;
use super::listening::Place;
use super::socket_files::WakeFiles;

/// Probes without an answer before the connection is given up. With an interval of a third of the
/// idle time, a peer that is gone is noticed after twice that time, and two lost probes do no harm.
const KEEPALIVE_PROBES: u16 = 3;

/// A source address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "connect from --source-address {address}: {errno} (give an address that this machine has, or \
     leave the option out)"
)]
pub struct SourceError {
    address: IpAddr,
    errno: Errno,
}

/// What the control plane checks, if anything.
pub(super) fn checks(config: &config::Upstreams) -> Option<Checks> {
    let config::ActiveChecks { kind, interval } = config.checks?;
    let version = config.proxy_protocol.version();
    Some(Checks {
        kind,
        interval,
        tcp: tcp_options(config),
        introduction: version.map(proxy_protocol::of_check).unwrap_or_default(),
    })
}

/// Starts a route's active checks, if there are any: dropped, what is returned ends them. To be called on the
/// runtime.
pub(super) fn start_checks(
    config: &config::Route,
    published: &Arc<Published>,
    helpers: &Helpers,
) -> Option<oneshot::Sender<()>> {
    let checks = checks(&config.upstreams)?;
    let (wanted, is_wanted) = oneshot::channel();
    let checks = checks::run(Arc::clone(published), checks);
    helpers.spawn_while("the task of active checks", is_wanted, checks);
    Some(wanted)
}

/// Starts to watch whether any endpoint of a route takes connections, if its clients are not to wait for one: dropped,
/// what is returned ends that. Sockets' files are looked at when an outage begins or ends. To be called on the runtime.
pub(super) fn start_watch(
    config: &config::Route,
    published: &Arc<Published>,
    (helpers, files): (&Helpers, &WakeFiles),
) -> Option<oneshot::Sender<()>> {
    let when_down = config.upstreams.when_down;
    if when_down == config::WhenDown::Wait {
        return None;
    }
    let version = config.upstreams.proxy_protocol.version();
    let probes = Checks {
        // Whether it answers as it should is what active checks are about.
        kind: config::CheckKind::Tcp,
        interval: checks::OUTAGE_PROBE_INTERVAL,
        tcp: tcp_options(&config.upstreams),
        introduction: version.map(proxy_protocol::of_check).unwrap_or_default(),
    };
    let (wanted, is_wanted) = oneshot::channel();
    let files = files.clone();
    let consequence = Consequence {
        when_down,
        has_changed: Box::new(move || files.wake()),
    };
    let watch = checks::watch_outages(Arc::clone(published), probes, consequence);
    helpers.spawn_while("the task that watches for outages", is_wanted, watch);
    Some(wanted)
}

/// What the sockets to backends are given.
pub(super) fn tcp_options(config: &config::Upstreams) -> TcpOptions {
    TcpOptions {
        keepalive: config.tcp_keepalive.map(keepalive),
        user_timeout: config.tcp_user_timeout,
        source: Source {
            v4: config.source.v4,
            v6: config.source.v6,
        },
    }
}

fn keepalive(idle: Duration) -> Keepalive {
    let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX).max(1);
    Keepalive {
        idle_seconds: seconds(idle),
        interval_seconds: seconds(idle / u32::from(KEEPALIVE_PROBES)),
        count: KEEPALIVE_PROBES,
    }
}

/// What backends are told of the clients of this listener.
pub(super) fn introduction(version: Option<Version>, listener: &Place) -> Introduction {
    let Some(version) = version else {
        return Introduction::None;
    };
    let name = match listener {
        Place::Tcp(_) => return Introduction::OfClient(version),
        Place::Path(path) => path.clone(),
        Place::Abstract(name) => [b"\0", &name[..]].concat(),
        Place::Unnamed => Vec::new(),
    };
    Introduction::Fixed(proxy_protocol::of_unix_listener(version, &name).into())
}

/// Whether connections can come from where they shall: else no session would ever be served, and the
/// start is the time to say so.
pub(super) fn check_source(config: &config::Upstreams) -> Result<(), SourceError> {
    let options = tcp_options(config);
    for address in config.source.iter() {
        net::tcp_socket(&SocketAddr::new(address, 0), &options)
            .map_err(|errno| SourceError { address, errno })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_peer_is_noticed_after_twice_the_time() {
        for (idle, expected) in [(60, (60, 20)), (1, (1, 1)), (32_400, (32_400, 10_800))] {
            let keepalive = keepalive(Duration::from_secs(idle));
            let seconds = (keepalive.idle_seconds, keepalive.interval_seconds);
            assert_eq!(seconds, expected);
        }
    }

    #[test]
    fn an_abstract_listener_is_named_with_its_nul() {
        let told = introduction(Some(Version::V2), &Place::Abstract(b"name".to_vec()));
        let Introduction::Fixed(header) = told else {
            panic!("{told:?}")
        };
        assert_eq!(&header[124..130], b"\0name\0");
    }

    #[test]
    fn a_source_that_is_not_ours_is_named() {
        let mut config = config::Upstreams::default();
        check_source(&config).unwrap();
        config.source.v4 = Some([127, 0, 0, 77].into());
        check_source(&config).unwrap();
        // For documentation: no machine has it.
        config.source.v4 = Some([192, 0, 2, 1].into());
        let error = check_source(&config).unwrap_err().to_string();
        assert!(error.contains("--source-address 192.0.2.1: "), "{error}");
    }
}
