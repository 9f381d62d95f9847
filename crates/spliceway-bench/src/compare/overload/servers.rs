//! PHP-FPM and nginx, as they are set up for this.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use spliceway_common::sys::namespace::effective_ids;

use super::ways::Way;
use super::{BACKLOG, SERVICE, WORKERS, is_up};
use crate::compare::server::Server;

/// Whose processes serve web pages on Debian.
const WEB_USER: &str = "www-data";

/// What a page takes to be made.
fn script_text() -> String {
    format!("<?php usleep({}); echo 'done';\n", SERVICE.as_micros())
}

pub(super) fn script(dir: &Path) -> PathBuf {
    dir.join("sleep.php")
}

fn is_root() -> bool {
    effective_ids().0 == 0
}

/// PHP-FPM with a pool for each way.
pub(super) fn start_fpm(program: &Path, ways: &[Way]) -> anyhow::Result<Server> {
    Server::start(
        |dir| {
            fs::write(script(dir), script_text())?;
            let mut config = "[global]\ndaemonize = no\nerror_log = /proc/self/fd/2\n".to_owned();
            for way in ways {
                config += &pool(dir, *way);
            }
            let file = dir.join("php-fpm.conf");
            fs::write(&file, config)?;
            let mut command = Command::new(program);
            // -n: no php.ini of this machine; -O: the log goes to our file.
            command.args(["-n", "-F", "-O", "-y"]).arg(file);
            Ok(command)
        },
        |dir| ways.iter().all(|way| is_up(&way.pool(dir))),
    )
}

fn pool(dir: &Path, way: Way) -> String {
    let user = if is_root() {
        format!("user = {WEB_USER}\ngroup = {WEB_USER}\n")
    } else {
        String::new()
    };
    format!(
        "[{name}]\nlisten = {listen}\nlisten.mode = 0666\nlisten.backlog = {BACKLOG}\n{user}pm = static\n\
         pm.max_children = {WORKERS}\n",
        name = way.key(),
        listen = way.pool(dir),
    )
}

/// nginx with a server for each of these ways, which leads to this socket.
pub(super) fn start_nginx(
    program: &Path,
    script: &Path,
    ways: &[(Way, PathBuf)],
) -> anyhow::Result<Server> {
    Server::start(
        |dir| {
            let servers = ways.iter();
            let servers = servers.map(|(way, socket)| server(*way, (dir, socket), script));
            let file = dir.join("nginx.conf");
            fs::write(&file, config(dir, &servers.collect::<String>()))?;
            let mut command = Command::new(program);
            command
                .args(["-e", "stderr", "-p"])
                .arg(dir)
                .arg("-c")
                .arg(file);
            Ok(command)
        },
        |dir| {
            let mut ways = ways.iter();
            ways.all(|(way, _)| UnixStream::connect(way.nginx_socket(dir)).is_ok())
        },
    )
}

fn server(way: Way, (dir, socket): (&Path, &Path), script: &Path) -> String {
    format!(
        "server {{
            listen unix:{listen} backlog=4096;
            location / {{
                fastcgi_pass unix:{socket};
                fastcgi_param SCRIPT_FILENAME {script};
                fastcgi_param REQUEST_METHOD $request_method;
                fastcgi_param REQUEST_URI $request_uri;
                fastcgi_param SERVER_PROTOCOL $server_protocol;
            }}
        }}
        ",
        listen = way.nginx_socket(dir).display(),
        socket = socket.display(),
        script = script.display(),
    )
}

fn config(dir: &Path, servers: &str) -> String {
    let user = if is_root() { "user root root;" } else { "" };
    format!(
        "daemon off;
        {user}
        worker_processes 1;
        pid {dir}/nginx.pid;
        error_log stderr crit;
        events {{ worker_connections 8192; }}
        http {{
            access_log off;
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
