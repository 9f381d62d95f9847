//! PHP-FPM and nginx, as they are set up for this.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use spliceway_common::sys::namespace::effective_ids;
use spliceway_load::load::Target;

use super::WORKERS;
use super::ways::Way;
use crate::compare::results::Pm;
use crate::compare::server::Server;

/// Whose processes serve web pages on Debian.
const WEB_USER: &str = "www-data";

/// A page of so many KB, made by the interpreter and printed in one piece.
const SCRIPT: &str = "<?php echo str_repeat('0123456789abcdef', 64 * (int) $_GET['kb']);\n";

const NO_ABSTRACT: &str = "PHP-FPM listens on no abstract sockets";

/// What asks [`SCRIPT`] for a page.
pub(super) fn query(kb: u32) -> String {
    format!("kb={kb}")
}

pub(super) fn script(dir: &Path) -> PathBuf {
    dir.join("page.php")
}

fn is_root() -> bool {
    effective_ids().0 == 0
}

/// PHP-FPM with a pool for each way. Those that have nothing to do sleep.
pub(super) fn start_fpm(program: &Path, pm: Pm, ways: &[Way]) -> anyhow::Result<Server> {
    Server::start(
        |dir| {
            fs::write(script(dir), SCRIPT)?;
            let mut config = "[global]\ndaemonize = no\nerror_log = /proc/self/fd/2\n".to_owned();
            for way in ways {
                config += &pool(dir, pm, *way);
            }
            let file = dir.join("php-fpm.conf");
            fs::write(&file, config)?;
            let mut command = Command::new(program);
            // -n: no php.ini of this machine; -O: the log goes to our file.
            command.args(["-n", "-F", "-O", "-y"]).arg(file);
            Ok(command)
        },
        |dir| {
            ways.iter().all(|way| match way.fpm(dir) {
                Target::Unix(path) => UnixStream::connect(path).is_ok(),
                Target::Tcp(address) => TcpStream::connect(address).is_ok(),
                Target::Abstract(_) => unreachable!("{NO_ABSTRACT}"),
            })
        },
    )
}

fn pool(dir: &Path, pm: Pm, way: Way) -> String {
    let listen = match way.fpm(dir) {
        Target::Unix(path) => path.display().to_string(),
        Target::Tcp(address) => address.to_string(),
        Target::Abstract(_) => unreachable!("{NO_ABSTRACT}"),
    };
    let user = if is_root() {
        format!("user = {WEB_USER}\ngroup = {WEB_USER}\n")
    } else {
        String::new()
    };
    let manager = match pm {
        Pm::Static => "pm = static\n",
        Pm::Ondemand => "pm = ondemand\n",
        // Debian's numbers of spare servers.
        Pm::Dynamic => {
            "pm = dynamic\npm.start_servers = 2\npm.min_spare_servers = 1\n\
             pm.max_spare_servers = 3\n"
        }
    };
    format!(
        "[{name}]\nlisten = {listen}\nlisten.mode = 0666\n{user}{manager}\
         pm.max_children = {WORKERS}\n",
        name = way.key(),
    )
}

/// nginx with one server for each way that has somewhere to go.
pub(super) fn start_nginx(
    program: &Path,
    fpm_dir: &Path,
    targets: &[(Way, anyhow::Result<String>)],
) -> anyhow::Result<Server> {
    let mut servers = String::new();
    for (way, target) in targets {
        if let Ok(target) = target {
            servers += &nginx_server(*way, target, fpm_dir);
        }
    }
    // The first way has no program that could be missing.
    let (first, _) = targets[0];
    Server::start(
        |dir| {
            let file = dir.join("nginx.conf");
            fs::write(&file, nginx_config(dir, &servers))?;
            let mut command = Command::new(program);
            command
                .args(["-e", "stderr", "-p"])
                .arg(dir)
                .arg("-c")
                .arg(file);
            Ok(command)
        },
        |_| TcpStream::connect(first.nginx()).is_ok(),
    )
}

/// Kept connections need an `upstream` block.
fn nginx_server(way: Way, target: &str, fpm_dir: &Path) -> String {
    let (keep, keepalive) = match way.keeps() {
        Some(count) => ("fastcgi_keep_conn on;", format!("keepalive {count};")),
        None => ("", String::new()),
    };
    format!(
        "upstream {key} {{ server {target}; {keepalive} }}
        server {{
            listen {listen};
            location / {{
                fastcgi_pass {key};
                {keep}
                fastcgi_param SCRIPT_FILENAME {script};
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param QUERY_STRING $query_string;
                fastcgi_param REQUEST_URI $request_uri;
                fastcgi_param SERVER_PROTOCOL $server_protocol;
                fastcgi_param REMOTE_ADDR $remote_addr;
            }}
        }}
        ",
        key = way.key(),
        listen = way.nginx(),
        script = script(fpm_dir).display(),
    )
}

fn nginx_config(dir: &Path, servers: &str) -> String {
    let user = if is_root() { "user root root;" } else { "" };
    format!(
        "daemon off;
        {user}
        worker_processes auto;
        pid {dir}/nginx.pid;
        error_log stderr crit;
        events {{ worker_connections 1024; }}
        http {{
            access_log off;
            # So that wrk never has to connect again.
            keepalive_requests 100000000;
            client_body_temp_path {dir}/body;
            fastcgi_temp_path {dir}/fastcgi;
            proxy_temp_path {dir}/proxy;
            uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            {servers}
        }}
        ",
        dir = dir.display(),
    )
}
