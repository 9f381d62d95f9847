//! Programs that take another configuration while they serve: what the two are that they go to and fro
//! between, and how each program is told.
//!
//! The two differ in what a reload changes in practice: a timeout, how many connections the backend may
//! have, and a route. The route that only one of them has also shows which of them is in use.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::nginx::{STREAM_MODULE, WORKER_CONNECTIONS};
use super::spliceway::{Engine, Fastcgi, Guard, Spliceway};
use super::{BACKLOG, CONNECTIONS_MAX, Haproxy, Job, NginxStream, Peer, Threads};

/// One of the two configurations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Edition {
    /// What it starts with.
    Plain,
    /// With a further route.
    Spare,
}

impl Edition {
    pub(in super::super) fn other(self) -> Self {
        match self {
            Self::Plain => Self::Spare,
            Self::Spare => Self::Plain,
        }
    }

    fn has_spare(self) -> bool {
        self == Self::Spare
    }

    /// Both are longer than a measurement, in minutes.
    fn idle_minutes(self) -> u32 {
        match self {
            Self::Plain => 10,
            Self::Spare => 20,
        }
    }

    /// Both are more than there are clients: what is compared is not the wait for a place.
    fn backend_max(self) -> u32 {
        match self {
            Self::Plain => 64,
            Self::Spare => 128,
        }
    }

    /// Whether the program whose files are in `dir` goes by this one.
    pub(in super::super) fn is_in_use(self, dir: &Path) -> bool {
        UnixStream::connect(spare_socket(dir)).is_ok() == self.has_spare()
    }
}

fn spare_socket(dir: &Path) -> PathBuf {
    dir.join("spare.sock")
}

/// A program that can be told to read its configuration anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Reloaded {
    Haproxy,
    NginxStream,
    Raw(Engine),
    Fastcgi(Engine),
}

impl Reloaded {
    /// Every one, in the order of the tables.
    pub(in super::super) const ALL: [Self; 6] = [
        Self::Haproxy,
        Self::NginxStream,
        Self::Raw(Engine::IoUring),
        Self::Raw(Engine::Epoll),
        Self::Fastcgi(Engine::IoUring),
        Self::Fastcgi(Engine::Epoll),
    ];

    /// The same program as the other sections have it.
    pub(in super::super) fn plain(self) -> Box<dyn Peer> {
        const GUARDED: Fastcgi = Fastcgi {
            guard: Guard::On,
            endpoint_max: None,
        };
        match self {
            Self::Haproxy => Box::new(Haproxy::plain()),
            Self::NginxStream => Box::new(NginxStream),
            Self::Raw(engine) => Box::new(Spliceway::raw(engine)),
            Self::Fastcgi(engine) => Box::new(Spliceway::fastcgi(engine, GUARDED)),
        }
    }

    /// What tells it: HAProxy's is for its master process.
    pub(in super::super) fn signal(self) -> libc::c_int {
        match self {
            Self::Haproxy => libc::SIGUSR2,
            Self::NginxStream | Self::Raw(_) | Self::Fastcgi(_) => libc::SIGHUP,
        }
    }

    /// Writes its file, which it reads when it is told.
    pub(in super::super) fn write(self, job: &Job<'_>, edition: Edition) -> io::Result<PathBuf> {
        let (name, text) = match self {
            Self::Haproxy => ("haproxy.cfg", haproxy(job, edition)),
            Self::NginxStream => ("nginx.conf", nginx(job, edition)),
            Self::Raw(engine) => ("spliceway.toml", spliceway(job, edition, engine, "raw")),
            Self::Fastcgi(engine) => ("spliceway.toml", spliceway(job, edition, engine, "fastcgi")),
        };
        let file = job.dir.join(name);
        fs::write(&file, text)?;
        Ok(file)
    }
}

impl Peer for Reloaded {
    fn key(&self) -> String {
        format!("reload-{}", self.plain().key())
    }

    fn name(&self) -> String {
        self.plain().name()
    }

    fn find(&self) -> Result<PathBuf, String> {
        self.plain().find()
    }

    fn version(&self, program: &Path) -> String {
        self.plain().version(program)
    }

    fn threads_default(&self) -> &'static str {
        self.plain().threads_default()
    }

    fn command(&self, program: &Path, job: &Job<'_>) -> io::Result<Command> {
        let file = self.write(job, Edition::Plain)?;
        let mut command = Command::new(program);
        match self {
            // -W: a master process, in the foreground, that starts workers and takes signals.
            Self::Haproxy => command.args(["-W", "-f"]),
            Self::NginxStream => {
                let prefix = command.args(["-e", "stderr", "-p"]).arg(job.dir);
                prefix.arg("-c")
            }
            Self::Raw(_) | Self::Fastcgi(_) => command.args(["run", "--config"]),
        };
        command.arg(file);
        Ok(command)
    }
}

fn spliceway(job: &Job<'_>, edition: Edition, engine: Engine, protocol: &str) -> String {
    let route = |name: &str, socket: &Path| {
        format!(
            "\n[route.{name}]\nlisten = \"unix:{}\"\nmode = \"0666\"\nbackend = \"{}\"\nprotocol = \"{protocol}\"\n\
             idle-timeout = \"{}m\"\nper-endpoint-max = {}\n",
            socket.display(),
            job.backend(),
            edition.idle_minutes(),
            edition.backend_max(),
        )
    };
    let workers = match job.threads {
        Threads::Exactly(count) => format!("workers = {count}\n"),
        Threads::Default => String::new(),
    };
    let spare = match edition {
        Edition::Plain => String::new(),
        Edition::Spare => route("spare", &spare_socket(job.dir)),
    };
    format!(
        "engine = \"{}\"\n{workers}connections-max = {CONNECTIONS_MAX}\nlog-level = \"warn\"\n{}{spare}",
        engine.word(),
        route("main", job.socket()),
    )
}

fn haproxy(job: &Job<'_>, edition: Edition) -> String {
    let route = |name: &str, socket: &Path| {
        format!(
            "listen {name}\n bind {} mode 666\n server responder {} maxconn {}\n",
            socket.display(),
            job.backend(),
            edition.backend_max(),
        )
    };
    let threads = match job.threads {
        Threads::Exactly(count) => format!(" nbthread {count}\n"),
        Threads::Default => String::new(),
    };
    let spare = match edition {
        Edition::Plain => String::new(),
        Edition::Spare => route("spare", &spare_socket(job.dir)),
    };
    format!(
        "global\n maxconn {CONNECTIONS_MAX}\n{threads}defaults\n mode tcp\n maxconn {CONNECTIONS_MAX}\n \
         backlog {BACKLOG}\n timeout connect 5s\n timeout client {minutes}m\n timeout server {minutes}m\n\
         {main}{spare}",
        minutes = edition.idle_minutes(),
        main = route("main", job.socket()),
    )
}

fn nginx(job: &Job<'_>, edition: Edition) -> String {
    let server = |socket: &Path| {
        format!(
            "server {{ listen unix:{} backlog={BACKLOG}; proxy_pass responder; }}",
            socket.display()
        )
    };
    let processes = match job.threads {
        Threads::Exactly(count) => count.to_string(),
        Threads::Default => "auto".to_owned(),
    };
    let spare = match edition {
        Edition::Plain => String::new(),
        Edition::Spare => server(&spare_socket(job.dir)),
    };
    format!(
        "load_module {STREAM_MODULE};
        daemon off;
        worker_processes {processes};
        pid {dir}/nginx.pid;
        error_log stderr error;
        events {{ worker_connections {WORKER_CONNECTIONS}; }}
        stream {{
            upstream responder {{ server {backend} max_conns={max}; }}
            proxy_timeout {minutes}m;
            {main}
            {spare}
        }}
        ",
        dir = job.dir.display(),
        backend = job.backend(),
        max = edition.backend_max(),
        minutes = edition.idle_minutes(),
        main = server(job.socket()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_configurations_differ_in_a_timeout_a_limit_and_a_route() {
        let dir = Path::new("/nowhere");
        let job = Job {
            dir,
            listen: &[dir.join("0.sock")],
            backends: &[([127, 0, 0, 1], 9000).into()],
            backend_socket: None,
            threads: Threads::Exactly(1),
        };
        let texts = |edition| {
            [
                spliceway(&job, edition, Engine::Epoll, "raw"),
                haproxy(&job, edition),
                nginx(&job, edition),
            ]
        };
        let pairs = texts(Edition::Plain)
            .into_iter()
            .zip(texts(Edition::Plain.other()));
        for (plain, spare) in pairs {
            let both = |in_plain: &str, in_spare: &str| {
                assert!(
                    plain.contains(in_plain) && !plain.contains(in_spare),
                    "{plain}"
                );
                assert!(
                    spare.contains(in_spare) && !spare.contains(in_plain),
                    "{spare}"
                );
            };
            both("10m", "20m");
            both("64", "128");
            assert!(!plain.contains("spare.sock") && spare.contains("/nowhere/spare.sock"));
        }
    }

    #[test]
    fn an_edition_is_in_use_where_its_route_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Edition::Plain.is_in_use(dir.path()) && !Edition::Spare.is_in_use(dir.path()));
        let _socket = std::os::unix::net::UnixListener::bind(spare_socket(dir.path())).unwrap();
        assert!(Edition::Spare.is_in_use(dir.path()) && !Edition::Plain.is_in_use(dir.path()));
    }
}
