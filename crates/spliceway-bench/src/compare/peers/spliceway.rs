//! spliceway itself: the program beside this one.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{CONNECTIONS_MAX, Job, Peer, Threads, output_of, word_after};

/// Which of its drivers it uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Engine {
    IoUring,
    Epoll,
}

impl Engine {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// What it makes of the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Nothing.
    Raw,
    /// Requests.
    Fastcgi(Fastcgi),
}

/// A FastCGI route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Fastcgi {
    pub(in super::super) guard: Guard,
    /// `--per-endpoint-max`, if there is one.
    pub(in super::super) endpoint_max: Option<usize>,
}

/// Whether parameters are checked, which is the default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Guard {
    On,
    Off,
}

/// One route.
pub(in super::super) struct Spliceway {
    engine: Engine,
    protocol: Protocol,
    /// Whether it connects to the backend's Unix socket.
    over_unix: bool,
    /// Whether it has a control socket.
    controlled: bool,
    /// `--queue-order`, if it is told.
    order: Option<Order>,
}

/// In which order it serves requests that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Order {
    Fifo,
    Adaptive,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Adaptive => "adaptive",
        }
    }
}

/// What its control socket is called.
pub(in super::super) const CONTROL_SOCKET: &str = "control.sock";

impl Spliceway {
    /// Bytes are relayed.
    pub(in super::super) fn raw(engine: Engine) -> Self {
        Self {
            engine,
            protocol: Protocol::Raw,
            over_unix: false,
            controlled: false,
            order: None,
        }
    }

    /// Connections of the backend are kept and shared.
    pub(in super::super) fn fastcgi(engine: Engine, fastcgi: Fastcgi) -> Self {
        Self {
            engine,
            protocol: Protocol::Fastcgi(fastcgi),
            over_unix: false,
            controlled: false,
            order: None,
        }
    }

    /// With a backend on the same machine, by its Unix socket.
    pub(in super::super) fn over_unix(self) -> Self {
        Self {
            over_unix: true,
            ..self
        }
    }

    /// Serving requests that wait in this order.
    pub(in super::super) fn ordered(self, order: Order) -> Self {
        Self {
            order: Some(order),
            ..self
        }
    }

    /// With a control socket, which answers for its figures.
    pub(in super::super) fn controlled(self) -> Self {
        Self {
            controlled: true,
            ..self
        }
    }
}

impl Peer for Spliceway {
    fn key(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Raw => "spliceway",
            Protocol::Fastcgi(_) => "fastcgi",
        };
        let engine = match self.engine {
            Engine::IoUring => "",
            Engine::Epoll => "-epoll",
        };
        let guard = match self.protocol {
            Protocol::Fastcgi(Fastcgi {
                guard: Guard::Off, ..
            }) => "-unguarded",
            Protocol::Raw | Protocol::Fastcgi(_) => "",
        };
        let backend = if self.over_unix { "-unix" } else { "" };
        format!("{protocol}{engine}{guard}{backend}")
    }

    fn name(&self) -> String {
        let engine = self.engine.word();
        let name = match self.protocol {
            Protocol::Raw => format!("spliceway raw, {engine}"),
            Protocol::Fastcgi(fastcgi) => match fastcgi.guard {
                Guard::On => format!("spliceway FastCGI, {engine}"),
                Guard::Off => format!("spliceway FastCGI, {engine}, guard off"),
            },
        };
        match self.over_unix {
            true => format!("{name}, Unix backend"),
            false => name,
        }
    }

    fn find(&self) -> Result<PathBuf, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let program = own.with_file_name("spliceway");
        if program.exists() {
            Ok(program)
        } else {
            Err(format!(
                "{} is not there (cargo build --release)",
                program.display()
            ))
        }
    }

    fn version(&self, program: &Path) -> String {
        word_after(&output_of(program, "--version"), "spliceway ")
    }

    fn threads_default(&self) -> &'static str {
        "a worker per core"
    }

    fn command(&self, program: &Path, job: &Job<'_>) -> io::Result<Command> {
        let mut command = Command::new(program);
        command.args(["run", "--log-level=warn", "--mode=0666"]);
        for path in job.listen {
            command.arg(format!("--listen=unix:{}", path.display()));
        }
        if self.over_unix {
            let none = || io::Error::other("the backend has no Unix socket here");
            let socket = job.backend_socket.ok_or_else(none)?;
            command.arg(format!("--backend=unix:{}", socket.display()));
        } else {
            let backends = job.backends.iter();
            command.args(backends.map(|backend| format!("--backend={backend}")));
        }
        command.arg(format!("--engine={}", self.engine.word()));
        if let Protocol::Fastcgi(fastcgi) = self.protocol {
            command.arg("--protocol=fastcgi");
            command.args((fastcgi.guard == Guard::Off).then_some("--guard=off"));
            let endpoint_max = fastcgi.endpoint_max;
            command.args(endpoint_max.map(|max| format!("--per-endpoint-max={max}")));
            let order = self.order.map(Order::word);
            command.args(order.map(|order| format!("--queue-order={order}")));
        }
        if self.controlled {
            let control = job.dir.join(CONTROL_SOCKET);
            command.arg(format!("--control={}", control.display()));
        }
        command.arg(format!("--connections-max={CONNECTIONS_MAX}"));
        match job.threads {
            Threads::Exactly(count) => command.arg(format!("--workers={count}")),
            Threads::Default => &mut command,
        };
        Ok(command)
    }
}
