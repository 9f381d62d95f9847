//! The files of `deploy/systemd`, by systemd's own tools and with the program that they start.
//!
//! Tests do not run under systemd, so what it would do between a unit file and a process is done here:
//! `systemd-socket-activate` makes the socket and passes it on, and the test sets owners and modes as
//! the units say. What the sandbox takes away is not taken away; instead the program is traced, and
//! must not use it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::client::exchange_and_end;
use common::fastcgi::{Client, Request, responder};
use common::http::Response;
use common::programs::{
    FPM_WORKERS, WEB_USER, fresh_endpoint, program, start_fpm, start_nginx, start_server,
};
use common::proxy::{NOBODY, connect, fresh_dir};
use common::sys::{as_user, is_root, lacks_root};
use common::{
    Backend, Engine, GUARD, MB, NameServer, Pattern, Process, Proxy, eventually, for_each_engine,
};
use tempfile::TempDir;

for_each_engine!(
    the_program_makes_no_call_that_the_units_deny,
    who_follows_the_readme_has_nginx_in_front_of_php_fpm,
    who_follows_the_readme_has_a_daemon_whose_sockets_are_for_a_group,
);

const BINARY: &str = env!("CARGO_BIN_EXE_spliceway");
const SERVICES: [&str; 2] = ["spliceway@.service", "spliceway.service"];

// --- the files themselves ---------------------------------------------------------------------------

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let dir = fresh_dir();
    let complaints = verify(&installed_copy(dir.path()));
    assert_eq!(complaints, "");
}

/// Silence says something only of a tool that speaks.
#[test]
fn systemd_would_find_what_is_wrong_with_a_drop_in() {
    let dir = fresh_dir();
    let units = installed_copy(dir.path());
    for (file, mistake) in [
        ("spliceway@fastcgi.socket.d/access.conf", "SocketMod=0660"),
        (
            "spliceway@fastcgi.service.d/backend.conf",
            "Envrionment=A=b",
        ),
        ("spliceway.service", "[Service]\nWatchdogSex=3"),
    ] {
        let path = units.join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}\n{mistake}\n")).unwrap();
        let word = mistake.lines().last().unwrap().split('=').next().unwrap();
        let complaints = verify(&units);
        assert!(complaints.contains(word), "{file}: {complaints}");
        fs::write(&path, text).unwrap();
    }
}

#[test]
fn the_readme_has_the_exposure_that_systemd_counts() {
    let readme = readme();
    for unit in SERVICES {
        let said = run(analyze()
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(source().join(unit)));
        let last = said.lines().last().unwrap();
        let score = last
            .split(' ')
            .find(|word| word.parse::<f64>().is_ok())
            .unwrap();
        let row = format!("| `{unit}` | {score} |");
        assert!(readme.contains(&row), "not {row:?}: {last}");
    }
}

#[test]
fn the_readme_explains_each_point_that_remains_and_no_other() {
    let readme = readme();
    let (_, table) = readme.split_once("| point | unit |").unwrap();
    let rows: BTreeSet<_> = table.lines().skip(2).flat_map(Point::of_row).collect();
    let counted: BTreeSet<_> = SERVICES.into_iter().flat_map(remaining_points).collect();
    assert_eq!(rows, counted);
}

/// Both services are confined alike, but for what the readme says.
#[test]
fn both_services_have_the_same_sandbox() {
    let sandbox = |unit: &str| -> Vec<(String, String)> {
        let unit = Unit::load(source(), unit);
        let start = unit
            .entries
            .iter()
            .position(|(key, _)| key == "CapabilityBoundingSet");
        let end = unit.entries.iter().position(|(key, _)| key == "WantedBy");
        unit.entries[start.unwrap()..end.unwrap()].to_vec()
    };
    let mut one = sandbox("spliceway.service");
    let only_there = ("SystemCallFilter".to_owned(), "fchownat".to_owned());
    let before = one.len();
    one.retain(|entry| *entry != only_there);
    assert_eq!(one.len(), before - 1);
    assert_eq!(one, sandbox("spliceway@.service"));
}

/// Instances are: their socket stays, and gives up if what it starts fails too often.
#[test]
fn the_daemon_is_not_started_again_with_a_configuration_that_is_wrong() {
    let dir = fresh_dir();
    let file = dir.path().join("spliceway.toml");
    fs::write(&file, "[route.a]\nlistn = \"unix:/a\"\n").unwrap();
    let mut start = Command::new(BINARY);
    let output = start.args(["run", "--config"]).arg(&file).output().unwrap();
    let code = output.status.code().unwrap().to_string();
    let unit = Unit::load(source(), "spliceway.service");
    assert_eq!(unit.last("RestartPreventExitStatus"), code);
}

#[test]
fn the_example_lets_nginx_in_and_nobody_else() {
    let socket = Unit::load(source(), "spliceway@fastcgi.socket");
    for (key, value) in [
        ("ListenStream", "%t/spliceway-sockets/%i.sock"),
        ("SocketUser", "root"),
        ("SocketGroup", "nginx"),
        ("SocketMode", "0660"),
        ("DirectoryMode", "0711"),
    ] {
        assert_eq!(socket.last(key), value, "{key}");
    }
    let without = Unit::load(source(), "spliceway@other.socket");
    assert_eq!(without.last("SocketGroup"), "root");
    assert_eq!(without.last("SocketMode"), "0600");
}

/// A user that is not named is that of the template: one for all instances.
#[test]
fn each_instance_has_a_user_of_its_own() {
    let unit = Unit::load(source(), "spliceway@.service");
    assert_eq!(unit.last("DynamicUser"), "yes");
    assert_eq!(unit.last("User"), "spliceway-%i");
    let socket = Unit::load(source(), "spliceway@.socket");
    assert_eq!(socket.last("SocketUser"), "root");
}

#[test]
fn the_user_of_the_service_can_be_made() {
    let root = fresh_dir();
    fs::create_dir(root.path().join("etc")).unwrap();
    let file = source().join("sysusers.d/spliceway.conf");
    run(Command::new(program(&["/usr/bin/systemd-sysusers"]))
        .arg(format!("--root={}", root.path().display()))
        .arg("--replace=/usr/lib/sysusers.d/spliceway.conf")
        .arg("-")
        .stdin(fs::File::open(file).unwrap()));
    let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    assert!(users.contains("spliceway:x:"), "{users}");
    let user = Unit::load(source(), "spliceway.service")
        .last("User")
        .to_owned();
    assert_eq!(user, "spliceway");
}

/// A point of `systemd-analyze security`, and the unit that has it.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Point {
    name: String,
    unit: &'static str,
}

impl Point {
    /// The points of a row of the readme's table.
    fn of_row(row: &str) -> Vec<Self> {
        let cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
        let [_, name, unit, ..] = cells.collect::<Vec<_>>()[..] else {
            return Vec::new();
        };
        let named = |of: &'static str| Self {
            name: name.to_owned(),
            unit: of,
        };
        let units = SERVICES
            .into_iter()
            .filter(|of| unit == *of || unit == "both");
        units.map(named).collect()
    }
}

fn remaining_points(unit: &'static str) -> Vec<Point> {
    let said = run(analyze()
        .args(["security", "--offline=yes", "--json=short", "--no-pager"])
        .arg(source().join(unit)));
    let points: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let points = points.as_array().unwrap().iter();
    points
        .filter(|point| point["set"] == false)
        .map(|point| Point {
            name: point["json_field"].as_str().unwrap().to_owned(),
            unit,
        })
        .collect()
}

/// The units with a program that exists.
fn installed_copy(dir: &Path) -> PathBuf {
    let units = dir.join("units");
    run(Command::new("cp").arg("-r").arg(source()).arg(&units));
    for unit in SERVICES {
        let path = units.join(unit);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("/usr/bin/spliceway", BINARY)).unwrap();
    }
    units
}

/// What `systemd-analyze verify` has to say.
fn verify(units: &Path) -> String {
    let output = analyze()
        // Units of this machine are not ours to judge.
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(units.join("spliceway@fastcgi.socket"))
        .arg(units.join("spliceway@fastcgi.service"))
        .arg(units.join("spliceway.service"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    said.lines()
        .filter(|line| line.contains("spliceway"))
        .collect()
}

fn analyze() -> Command {
    Command::new(program(&["/usr/bin/systemd-analyze"]))
}

// --- what the program does, and what it may -----------------------------------------------------------

/// A worker, the resolver, a splice, an access log, the control socket, the metrics address and a successor, from the
/// start to the end.
fn the_program_makes_no_call_that_the_units_deny(engine: Engine) {
    let trace = Trace::of(engine);
    // An instance makes no socket, so it has no group to set.
    trace.assert_allowed_by(&Unit::load(source(), "spliceway@.service"), &["fchownat"]);
    trace.assert_allowed_by(&Unit::load(source(), "spliceway.service"), &[]);
    let used = |call: &str| trace.calls.contains(call);
    assert_eq!(used("io_uring_enter"), engine == Engine::IoUring);
    assert!(used("splice") && used("fchownat") && used("fchmod"));
    assert_eq!(used("waitid"), is_root());
}

/// Another program takes the place of the copy that runs. It ends at once.
fn start_a_successor(proxy: &Proxy) {
    let path = |name: &str| proxy.dir().join(name);
    run(Command::new("cp").arg("/bin/false").arg(path("new")));
    fs::rename(path("new"), path("spliceway")).unwrap();
    proxy.process().signal(libc::SIGUSR2);
    let ended = "upgrade (SIGUSR2): the successor, process ";
    proxy.process().wait_for_log(ended);
}

#[test]
fn both_units_allow_io_uring() {
    for unit in SERVICES {
        let allowed = Unit::load(source(), unit).allowed_calls();
        for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
            assert!(allowed.contains(call), "{unit}: {call}");
        }
    }
}

/// strace's words, but for the file. -D: the program stays whoever's child it is, and strace watches from
/// the side.
const TRACING: [&str; 4] = ["-D", "-f", "-q", "-o"];

/// What was seen of a process.
#[derive(Default)]
struct Trace {
    calls: BTreeSet<String>,
    families: BTreeSet<String>,
    /// What MemoryDenyWriteExecute= forbids.
    executable_and_writable: Vec<String>,
}

impl Trace {
    fn of(engine: Engine) -> Self {
        let echo = Backend::echo();
        let php = responder();
        let names = NameServer::start();
        names.a("app.internal", &["127.0.0.1"]);
        let builder = Proxy::builder().engine(engine).user(NOBODY);
        let dir = builder.dir().to_owned();
        let (raw, log, file) = (
            dir.join("raw.sock"),
            dir.join("access.log"),
            dir.join("trace"),
        );
        let config = format!(
            "workers = 1\n\
             control = '{dir}/control.sock'\n\
             metrics = '127.0.0.1:0'\n\
             [defaults]\n\
             group = '{group}'\n\
             nameserver = '{names}'\n\
             [route.raw]\n\
             listen = 'unix:{raw}'\n\
             backend = 'app.internal:{echo}'\n\
             check = 'tcp'\n\
             [route.php]\n\
             listen = 'unix:{socket}'\n\
             protocol = 'fastcgi'\n\
             access-log = '{log}'\n\
             per-endpoint-max = 2\n\
             backend = 'app.internal:{php}'\n",
            dir = dir.display(),
            group = if is_root() {
                NOBODY
            } else {
                common::sys::own_uid()
            },
            names = names.address,
            raw = raw.display(),
            echo = echo.port(),
            socket = builder.socket().display(),
            log = log.display(),
            php = php.port(),
        );
        let strace = program(&["/usr/bin/strace"]);
        let strace = [strace.to_str().unwrap()];
        let through = [&strace[..], &TRACING[..], &[file.to_str().unwrap()]].concat();
        let mut proxy = builder
            .config(&config)
            .through(through.iter().copied())
            .start();
        exchange_and_end(&connect(&raw).unwrap(), Pattern::new(1), 8 * MB);
        let client = Client::connect(&proxy);
        assert!(
            client
                .ask(&Request::get("/a.php"))
                .text()
                .contains("/a.php")
        );
        drop(client);
        eventually("the request has its line", || {
            fs::read_to_string(&log).is_ok_and(|text| text.ends_with('\n'))
        });
        fs::rename(&log, dir.join("rotated")).unwrap();
        proxy.process().signal(libc::SIGUSR1);
        eventually("the log is opened anew", || log.exists());
        assert_eq!(proxy.status()["routes"].as_array().unwrap().len(), 2);
        assert!(proxy.scrape().0.contains("spliceway_build_info"));
        if is_root() {
            start_a_successor(&proxy);
        }
        let pid = proxy.process().pid();
        proxy.terminate();
        assert_eq!(proxy.wait().code(), Some(0));
        Self::read(&file, pid)
    }

    /// Waits until strace has written all of it.
    fn read(file: &Path, pid: u32) -> Self {
        let read = || fs::read_to_string(file).unwrap_or_default();
        // Short numbers are followed by more than one space.
        let pid = pid.to_string();
        let is_last = |line: &str| {
            line.split_whitespace()
                .eq([&*pid, "+++", "exited", "with", "0", "+++"])
        };
        eventually("the trace is whole", || read().lines().any(is_last));
        Self::parse(&read())
    }

    /// But for these, the unit allows all of it.
    #[track_caller]
    fn assert_allowed_by(&self, unit: &Unit, but_for: &[&str]) {
        let denied: Vec<_> = self
            .calls
            .difference(&unit.allowed_calls())
            .cloned()
            .collect();
        assert_eq!(denied, but_for, "{}", unit.name);
        let families = unit.last("RestrictAddressFamilies").split(' ');
        let families: BTreeSet<_> = families.map(str::to_owned).collect();
        assert!(self.families.is_subset(&families), "{:?}", self.families);
        assert_eq!(unit.last("MemoryDenyWriteExecute"), "yes");
        assert_eq!(self.executable_and_writable, Vec::<String>::new());
    }

    /// Lines are `PID CALL(ARGUMENTS) = RESULT`, or what became of a signal or a process.
    fn parse(text: &str) -> Self {
        let mut trace = Self::default();
        for line in text.lines() {
            let (_, rest) = line.split_once(' ').unwrap();
            let Some((call, arguments)) = rest.trim_start().split_once('(') else {
                continue;
            };
            if !call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                continue;
            }
            trace.calls.insert(call.to_owned());
            if matches!(call, "socket" | "socketpair") {
                let family = arguments.split(',').next().unwrap();
                trace.families.insert(family.to_owned());
            }
            let executable = arguments.contains("PROT_EXEC");
            let writable = arguments.contains("PROT_WRITE") || call != "mmap";
            if executable && writable {
                trace.executable_and_writable.push(line.to_owned());
            }
        }
        trace
    }
}

#[test]
fn a_trace_is_understood() {
    let text = "7 execve(\"/x\", [\"x\"], 0x7 /* 3 vars */) = 0\n\
        7 mmap(NULL, 1, PROT_READ|PROT_EXEC, MAP_PRIVATE, 3, 0) = 0x1\n\
        12 mmap(NULL, 1, PROT_READ|PROT_WRITE|PROT_EXEC, MAP_PRIVATE, 3, 0) = 0x1\n\
        12 mprotect(0x1, 1, PROT_READ|PROT_EXEC) = 0\n\
        7 socket(AF_UNIX, SOCK_STREAM, 0 <unfinished ...>\n\
        7 <... socket resumed>)             = 3\n\
        7 --- SIGTERM {si_signo=SIGTERM, si_code=SI_USER} ---\n\
        7 +++ exited with 0 +++\n";
    let trace = Trace::parse(text);
    let calls: Vec<_> = trace.calls.iter().map(String::as_str).collect();
    assert_eq!(calls, ["execve", "mmap", "mprotect", "socket"]);
    assert_eq!(trace.families.len(), 1);
    assert_eq!(trace.executable_and_writable.len(), 2);
}

// --- the readme, followed ---------------------------------------------------------------------------

/// The user that systemd would make for the instance.
const DYNAMIC_USER: u32 = 61234;

fn who_follows_the_readme_has_nginx_in_front_of_php_fpm(engine: Engine) {
    if lacks_root() {
        return;
    }
    let host = Host::new(engine);
    let steps = shell_blocks(&readme(), "## nginx in front of PHP-FPM, step by step");
    let (look, install) = steps.split_last().unwrap();
    host.run(&install.concat());
    host.say("OPTIONS=", &format!(" --engine {engine}"));
    let asked = fs::read_to_string(host.path("asked")).unwrap();
    let enable = "enable --now spliceway@fastcgi.socket";
    assert_eq!(asked, format!("daemon-reload\n{enable}\n"));
    host.assert_enabled("spliceway@fastcgi.socket", "sockets.target.wants");

    let address = host.address();
    let fpm = start_fpm(host.dir.path(), &address);
    let instance = Instance::start(&host);
    assert!(
        !instance.process.log().lines().is_empty(),
        "the socket is there before the daemon"
    );
    let site = Site::start(&host);
    for number in 0..3 * FPM_WORKERS {
        let response = site.get(&format!("/greet.php?name={number}"));
        assert_eq!(response.text(), format!("hello, {number}\n"));
    }
    instance.wait_until_ready();

    let stranger = as_user(NOBODY, NOBODY, || UnixStream::connect(host.socket()));
    assert_eq!(stranger.unwrap_err().kind(), ErrorKind::PermissionDenied);
    let seen = host.run(look);
    assert!(seen.contains("fastcgi.sock"), "{seen}");
    assert!(seen.contains(&format!("{engine}")), "{seen}");
    assert!(seen.contains(&format!("{}:9000", address.0)), "{seen}");

    let mut instance = instance;
    instance.process.signal(libc::SIGTERM);
    assert_eq!(instance.process.wait().code(), Some(0));
    assert!(host.socket().exists(), "the socket is systemd's");
    let trace = Trace::read(&instance.trace, instance.process.pid());
    trace.assert_allowed_by(&Unit::load(&host.units(), "spliceway@fastcgi.service"), &[]);
    drop(fpm);
}

fn who_follows_the_readme_has_a_daemon_whose_sockets_are_for_a_group(engine: Engine) {
    if lacks_root() {
        return;
    }
    let host = Host::new(engine);
    let echo = Backend::echo();
    let socket = host.path("run/spliceway/app.sock");
    let config = format!(
        "engine = '{engine}'\n\
         [route.app]\n\
         listen = 'unix:{}'\n\
         group = '{WEB_USER}'\n\
         backend = '127.0.0.1:{}'\n",
        socket.display(),
        echo.port(),
    );
    fs::create_dir(host.path("etc/spliceway")).unwrap();
    fs::write(host.path("etc/spliceway/spliceway.toml"), config).unwrap();
    run(Command::new("cp")
        .arg(BINARY)
        .arg(host.path("usr/bin/spliceway")));
    let blocks = shell_blocks(&readme(), "## One daemon for all routes");
    // In /run, where it is not here, the check knows that systemd makes it.
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let checked = host.run(&blocks[0]);
    assert!(checked.contains("[route.app]"), "{checked}");
    fs::remove_dir(socket.parent().unwrap()).unwrap();
    let asked = fs::read_to_string(host.path("asked")).unwrap();
    assert_eq!(asked, "daemon-reload\nenable --now spliceway.service\n");
    host.assert_enabled("spliceway.service", "multi-user.target.wants");

    let service = Unit::load(&host.units(), "spliceway.service");
    let user = host.user_id(service.last("User"));
    let runtime = host.path("run").join(service.last("RuntimeDirectory"));
    make_dir(&runtime, service.last("RuntimeDirectoryMode"), user);
    let web = group_id(WEB_USER);
    let trace = runtime.join("trace");
    let line = service.last("ExecStart");
    let line = line.replace(" /etc/", &format!(" {}/etc/", host.dir.path().display()));
    let mut command = unprivileged(user, &format!("--groups={web}"), &trace);
    command
        .arg(host.path("usr/bin/spliceway"))
        .args(line.split(' ').skip(1))
        .stdin(Stdio::null());
    let mut process = start_server(command);
    process.wait_for_log("ready");

    let seen = fs::metadata(&socket).unwrap();
    let seen = (seen.uid(), seen.gid(), seen.mode() & 0o777);
    assert_eq!(seen, (user, web, 0o660));
    let client = as_user(NOBODY, web, || connect(&socket)).unwrap();
    exchange_and_end(&client, Pattern::new(2), MB);
    let stranger = as_user(NOBODY, NOBODY, || UnixStream::connect(&socket));
    assert_eq!(stranger.unwrap_err().kind(), ErrorKind::PermissionDenied);

    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
    assert!(!socket.exists(), "the socket is the daemon's own");
    Trace::read(&trace, process.pid()).assert_allowed_by(&service, &[]);
}

/// Both lines of the readme's change, the old one and the new one.
#[test]
fn what_becomes_of_systemd_socket_proxyds_line_relays_as_it_did() {
    let change = block(&readme(), "```diff");
    let lines: Vec<_> = change.lines().collect();
    assert_eq!(lines.len(), 2, "{change}");
    for (line, sign) in lines.into_iter().zip(["-", "+"]) {
        let command = line.strip_prefix(sign).unwrap();
        let command = command.strip_prefix("ExecStart=").unwrap();
        let echo = Backend::echo();
        let command = command.replace("/usr/bin/spliceway", BINARY);
        let command = command.replace("php.internal:9000", &echo.address().to_string());
        let dir = fresh_dir();
        let socket = dir.path().join("socket");
        let mut activate = Command::new(program(&["/usr/bin/systemd-socket-activate"]));
        activate
            .arg(format!("--listen={}", socket.display()))
            .args(command.split(' '));
        let process = start_server(activate);
        process.wait_for_log("Listening on");
        exchange_and_end(&connect(&socket).unwrap(), Pattern::new(3), MB);
        assert_eq!(echo.ledger().accepted, 1, "{command}");
    }
}

/// A command that goes on as another user without any privileges, under strace.
fn unprivileged(user: u32, groups: &str, trace: &Path) -> Command {
    let mut command = Command::new(program(&["/usr/bin/setpriv"]));
    command
        .args([groups, "--no-new-privs", "--bounding-set=-all"])
        .arg(format!("--reuid={user}"))
        .arg(format!("--regid={user}"))
        .arg(program(&["/usr/bin/strace"]))
        .args(TRACING)
        .arg(trace);
    command
}

/// The part of a machine that the readme's commands change, in a directory.
struct Host {
    dir: TempDir,
    engine: Engine,
}

impl Host {
    fn new(engine: Engine) -> Self {
        let dir = fresh_dir();
        for part in ["etc/systemd/system", "usr/bin", "usr/lib/sysusers.d", "run"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        Self { dir, engine }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn units(&self) -> PathBuf {
        self.path("etc/systemd/system")
    }

    fn socket(&self) -> PathBuf {
        self.path("run/spliceway-sockets/fastcgi.sock")
    }

    /// Where `php.internal` is: the port is the readme's, the address this process's and engine's.
    fn address(&self) -> (String, u16) {
        let (host, _) = fresh_endpoint();
        let mut parts: Vec<u8> = host.split('.').map(|part| part.parse().unwrap()).collect();
        parts[1] |= match self.engine {
            Engine::IoUring => 0,
            Engine::Epoll => 128,
        };
        let parts: Vec<_> = parts.iter().map(u8::to_string).collect();
        (parts.join("."), 9000)
    }

    /// Runs commands of the readme, with this directory for the machine. There is nobody to ask for
    /// other rights, and nobody who minds units.
    fn run(&self, commands: &str) -> String {
        const STAND_INS: &str = r#"
            set -eu
            sudo() { "$@"; }
            sudoedit() { :; }
            systemd-sysusers() { command systemd-sysusers --root="$ROOT" "$@"; }
            cargo() { :; }
            journalctl() { :; }
            systemctl() { [ "$1" = status ] || echo "$*" >>"$ROOT/asked"; }
            spliceway() { "$ROOT/usr/bin/spliceway" "$@"; }
        "#;
        let mut here = commands.replace("target/release/spliceway", BINARY);
        for part in ["/etc/", "/usr/bin/", "/usr/lib/", "/run/"] {
            here = here.replace(&format!(" {part}"), &format!(" \"$ROOT\"{part}"));
        }
        run(Command::new("/bin/bash")
            .arg("-c")
            .arg(format!("{STAND_INS}\n{here}"))
            .env("ROOT", self.dir.path())
            .current_dir(env!("CARGO_MANIFEST_DIR")))
    }

    fn user_id(&self, name: &str) -> u32 {
        let users = fs::read_to_string(self.path("etc/passwd")).unwrap();
        id_of(&users, name)
    }

    /// Adds to a line of the instance's settings.
    fn say(&self, key: &str, more: &str) {
        let file = self.path("etc/spliceway/fastcgi.env");
        let text = fs::read_to_string(&file).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        let text = text.replace(line, &format!("{line}{more}"));
        let www = self.path("www").display().to_string();
        let text = text.replace("/srv/app/public", &www);
        fs::write(&file, text).unwrap();
    }

    /// What the last of the commands comes to, without a systemd that acts on it.
    fn assert_enabled(&self, unit: &str, by: &str) {
        run(Command::new(program(&["/usr/bin/systemctl"]))
            .arg(format!("--root={}", self.dir.path().display()))
            .args(["enable", unit]));
        let link = self.units().join(by).join(unit);
        assert!(link.is_symlink(), "{}", link.display());
    }
}

/// A socket and a service as systemd would have made them of their units.
struct Instance {
    process: Process,
    notices: UnixDatagram,
    trace: PathBuf,
}

impl Instance {
    fn start(host: &Host) -> Self {
        let socket = Unit::load(&host.units(), "spliceway@fastcgi.socket");
        let service = Unit::load(&host.units(), "spliceway@fastcgi.service");
        let path = host.socket();
        assert_eq!(socket.last("ListenStream"), "%t/spliceway-sockets/%i.sock");
        make_dir(path.parent().unwrap(), socket.last("DirectoryMode"), 0);
        assert_eq!(service.last("RuntimeDirectory"), "spliceway@%i");
        let runtime = host.path("run/spliceway@fastcgi");
        make_dir(&runtime, service.last("RuntimeDirectoryMode"), DYNAMIC_USER);
        let notify = host.path("notify");
        let notices = UnixDatagram::bind(&notify).unwrap();
        notices.set_read_timeout(Some(GUARD)).unwrap();
        fs::set_permissions(&notify, Permissions::from_mode(0o777)).unwrap();
        let hosts = host.path("hosts");
        fs::write(&hosts, format!("{} php.internal\n", host.address().0)).unwrap();

        let as_user = unprivileged(DYNAMIC_USER, "--clear-groups", &runtime.join("trace"));
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(r#"mount --bind "$0" /etc/hosts && exec "$@""#)
            .arg(hosts)
            .arg(program(&["/usr/bin/systemd-socket-activate"]))
            .arg(format!("--listen={}", path.display()))
            .arg(format!(
                "--fdname={}",
                socket.last("FileDescriptorName").replace("%i", "fastcgi")
            ))
            .arg(format!("--setenv=NOTIFY_SOCKET={}", notify.display()))
            .arg(format!(
                "--setenv=WATCHDOG_USEC={}",
                seconds(service.last("WatchdogSec")) * 1_000_000
            ))
            .arg(as_user.get_program())
            .args(as_user.get_args())
            .args(service.command_line(host))
            .stdin(Stdio::null());
        let process = start_server(command);
        process.wait_for_log("Listening on");
        let mode = u32::from_str_radix(socket.last("SocketMode"), 8).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(socket.last("SocketUser"), "root");
        chown(&path, Some(0), Some(group_id(socket.last("SocketGroup")))).unwrap();
        Self {
            process,
            notices,
            trace: runtime.join("trace"),
        }
    }

    /// `Type=notify`.
    fn wait_until_ready(&self) {
        let mut notice = [0; 4096];
        loop {
            let length = self.notices.recv(&mut notice).expect("READY=1 comes");
            let text = String::from_utf8_lossy(&notice[..length]);
            if text.lines().any(|line| line == "READY=1") {
                return;
            }
        }
    }
}

fn seconds(time: &str) -> u64 {
    time.strip_suffix('s').unwrap().parse().unwrap()
}

fn make_dir(path: &Path, mode: &str, owner: u32) {
    fs::create_dir(path).unwrap();
    let mode = u32::from_str_radix(mode, 8).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
}

fn group_id(name: &str) -> u32 {
    id_of(&fs::read_to_string("/etc/group").unwrap(), name)
}

/// The number of a user or group in a file of them.
fn id_of(text: &str, name: &str) -> u32 {
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name}"));
    line.split(':').nth(2).unwrap().parse().unwrap()
}

/// nginx with the readme's location.
struct Site {
    front: PathBuf,
    _nginx: Process,
}

impl Site {
    fn start(host: &Host) -> Self {
        let dir = host.dir.path();
        let www = host.path("www");
        fs::create_dir(&www).unwrap();
        fs::write(
            www.join("greet.php"),
            "<?php echo \"hello, {$_GET['name']}\\n\";",
        )
        .unwrap();
        fs::copy("/etc/nginx/fastcgi_params", host.path("fastcgi_params")).unwrap();
        let location = block(&readme(), "```nginx");
        let location = location.replace("/srv/app/public", &www.display().to_string());
        let run = format!("unix:{}/run/", dir.display());
        let location = location.replace("unix:/run/", &run);
        let front = host.path("http.sock");
        let config = format!(
            "http {{
                access_log off;
                client_body_temp_path {dir}/body;
                fastcgi_temp_path {dir}/fastcgi;
                proxy_temp_path {dir}/proxy;
                uwsgi_temp_path {dir}/uwsgi;
                scgi_temp_path {dir}/scgi;
                server {{ listen unix:{front}; root {www}; {location} }}
            }}",
            dir = dir.display(),
            front = front.display(),
            www = www.display(),
        );
        let nginx = start_nginx(dir, &config, &front);
        Self {
            front,
            _nginx: nginx,
        }
    }

    fn get(&self, target: &str) -> Response {
        Response::to(&self.front, "GET", target, &[])
    }
}

// --- reading units and the readme -------------------------------------------------------------------

/// A unit file with its drop-ins: what systemd would read, in its order.
struct Unit {
    name: String,
    entries: Vec<(String, String)>,
}

impl Unit {
    /// An instance `a@b.c` is read from `a@.c` and from the drop-ins in `a@b.c.d`.
    fn load(dir: &Path, name: &str) -> Self {
        let mut files = vec![dir.join(name)];
        if let Some((template, rest)) = name.split_once('@') {
            let (_, kind) = rest.rsplit_once('.').unwrap();
            files = vec![dir.join(format!("{template}@.{kind}"))];
        }
        if let Ok(drop_ins) = fs::read_dir(dir.join(format!("{name}.d"))) {
            files.extend(drop_ins.map(|entry| entry.unwrap().path()));
        }
        let mut entries = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
            let pairs = lines.filter_map(|line| line.split_once('='));
            entries.extend(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        Self {
            name: name.to_owned(),
            entries,
        }
    }

    fn all(&self, key: &str) -> Vec<&str> {
        let fits = self.entries.iter().filter(|(name, _)| name == key);
        fits.map(|(_, value)| &**value).collect()
    }

    /// The value that counts of a setting that has one.
    #[track_caller]
    fn last(&self, key: &str) -> &str {
        let last = self.all(key).pop();
        last.unwrap_or_else(|| panic!("{}: no {key}", self.name))
    }

    /// What SystemCallFilter= comes to: the first line makes it a list of what is allowed, further ones
    /// add, or with `~` take away.
    fn allowed_calls(&self) -> BTreeSet<String> {
        let mut allowed = calls_of("@default");
        for line in self.all("SystemCallFilter") {
            let (words, adds) = match line.strip_prefix('~') {
                Some(words) => (words, false),
                None => (line, true),
            };
            for call in words.split(' ').flat_map(calls_of) {
                if adds {
                    allowed.insert(call);
                } else {
                    allowed.remove(&call);
                }
            }
        }
        allowed
    }

    /// ExecStart= with everything in its place.
    fn command_line(&self, host: &Host) -> Vec<String> {
        let environment = self.environment(host);
        let run = host.path("run").display().to_string();
        let program = host.path("usr/bin/spliceway").display().to_string();
        let line = self
            .last("ExecStart")
            .replace("/usr/bin/spliceway", &program);
        let line = line.replace("%t", &run).replace("%i", "fastcgi");
        let value = |name: &str| environment[name].clone();
        let words = line.split(' ').flat_map(|word| {
            if let Some(name) = word.strip_prefix("${") {
                return vec![value(name.strip_suffix('}').unwrap())];
            }
            match word.strip_prefix('$') {
                Some(name) => value(name).split(' ').map(str::to_owned).collect(),
                None => vec![word.to_owned()],
            }
        });
        words.collect()
    }

    /// Environment=, and what is in EnvironmentFile= instead.
    fn environment(&self, host: &Host) -> BTreeMap<String, String> {
        let named = |pair: &str| {
            let (name, value) = pair.trim_matches('"').split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let mut all: BTreeMap<_, _> = self.all("Environment").into_iter().map(named).collect();
        let file = self.last("EnvironmentFile").replace("%i", "fastcgi");
        let file = host.path(file.strip_prefix("-/").unwrap());
        all.extend(fs::read_to_string(file).unwrap().lines().map(named));
        all
    }
}

/// The calls of a group, or the call of that name.
fn calls_of(word: &str) -> BTreeSet<String> {
    if !word.starts_with('@') {
        return BTreeSet::from([word.to_owned()]);
    }
    let said = run(analyze().args(["syscall-filter", "--no-pager", word]));
    let words = said.lines().skip(1).map(str::trim);
    let words = words.filter(|word| !word.is_empty() && !word.starts_with('#'));
    words.flat_map(calls_of).collect()
}

fn source() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd"))
}

fn readme() -> String {
    fs::read_to_string(source().join("README.md")).unwrap()
}

/// The commands of each block under a heading, up to the next one.
fn shell_blocks(text: &str, heading: &str) -> Vec<String> {
    let (_, section) = text.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let starts = section.match_indices("```sh\n");
    starts
        .map(|(start, _)| block(&section[start..], "```sh"))
        .collect()
}

/// The first block of a kind, without the indentation of a list.
fn block(text: &str, fence: &str) -> String {
    let (_, rest) = text.split_once(&format!("{fence}\n")).unwrap();
    let lines = rest.lines().take_while(|line| line.trim() != "```");
    let bare = lines.map(|line| line.strip_prefix("   ").unwrap_or(line));
    bare.map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
