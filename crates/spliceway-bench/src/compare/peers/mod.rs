//! The programs that are compared: how each is found, configured and started.
//!
//! To add one: a file beside this one with its [`Peer`], and a line in [`all`].

mod haproxy;
mod many;
mod neighbours;
mod nginx;
mod relay;
mod reloaded;
mod socat;
mod socket_proxyd;
mod spliceway;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) use self::haproxy::Haproxy;
pub(super) use self::many::{Many, Speaks};
pub(super) use self::neighbours::{Neighbours, PLACES};
pub(super) use self::nginx::{Stream as NginxStream, program as nginx_program};
pub(super) use self::reloaded::{Edition, Reloaded};
pub(super) use self::socket_proxyd::SocketProxyd;
pub(super) use self::spliceway::{CONTROL_SOCKET, Engine, Fastcgi, Guard, Order, Spliceway};

/// What every program is told to hold at most: above the 4,096 clients of the growth section, and low
/// enough that HAProxy, with two pipes for every fourth connection, needs under 16,384 descriptors.
pub(super) const CONNECTIONS_MAX: usize = 4_500;

/// The length of the queue in front of each listener.
pub(super) const BACKLOG: usize = 4_096;

/// How many threads a program may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Threads {
    /// Exactly so many, if it can be told.
    Exactly(usize),
    /// What it takes without being told, or what its packages configure.
    Default,
}

/// What a program is to do.
pub(super) struct Job<'a> {
    /// For its files. Others may enter it.
    pub(super) dir: &'a Path,
    /// Unix sockets to listen on; only spliceway takes more than one.
    pub(super) listen: &'a [PathBuf],
    /// Where to connect to; only spliceway takes more than one.
    pub(super) backends: &'a [SocketAddr],
    /// The backend's Unix socket; only spliceway connects to it, if it is to.
    pub(super) backend_socket: Option<&'a Path>,
    pub(super) threads: Threads,
}

impl Job<'_> {
    fn socket(&self) -> &Path {
        &self.listen[0]
    }

    fn backend(&self) -> SocketAddr {
        self.backends[0]
    }
}

/// A program that may be there.
pub(super) trait Peer {
    /// What `--peers` and the raw data call it.
    fn key(&self) -> String;
    /// What tables call it.
    fn name(&self) -> String;
    /// Where it is, or what would help.
    fn find(&self) -> Result<PathBuf, String>;
    /// As the program tells it.
    fn version(&self, program: &Path) -> String;
    /// Its threads when it is not told a number.
    fn threads_default(&self) -> &'static str;
    /// The command that serves in the foreground; its files are written by this.
    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command>;
    /// The most idle connections that are asked of it.
    fn idle_max(&self) -> usize {
        usize::MAX
    }
}

/// All of them, in the order of the tables; `haproxies` are further HAProxy programs.
pub(super) fn all(haproxies: &[PathBuf]) -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(SocketProxyd),
        Box::new(Haproxy::installed(haproxy::Bytes::Copied)),
        Box::new(Haproxy::installed(haproxy::Bytes::Spliced)),
    ];
    for program in haproxies {
        peers.push(Box::new(Haproxy::at(program, haproxy::Bytes::Copied)));
        peers.push(Box::new(Haproxy::at(program, haproxy::Bytes::Spliced)));
    }
    peers.push(Box::new(NginxStream));
    peers.push(Box::new(socat::Socat));
    peers.push(Box::new(relay::Relay));
    peers.push(Box::new(Spliceway::raw(Engine::IoUring)));
    peers.push(Box::new(Spliceway::raw(Engine::Epoll)));
    peers
}

/// spliceway's FastCGI mode, which does another work than the others: it has a section of its own.
pub(super) fn fastcgi() -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    for guard in [Guard::On, Guard::Off] {
        for engine in [Engine::IoUring, Engine::Epoll] {
            let route = Fastcgi {
                guard,
                endpoint_max: None,
            };
            peers.push(Box::new(Spliceway::fastcgi(engine, route)));
        }
    }
    let route = Fastcgi {
        guard: Guard::On,
        endpoint_max: None,
    };
    let local = Spliceway::fastcgi(Engine::IoUring, route).over_unix();
    peers.push(Box::new(local));
    peers
}

/// The first of `places` that exists, or how to get it.
pub(super) fn find_one(places: &[&str], package: &str) -> Result<PathBuf, String> {
    let mut found = places
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.exists());
    found
        .next()
        .ok_or_else(|| format!("{} is not there (apt-get install {package})", places[0]))
}

/// What a program writes when it is asked for its version, or nothing.
pub(super) fn output_of(program: &Path, argument: &str) -> String {
    let mut command = Command::new(program);
    let output = command.arg(argument).stdin(Stdio::null()).output();
    let Ok(output) = output else {
        return String::new();
    };
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    // nginx writes it to stderr.
    let _ = write!(text, "{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The word after `before` in a program's answer.
pub(super) fn word_after(text: &str, before: &str) -> String {
    let rest = text.split_once(before).map_or("", |(_, rest)| rest);
    let end = rest.find(|c: char| c.is_whitespace() || c == ',');
    let word = &rest[..end.unwrap_or(rest.len())];
    if word.is_empty() { "unknown" } else { word }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique() {
        let peers = all(&[]).into_iter().chain(fastcgi());
        let mut keys: Vec<String> = peers.map(|peer| peer.key()).collect();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn versions_are_read_from_what_programs_say() {
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(word_after(haproxy, "version "), "2.6.12-1+deb12u4");
        assert_eq!(
            word_after("nginx version: nginx/1.22.1\n", "nginx/"),
            "1.22.1"
        );
        assert_eq!(word_after("", "version "), "unknown");
    }
}
