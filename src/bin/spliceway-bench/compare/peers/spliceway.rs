//! spliceway itself: the program beside this one.

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
    fn word(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// A raw route.
pub(in super::super) struct Spliceway(pub(in super::super) Engine);

impl Peer for Spliceway {
    fn key(&self) -> String {
        match self.0 {
            Engine::IoUring => "spliceway",
            Engine::Epoll => "spliceway-epoll",
        }
        .to_owned()
    }

    fn name(&self) -> String {
        format!("spliceway raw, {}", self.0.word())
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

    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let mut command = Command::new(program);
        command.args(["run", "--log-level=warn", "--mode=0666"]);
        for path in job.listen {
            command.arg(format!("--listen=unix:{}", path.display()));
        }
        for backend in job.backends {
            command.arg(format!("--backend={backend}"));
        }
        command.arg(format!("--engine={}", self.0.word()));
        command.arg(format!("--connections-max={CONNECTIONS_MAX}"));
        match job.threads {
            Threads::Exactly(count) => command.arg(format!("--workers={count}")),
            Threads::Default => &mut command,
        };
        Ok(command)
    }
}
