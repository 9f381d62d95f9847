//! HAProxy in TCP mode, with and without splicing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BACKLOG, CONNECTIONS_MAX, Job, Peer, Threads, find_one, output_of, word_after};

/// How HAProxy moves bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bytes {
    /// Its default.
    Copied,
    /// `option splice-auto`
    Spliced,
}

/// One HAProxy program, one way.
pub(in super::super) struct Haproxy {
    /// Not the installed one, but this.
    program: Option<PathBuf>,
    bytes: Bytes,
}

impl Haproxy {
    /// The one of the distribution.
    pub(super) fn installed(bytes: Bytes) -> Self {
        Self {
            program: None,
            bytes,
        }
    }

    /// Another one, named after its version.
    pub(super) fn at(program: &Path, bytes: Bytes) -> Self {
        let program = Some(program.to_owned());
        Self { program, bytes }
    }

    /// The one of the distribution as it is without options.
    pub(in super::super) fn plain() -> Self {
        Self::installed(Bytes::Copied)
    }

    fn suffix(&self) -> &'static str {
        match self.bytes {
            Bytes::Copied => "",
            Bytes::Spliced => "-splice",
        }
    }
}

impl Peer for Haproxy {
    fn key(&self) -> String {
        match &self.program {
            None => format!("haproxy{}", self.suffix()),
            Some(program) => format!("haproxy-{}{}", self.version(program), self.suffix()),
        }
    }

    fn name(&self) -> String {
        let version = match &self.program {
            None => String::new(),
            Some(program) => format!(" {}", self.version(program)),
        };
        match self.bytes {
            Bytes::Copied => format!("HAProxy{version}"),
            Bytes::Spliced => format!("HAProxy{version}, splice-auto"),
        }
    }

    fn find(&self) -> Result<PathBuf, String> {
        match &self.program {
            None => find_one(&["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"], "haproxy"),
            Some(program) if program.exists() => Ok(program.clone()),
            Some(program) => Err(format!("{} is not there", program.display())),
        }
    }

    fn version(&self, program: &Path) -> String {
        word_after(&output_of(program, "-v"), "version ")
    }

    fn threads_default(&self) -> &'static str {
        "a thread per core"
    }

    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let threads = match job.threads {
            Threads::Exactly(count) => format!("nbthread {count}"),
            Threads::Default => String::new(),
        };
        let splice = match self.bytes {
            Bytes::Copied => "",
            Bytes::Spliced => "option splice-auto",
        };
        let config = format!(
            "global
                maxconn {CONNECTIONS_MAX}
                {threads}
            defaults
                mode tcp
                maxconn {CONNECTIONS_MAX}
                backlog {BACKLOG}
                timeout connect 5s
                timeout client 10m
                timeout server 10m
                {splice}
            listen fastcgi
                bind {listen} mode 666
                server responder {backend}\n",
            listen = job.socket().display(),
            backend = job.backend(),
        );
        let file = job.dir.join("haproxy.cfg");
        fs::write(&file, config)?;
        let mut command = Command::new(program);
        // -db: in the foreground.
        command.arg("-db").arg("-f").arg(file);
        Ok(command)
    }
}
