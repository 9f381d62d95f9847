//! Other people's programs, as Debian packages them. One that is missing is a failure: `scripts/test`
//! installs all of them.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::name_server::NameServer;
use super::process::Process;
use super::sys::{ChildSetup, is_root};
use super::wait::eventually;

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

/// dnsmasq as the name server of `records`, each an option of its configuration. It reads
/// `hosts` again when it gets SIGHUP.
pub(crate) fn start_dnsmasq(hosts: &Path, records: &[&str]) -> (Process, SocketAddr) {
    let start = || {
        let address = free_address();
        let setup = ChildSetup {
            death_signal: libc::SIGKILL,
            ..ChildSetup::default()
        };
        let started = start_dnsmasq_at(address, hosts, records, setup);
        started.map(|process| (process, address))
    };
    let mut attempts = std::iter::repeat_with(start).take(10);
    attempts
        .find_map(|started| started)
        .expect("dnsmasq starts")
}

/// The same at this address; nothing if somebody else has it.
pub(crate) fn start_dnsmasq_at(
    address: SocketAddr,
    hosts: &Path,
    records: &[&str],
    setup: ChildSetup,
) -> Option<Process> {
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
    let mut process = Process::start(command, setup);
    // It ends if somebody has taken the port in the meantime.
    eventually("dnsmasq has started or has ended", || {
        process.log().count("started, version") > 0 || !process.is_running()
    });
    process.is_running().then_some(process)
}

/// A loopback port that nobody has at this moment, neither for UDP nor for TCP.
fn free_address() -> SocketAddr {
    let server = NameServer::start();
    server.address
}

/// Starts PHP-FPM and waits until its workers accept.
pub(crate) fn start_fpm(dir: &Path, endpoint: &(String, u16)) -> Process {
    start_fpm_with(dir, endpoint, &[])
}

/// The same with these lines of php.ini.
pub(crate) fn start_fpm_with(dir: &Path, endpoint: &(String, u16), settings: &[String]) -> Process {
    start_fpm_pool(dir, endpoint, FPM_WORKERS, "", settings)
}

/// The same with this many workers and more lines about their pool.
pub(crate) fn start_fpm_pool(
    dir: &Path,
    (host, port): &(String, u16),
    workers: usize,
    lines: &str,
    settings: &[String],
) -> Process {
    // Workers of one that was stopped here may have it for another moment.
    let address = format!("{host}:{port}");
    eventually("the address is free", || {
        TcpListener::bind(&address).is_ok()
    });
    let mut config = format!(
        "[global]\n\
        daemonize = no\n\
        error_log = /dev/stderr\n\
        [pool]\n\
        listen = {address}\n\
        pm = static\n\
        pm.max_children = {workers}\n\
        {lines}\n"
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
    for setting in settings {
        command.args(["-d", setting]);
    }
    let fpm = start_server(command);
    fpm.wait_for_log("ready to handle connections");
    fpm
}

/// Starts nginx with `config` and waits until it listens on `front`.
pub(crate) fn start_nginx(dir: &Path, config: &str, front: &Path) -> Process {
    let user = if is_root() {
        format!("user {WEB_USER};")
    } else {
        String::new()
    };
    let whole = format!(
        "{config}
        daemon off;
        {user}
        worker_processes 2;
        pid {dir}/nginx.pid;
        error_log stderr warn;
        events {{ worker_connections 1024; }}",
        dir = dir.display(),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, whole).unwrap();
    let mut command = Command::new(program(&["/usr/sbin/nginx"]));
    command
        .args(["-e", "stderr", "-p"])
        .arg(dir)
        .arg("-c")
        .arg(file);
    let mut nginx = start_server(command);
    eventually("nginx listens", || {
        assert!(nginx.is_running(), "nginx has ended");
        UnixStream::connect(front).is_ok()
    });
    nginx
}

/// Where nginx may put bodies: by default only root may use its places.
pub(crate) fn temp_paths(dir: &Path) -> String {
    format!(
        "client_body_temp_path {dir}/body;
        fastcgi_temp_path {dir}/fastcgi;
        proxy_temp_path {dir}/proxy;
        uwsgi_temp_path {dir}/uwsgi;
        scgi_temp_path {dir}/scgi;",
        dir = dir.display(),
    )
}

/// Starts Apache with `config`, which has it listen at `endpoint`.
pub(crate) fn start_apache(dir: &Path, config: &str, (host, port): &(String, u16)) -> Process {
    let modules = [
        ("mpm_event", "mpm_event"),
        ("authz_core", "authz_core"),
        ("proxy", "proxy"),
        ("proxy_fcgi", "proxy_fcgi"),
    ];
    let load = |(name, file): (&str, &str)| {
        format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{file}.so\n")
    };
    let mut whole: String = modules.map(load).concat();
    whole += &format!(
        "Listen {host}:{port}\n\
        ServerName localhost\n\
        PidFile {dir}/apache.pid\n\
        ErrorLog /proc/self/fd/2\n\
        {config}\n",
        dir = dir.display(),
    );
    if is_root() {
        whole += &format!("User {WEB_USER}\nGroup {WEB_USER}\n");
    }
    let file = dir.join("apache.conf");
    fs::write(&file, whole).unwrap();
    let mut command = Command::new(program(&["/usr/sbin/apache2"]));
    command
        .args(["-D", "FOREGROUND", "-d"])
        .arg(dir)
        .arg("-f")
        .arg(file);
    let mut apache = start_server(command);
    eventually("apache listens", || {
        assert!(apache.is_running(), "apache has ended");
        TcpStream::connect((&**host, *port)).is_ok()
    });
    apache
}

/// A FastCGI backend of one process: `tests/programs/responder.py`.
pub(crate) fn start_python_responder((host, port): &(String, u16)) -> Process {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/responder.py");
    let mut command = Command::new(program(&["/usr/bin/python3"]));
    command.args([script, host, &port.to_string()]);
    let python = start_server(command);
    python.wait_for_log("ready");
    python
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
