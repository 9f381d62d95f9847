//! Other people's programs, as Debian packages them. One that is missing is a failure: `scripts/test`
//! installs all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::process::Process;
use super::sys::{ChildSetup, is_root};

/// The user whose workers serve web pages on Debian.
pub(crate) const WEB_USER: &str = "www-data";

/// The workers of each PHP-FPM.
pub(crate) const FPM_WORKERS: usize = 4;

pub(crate) fn start_socat(arguments: &[&str]) -> Process {
    let mut command = Command::new(program(&["/usr/bin/socat"]));
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Process::start(
        command,
        ChildSetup {
            death_signal: libc::SIGTERM,
            ..ChildSetup::default()
        },
    )
}

/// The first of the places where a program may be that exists.
pub(crate) fn program(candidates: &[&str]) -> PathBuf {
    let found = candidates
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{} is missing: run scripts/test", candidates[0]))
}

/// Starts PHP-FPM and waits until its workers accept.
pub(crate) fn start_fpm(dir: &Path, (host, port): &(String, u16)) -> Process {
    let mut config = format!(
        "[global]\n\
        daemonize = no\n\
        error_log = /dev/stderr\n\
        [pool]\n\
        listen = {host}:{port}\n\
        pm = static\n\
        pm.max_children = {FPM_WORKERS}\n"
    );
    if is_root() {
        config += &format!("user = {WEB_USER}\ngroup = {WEB_USER}\n");
    }
    let file = dir.join("php-fpm.conf");
    fs::write(&file, config).unwrap();
    let binaries = [
        "/usr/sbin/php-fpm8.2",
        "/usr/sbin/php-fpm8.4",
        "/usr/sbin/php-fpm",
    ];
    let mut command = Command::new(program(&binaries));
    // -n: no php.ini of this machine; -O: the log goes to our pipe.
    command.args(["-n", "-F", "-O", "-y"]).arg(file);
    let fpm = start_server(command);
    fpm.wait_for_log("ready to handle connections");
    fpm
}

/// Masters with workers: on SIGTERM they end them as well.
pub(crate) fn start_server(mut command: Command) -> Process {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Process::start(
        command,
        ChildSetup {
            death_signal: libc::SIGTERM,
            ..ChildSetup::default()
        },
    )
}

/// A loopback address and port for a program that has to bind by itself. The address is made from
/// our process id, so that no other process can come in between, as it could with a port that was
/// free a moment ago.
pub(crate) fn fresh_endpoint() -> (String, u16) {
    static NEXT: AtomicU16 = AtomicU16::new(9000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // 127.64.0.0/10 to keep away from 127.0.0.1; process ids have at most 22 bits.
    let address = format!("127.{}.{middle}.{low}", 64 + high);
    (address, NEXT.fetch_add(1, Ordering::Relaxed))
}
