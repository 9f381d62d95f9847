//! spliceway with a route for each of its listeners, the last of which has all endpoints and gets all requests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::spliceway::{Engine, Spliceway};
use super::{CONNECTIONS_MAX, Job, Peer, Threads};

/// What its routes speak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Speaks {
    Raw,
    Fastcgi,
}

impl Speaks {
    fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Fastcgi => "fastcgi",
        }
    }
}

/// A daemon with as many routes as listeners. Endpoints have strict turns: the policy that has to find one among all.
pub(in super::super) struct Many {
    engine: Engine,
    speaks: Speaks,
    plain: Spliceway,
}

impl Many {
    pub(in super::super) fn of(engine: Engine, speaks: Speaks) -> Self {
        Self {
            engine,
            speaks,
            plain: Spliceway::raw(engine),
        }
    }

    /// As it is called in tables.
    pub(in super::super) fn title(&self) -> String {
        format!("{}, {}", self.speaks.word(), self.engine.word())
    }
}

impl Peer for Many {
    fn key(&self) -> String {
        format!("many-{}-{}", self.speaks.word(), self.engine.word())
    }

    fn name(&self) -> String {
        format!("spliceway with many routes, {}", self.title())
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

    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let mut config = format!(
            "engine = \"{}\"\nconnections-max = {CONNECTIONS_MAX}\nlog-level = \"warn\"\n",
            self.engine.word()
        );
        if let Threads::Exactly(count) = job.threads {
            config += &format!("workers = {count}\n");
        }
        config += &format!(
            "\n[defaults]\nmode = \"0666\"\nprotocol = \"{}\"\nbalance = \"round-robin\"\n",
            self.speaks.word()
        );
        let last = job.listen.len() - 1;
        for (number, path) in job.listen.iter().enumerate() {
            let backends = match number == last {
                true => job.backends,
                false => &job.backends[..1],
            };
            let backends: Vec<String> = backends.iter().map(|b| format!("\"{b}\"")).collect();
            config += &format!(
                "\n[route.r{number}]\nlisten = \"unix:{}\"\nbackend = [{}]\n",
                path.display(),
                backends.join(", ")
            );
        }
        let file = job.dir.join("spliceway.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(file);
        Ok(command)
    }
}
