//! Other people's programs, as Debian packages them. One that is missing is a failure: `scripts/test`
//! installs all of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::name_server::NameServer;
use super::process::Process;
use super::sys::ChildSetup;
use super::wait::eventually;

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

/// dnsmasq as the name server of `records`, each an option of its configuration. It reads
/// `hosts` again when it gets SIGHUP.
pub(crate) fn start_dnsmasq(hosts: &Path, records: &[&str]) -> (Process, SocketAddr) {
    let start = || {
        let address = free_address();
        let mut command = Command::new(program(&["/usr/sbin/dnsmasq"]));
        command
            // In the foreground, with the log on stderr, as whoever starts it, without a file.
            .args(["--no-daemon", "--conf-file=/dev/null", "--log-facility=-"])
            .args(["--no-resolv", "--no-hosts", "--bind-interfaces"])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .args(records)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            ..ChildSetup::default()
        };
        let mut process = Process::start(command, setup);
        // Somebody may have taken the port in the meantime: then it ends.
        eventually("dnsmasq has started or has ended", || {
            process.log().count("started, version") > 0 || !process.is_running()
        });
        process.is_running().then_some((process, address))
    };
    let mut attempts = std::iter::repeat_with(start).take(10);
    attempts
        .find_map(|started| started)
        .expect("dnsmasq starts")
}

/// A loopback port that nobody has at this moment, neither for UDP nor for TCP.
fn free_address() -> SocketAddr {
    let server = NameServer::start();
    server.address
}

/// HAProxy with `config`, in the foreground.
pub(crate) fn start_haproxy(file: &Path) -> Process {
    let mut command = Command::new(program(&["/usr/sbin/haproxy"]));
    command
        .args(["-db", "-f"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let setup = ChildSetup {
        death_signal: libc::SIGTERM,
        ..ChildSetup::default()
    };
    Process::start(command, setup)
}
