//! nginx with its `stream` module.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BACKLOG, Job, Peer, Threads, find_one, output_of, word_after};

/// Debian packages it as a module of its own.
pub(super) const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Two for each session, and room.
pub(super) const WORKER_CONNECTIONS: usize = 12_000;

/// Where nginx is.
pub(in super::super) fn program() -> Result<PathBuf, String> {
    find_one(&["/usr/sbin/nginx", "/usr/local/sbin/nginx"], "nginx-light")
}

/// A `stream` server.
pub(in super::super) struct Stream;

impl Peer for Stream {
    fn key(&self) -> String {
        "nginx".to_owned()
    }

    fn name(&self) -> String {
        "nginx stream".to_owned()
    }

    fn find(&self) -> Result<PathBuf, String> {
        find_one(&[STREAM_MODULE], "libnginx-mod-stream")?;
        program()
    }

    fn version(&self, program: &Path) -> String {
        word_after(&output_of(program, "-v"), "nginx/")
    }

    fn threads_default(&self) -> &'static str {
        "a process per core, as Debian configures it"
    }

    fn command(&self, program: &Path, job: &Job<'_>) -> std::io::Result<Command> {
        let processes = match job.threads {
            Threads::Exactly(count) => count.to_string(),
            Threads::Default => "auto".to_owned(),
        };
        let config = format!(
            "load_module {STREAM_MODULE};
            daemon off;
            worker_processes {processes};
            pid {dir}/nginx.pid;
            error_log stderr error;
            events {{ worker_connections {WORKER_CONNECTIONS}; }}
            stream {{
                server {{
                    listen unix:{listen} backlog={BACKLOG};
                    proxy_pass {backend};
                }}
            }}
            ",
            dir = job.dir.display(),
            listen = job.socket().display(),
            backend = job.backend(),
        );
        let file = job.dir.join("nginx.conf");
        fs::write(&file, config)?;
        let mut command = Command::new(program);
        command.args(["-e", "stderr", "-p"]).arg(job.dir);
        command.arg("-c").arg(file);
        Ok(command)
    }
}
