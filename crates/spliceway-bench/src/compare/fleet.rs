//! The responder and the programs in front of it, all running side by side: idle ones cost nothing,
//! and none has a cold start in its figures.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use spliceway_load::load::Target;

use super::ground::RESPONDER_PORT;
use super::link::Link;
use super::peers::{Job, Peer, Threads};
use super::results::{DIRECT_TCP, LinkUse, PathInfo};
use super::server::Server;

/// The path without a program, over a Unix socket.
pub(super) const DIRECT_UNIX: &str = "unix";

/// The path without a program over TCP, with a new connection for each request even where others keep
/// theirs.
pub(super) const DIRECT_TCP_NEW: &str = "tcp-new";

/// Where the responder is reached over TCP, unless it is behind a link.
pub(super) const RESPONDER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), RESPONDER_PORT);

/// The responder, and every path to it.
pub(super) struct Fleet {
    // Programs end before the responder, and that before the link: fields are dropped in this order.
    programs: Vec<Program>,
    responder: Server,
    /// Where the responder is reached over TCP.
    address: SocketAddr,
    /// What is between the responder and everything else, if anything is.
    link: Option<Link>,
}

/// One program between the client and the responder.
struct Program {
    peer: Box<dyn Peer>,
    key: String,
    shape: Shape,
    /// Why it cannot be measured, if so.
    found: Result<PathBuf, String>,
    server: Option<Server>,
}

/// How a program is set up.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) threads: Threads,
    pub(super) listeners: usize,
    pub(super) backends: Vec<SocketAddr>,
    /// The backend's Unix socket. `None`: the responder's.
    pub(super) backend_socket: Option<PathBuf>,
}

impl Shape {
    /// One listener, one backend.
    pub(super) fn plain(threads: Threads) -> Self {
        Self {
            threads,
            listeners: 1,
            backends: vec![RESPONDER],
            backend_socket: None,
        }
    }
}

impl Fleet {
    /// Starts the responder. Programs are started when they are first asked for.
    pub(super) fn start(responder_threads: usize) -> anyhow::Result<Self> {
        let responder = Server::start(
            |dir| {
                let mut command = respond(RESPONDER_PORT, responder_threads)?;
                command.arg(format!("--listen=unix:{}", responder_socket(dir).display()));
                Ok(command)
            },
            |dir| {
                TcpStream::connect(RESPONDER).is_ok()
                    && UnixStream::connect(responder_socket(dir)).is_ok()
            },
        )
        .context("the FastCGI responder")?;
        Ok(Self {
            programs: Vec::new(),
            responder,
            address: RESPONDER,
            link: None,
        })
    }

    /// Starts the responder behind a link, where it has no Unix socket.
    pub(super) fn start_behind(link: Link, responder_threads: usize) -> anyhow::Result<Self> {
        let address = Link::address(RESPONDER_PORT);
        let start = || {
            Server::start(
                |_| Ok(respond(RESPONDER_PORT, responder_threads)?),
                |_| TcpStream::connect(address).is_ok(),
            )
        };
        let responder = link.beyond(start)?;
        Ok(Self {
            programs: Vec::new(),
            responder: responder.context("the FastCGI responder behind a link")?,
            address,
            link: Some(link),
        })
    }

    /// What its link has done so far, if it has one.
    pub(super) fn link_used(&self) -> anyhow::Result<Option<LinkUse>> {
        self.link.as_ref().map(Link::used).transpose()
    }

    /// Where the responder is reached over TCP.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a path through `peer`.
    pub(super) fn add(&mut self, key: &str, peer: Box<dyn Peer>, mut shape: Shape) {
        let of_responder = || responder_socket(self.responder.dir());
        shape.backend_socket.get_or_insert_with(of_responder);
        self.programs.push(Program {
            found: peer.find(),
            key: key.to_owned(),
            peer,
            shape,
            server: None,
        });
    }

    /// Ends the program on a path and forgets it.
    pub(super) fn remove(&mut self, key: &str) {
        self.programs.retain(|program| program.key != key);
    }

    /// The paths that can be measured: the direct ones first.
    pub(super) fn paths(&self) -> Vec<String> {
        let direct = [DIRECT_TCP, DIRECT_UNIX].map(str::to_owned);
        let there = self.programs.iter().filter(|program| program.found.is_ok());
        direct
            .into_iter()
            .chain(there.map(|program| program.key.clone()))
            .collect()
    }

    /// All paths, in the same order.
    pub(super) fn describe(&self) -> Vec<PathInfo> {
        let direct = |key: &str, name: &str| PathInfo {
            key: key.to_owned(),
            name: name.to_owned(),
            version: String::new(),
            threads_default: String::new(),
            missing: None,
        };
        let mut infos = vec![
            direct(DIRECT_TCP, "direct, TCP"),
            direct(DIRECT_UNIX, "direct, Unix"),
        ];
        infos.extend(self.programs.iter().map(Program::describe));
        infos
    }

    /// Where a path begins. A program that is not running is started.
    pub(super) fn target(&mut self, key: &str) -> anyhow::Result<Target> {
        match key {
            DIRECT_TCP | DIRECT_TCP_NEW => Ok(Target::Tcp(self.address)),
            DIRECT_UNIX => Ok(Target::Unix(responder_socket(self.responder.dir()))),
            key => {
                let mut programs = self.programs.iter_mut();
                let program = programs
                    .find(|program| program.key == key)
                    .ok_or_else(|| anyhow!("there is no path {key}"))?;
                program.target().map(Target::Unix)
            }
        }
    }

    /// Where the files of the program on a path are, if it runs.
    pub(super) fn dir(&self, key: &str) -> Option<&Path> {
        Some(self.server(key)?.dir())
    }

    /// Of the program on a path; direct ones have none.
    pub(super) fn cpu(&self, key: &str) -> anyhow::Result<Option<Duration>> {
        let cpu = self.server(key).map(|server| server.ledger().cpu());
        cpu.transpose().context("read the program's CPU time")
    }

    pub(super) fn responder_cpu(&self) -> anyhow::Result<Duration> {
        let cpu = self.responder.ledger().cpu();
        cpu.context("read the responder's CPU time")
    }

    pub(super) fn memory_kb(&self, key: &str) -> Option<u64> {
        self.server(key)?.ledger().memory_kb().ok()
    }

    /// The most idle connections that a path is asked to hold.
    pub(super) fn idle_max(&self, key: &str) -> usize {
        self.program(key)
            .map_or(usize::MAX, |program| program.peer.idle_max())
    }

    /// Ends the program on a path; it is started anew when it is next asked for.
    pub(super) fn stop(&mut self, key: &str) {
        let mut programs = self.programs.iter_mut();
        if let Some(program) = programs.find(|program| program.key == key) {
            program.server = None;
        }
    }

    /// Has a program started with another number of threads when it is next asked for.
    pub(super) fn set_threads(&mut self, key: &str, threads: Threads) {
        let mut programs = self.programs.iter_mut();
        if let Some(program) = programs.find(|program| program.key == key) {
            program.shape.threads = threads;
            program.server = None;
        }
    }

    /// Sends the program on a path a signal.
    pub(super) fn signal(&mut self, key: &str, signal: libc::c_int) -> anyhow::Result<()> {
        let mut programs = self.programs.iter_mut();
        let program = programs.find(|program| program.key == key);
        let server = program.and_then(|program| program.server.as_mut());
        let server = server.ok_or_else(|| anyhow!("{key} does not run"))?;
        server
            .signal(signal)
            .with_context(|| format!("send {key} signal {signal}, saying: {}", server.said()))
    }

    /// Ends a program that is stuck; it is started anew when it is next asked for.
    pub(super) fn kill(&mut self, key: &str) {
        let mut programs = self.programs.iter_mut();
        if let Some(program) = programs.find(|program| program.key == key)
            && let Some(server) = &mut program.server
        {
            server.kill();
        }
    }

    fn program(&self, key: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.key == key)
    }

    fn server(&self, key: &str) -> Option<&Server> {
        self.program(key)?.server.as_ref()
    }
}

impl Program {
    fn describe(&self) -> PathInfo {
        let version = |program: &PathBuf| self.peer.version(program);
        PathInfo {
            key: self.key.clone(),
            name: self.peer.name(),
            version: self.found.as_ref().map_or_else(|_| String::new(), version),
            threads_default: self.peer.threads_default().to_owned(),
            missing: self.found.as_ref().err().cloned(),
        }
    }

    fn target(&mut self) -> anyhow::Result<PathBuf> {
        if let Some(server) = &mut self.server
            && !server.is_running()
        {
            self.server = None;
        }
        let server = match &mut self.server {
            Some(server) => server,
            none => none.insert(Self::launch(&*self.peer, &self.found, &self.shape)?),
        };
        // The last one was bound last.
        Ok(listener(server.dir(), self.shape.listeners - 1))
    }

    fn launch(
        peer: &dyn Peer,
        found: &Result<PathBuf, String>,
        shape: &Shape,
    ) -> anyhow::Result<Server> {
        let program = found.as_ref().map_err(|missing| anyhow!("{missing}"))?;
        let last = shape.listeners - 1;
        Server::start(
            |dir| {
                let listen: Vec<PathBuf> = (0..=last).map(|number| listener(dir, number)).collect();
                Ok(peer.command(
                    program,
                    &Job {
                        dir,
                        listen: &listen,
                        backends: &shape.backends,
                        backend_socket: shape.backend_socket.as_deref(),
                        threads: shape.threads,
                    },
                )?)
            },
            |dir| UnixStream::connect(listener(dir, last)).is_ok(),
        )
    }
}

/// The sockets of a program, from 0 on; targets are the last ones.
pub(super) fn listener(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{number}.sock"))
}

fn responder_socket(dir: &Path) -> PathBuf {
    dir.join("responder.sock")
}

/// This program as the responder.
pub(super) fn respond(port: u16, threads: usize) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("respond")
        // Every loopback address: endpoints of their own.
        .arg(format!("--listen=tcp:0.0.0.0:{port}"))
        .arg(format!("--threads={threads}"));
    Ok(command)
}
