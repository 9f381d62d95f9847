//! spliceway with two routes: one with few places, and a quiet one without limits.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::spliceway::{Engine, Spliceway};
use super::{CONNECTIONS_MAX, Job, Peer};

/// `per-endpoint-max` of the limited route.
pub(in super::super) const PLACES: usize = 8;

/// A daemon for both: the first socket and backend are the limited route's.
pub(in super::super) struct Neighbours {
    engine: Engine,
    plain: Spliceway,
}

impl Neighbours {
    pub(in super::super) fn of(engine: Engine) -> Self {
        Self {
            engine,
            plain: Spliceway::raw(engine),
        }
    }
}

impl Peer for Neighbours {
    fn key(&self) -> String {
        format!("neighbours-{}", self.engine.word())
    }

    fn name(&self) -> String {
        format!("{}, two routes", self.plain.name())
    }

    fn find(&self) -> Result<PathBuf, String> {
        self.plain.find()
    }

    fn version(&self, program: &Path) -> String {
        self.plain.version(program)
    }

    fn threads_default(&self) -> &'static str {
        self.plain.threads_default()
    }

    /// Threads are the default: with one there is nothing to keep apart.
    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let route = |name: &str, number: usize| {
            format!(
                "[route.{name}]\nlisten = \"unix:{}\"\nbackend = \"{}\"\n",
                job.listen[number].display(),
                job.backends[number],
            )
        };
        let config = format!(
            "engine = \"{}\"\nconnections-max = {CONNECTIONS_MAX}\nlog-level = \"warn\"\n\n\
             {}per-endpoint-max = {PLACES}\n\n{}",
            self.engine.word(),
            route("limited", 0),
            route("quiet", 1),
        );
        let file = job.dir.join("spliceway.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(file);
        Ok(command)
    }
}
